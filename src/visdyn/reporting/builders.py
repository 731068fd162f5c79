"""Which function makes which table and figure of the map of items."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from visdyn.reporting import names, published, roster, summaries
from visdyn.reporting.figures import bootstrapping_figures as figures_bootstrapping
from visdyn.reporting.figures import doundo_figures as figures_doundo
from visdyn.reporting.figures import figure_parts as figures_shared
from visdyn.reporting.figures import recorded_figures as figures_recorded
from visdyn.reporting.figures import schematic as figures_schematic
from visdyn.reporting.results import ResultError, Results
from visdyn.reporting.tables import best_of_k, segments
from visdyn.reporting.tables import bootstrapping_tables as tables_bootstrapping
from visdyn.reporting.tables import doundo_tables as tables_doundo
from visdyn.reporting.tables import human_tables as tables_human
from visdyn.reporting.tables import leaderboard_table as leaderboard
from visdyn.reporting.tables import recorded_tables as tables_recorded
from visdyn.reporting.tables import spatial_tables as tables_spatial

TableBuilder = Callable[[Results, pd.DataFrame | None, str], pd.DataFrame]
FigureBuilder = Callable[[Results], Figure]


def keyframe_table(keyframes: pd.DataFrame, motion: str = "") -> pd.DataFrame:
    """Return dataset, mode, videos, key-frames and pairs per video, clean pairs (%) for each reading of the rule.

    Args:
        motion: the optical flow that the rules went by, named in the head of the modes where it is not the kit's own.
    """
    frame = keyframes.assign(dataset=keyframes["dataset"].map(names.dataset))
    grouped = frame.groupby(["dataset", "mode"], sort=False)
    sums = grouped[["num_keyframes", "num_pairs", "num_clean_pairs"]].sum()
    videos = grouped.size()
    return pd.DataFrame(
        {
            "videos": videos,
            "key-frames per video": sums["num_keyframes"] / videos,
            "pairs per video": sums["num_pairs"] / videos,
            "clean pairs (%)": 100 * sums["num_clean_pairs"] / sums["num_pairs"].where(sums["num_pairs"] > 0),
        }
    ).reset_index(names=["dataset", f"mode, by {motion}" if motion else "mode"])


def _rename_arms(frame: pd.DataFrame | None) -> pd.DataFrame | None:
    return frame if frame is None or "arm" not in frame else frame.assign(arm=frame["arm"].map(names.fdm_system))


# Measures of base_measures/ in words.
MEASURES = {
    "image_to_text_at_1_of_50": "an image finds its caption among 50",
    "text_to_image_at_1_of_50": "a caption finds its image among 50",
    "cosine_after_action": "cosine of images before and after an action",
    "cosine_same_state": "cosine of two images of one state",
    "nearest_is_same_state": "the nearest image is of the same state",
    "ordered": "the same state is closer than the state after an action",
    "ceiling_editing_success": "editing success of the decoded target (0 to 10)",
    "ceiling_minimal_editing": "minimal editing of the decoded target (0 to 10)",
    "ceiling_score": "score of the decoded target (0 to 10)",
    "ceiling_success": "the decoded target's nearest state is the target",
    "codes_changed_inside": "codes that change where the image does",
    "codes_changed_outside": "codes that change elsewhere",
    "codes_used": "different codes that are used",
    "l1": "L1 of the decoded image",
}


def _name_measures(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(measure=table["measure"].replace(MEASURES))


# How a loss is written, by the arm's weighting: two losses whose numbers cannot be compared.
LOSSES = {"uniform": "loss, all tokens alike\n(nats a token)"}
LOSSES |= dict.fromkeys(("recognition", "permuted"), "loss, weighted by Eq. 2\n(nats a token)")
# What Do-Undo's training minimises and its part; both are means over elements, in the latents' own scale.
DOUNDO_LOSSES = {"loss": "training loss, (c): with consistency\n(squared error of the velocity)",
                 "consistency": "consistency loss, Eq. 1\n(absolute error of the image undone)"}  # fmt: skip


def _draw_fdm_training(results: Results) -> Figure:
    training, arms = results.read("fdm/training.csv"), results.read_or_none("fdm/arms.csv")
    if arms is None:
        return figures_shared.training_curves(training, "arm")
    weighting = training["arm"].map(arms.drop_duplicates("arm").set_index("arm")["weighting"])
    heads = weighting.map(LOSSES).fillna("loss")
    own = {head: training["loss"].where(heads == head) for head in dict.fromkeys(heads)}
    return figures_shared.training_curves(training.assign(**own), "arm", tuple(own))


TABLES: dict[str, TableBuilder] = {
    "b_figure2": tables_bootstrapping.figure2,
    "b_figure8": tables_bootstrapping.figure8,
    "b_algorithm1": tables_bootstrapping.algorithm1,
    "b_table1": tables_bootstrapping.table1,
    "b_table2": tables_bootstrapping.table2,
    "b_table3": tables_bootstrapping.table3,
    "b_table4": tables_bootstrapping.table4,
    "b_table5": tables_human.table5,
    "b_table6": tables_bootstrapping.table6,
    "b_table7": tables_bootstrapping.table7,
    "r_summary": lambda results, _, status: tables_recorded.summary(results),
    "r_table2": tables_recorded.printed_table("b_table2"),
    "r_table3": tables_recorded.printed_table("b_table3"),
    "r_table4": tables_recorded.printed_table("b_table4"),
    "r_table6": tables_recorded.printed_table("b_table6"),
    "r_pairs": lambda results, _, status: tables_recorded.pairs(results),
    "r_gains": lambda results, _, status: tables_recorded.gains(results),
    "r_passes": lambda results, _, status: tables_recorded.passes(results),
    "r_averages": lambda results, _, status: tables_recorded.averages(results),
    "r_replies": lambda results, _, status: tables_recorded.replies(results),
    "r_identity": lambda results, _, status: tables_recorded.identity(results),
    "d_figure3": segments.figure3,
    "d_figure4": segments.figure4,
    "d_table1": tables_doundo.table1,
    "d_table2": tables_doundo.table2,
    "d_table3": tables_doundo.table3,
    "d_table4": tables_doundo.table4,
    "d_table5": tables_doundo.table5,
    "d_table6": tables_doundo.table6,
    "d_table7": tables_human.table7,
    "d_page": tables_doundo.page,
    "k_crop": lambda results, numbers, status: tables_bootstrapping.crop_table(results, numbers),
    "k_spatial": lambda results, _, status: tables_spatial.accuracy_table(results),
    "k_people": lambda results, _, status: tables_human.participation(results),
    "k_leaderboard": lambda results, _, status: leaderboard.table(results),
    "k_robust": lambda results, _, status: leaderboard.robust(results),
    "k_judges": lambda results, _, status: leaderboard.judges(results),
    "k_measures": lambda results, _, status: leaderboard.measures(results),
    "k_fdm_training": lambda results, _, status: _rename_arms(results.read_or_none("fdm/arms.csv")),
    "k_best_of": best_of_k.table,
    "k_keyframes": lambda results, _, status: keyframe_table(
        results.read("mining/keyframes.csv"), results.setting.motion
    ),
    "k_encoders": lambda results, _, status: _name_measures(results.read("base_measures/encoders.csv")),
    "k_tokenizer": lambda results, _, status: _name_measures(results.read("base_measures/tokenizer.csv")),
}


def _draw_verification(results: Results) -> Figure:
    curves, lines = best_of_k.judge_curves(results), best_of_k.other_levels(results)
    return figures_bootstrapping.verification_curves(curves, lines)


def _draw_preferences(results: Results) -> Figure:
    rates = summaries.preference_rates(results.read("probing/likelihoods.csv"))
    printed = published.load("b_figure2")["column"]
    named = [roster.printed(model, "B", printed, model) for model in rates["model"]]
    return figures_bootstrapping.preference_heatmaps(rates.assign(model=named))


def _draw_judges(results: Results) -> Figure:
    judges = {judge.panel or "GPT-4o": judge.scores for judge in tables_bootstrapping.judges(results, "")}
    drawn = {
        judge: scores for judge, scores in judges.items() if scores["system"].isin(figures_bootstrapping.LOSSES).any()
    }
    if not drawn:
        raise ResultError("no judge has scores of C-FDM with either loss; run stage evaluation with these arms")
    return figures_bootstrapping.judge_distributions(drawn)


def _make_scatter(name: str, preferred: str) -> FigureBuilder:
    """Draw the model named `preferred` where the file has it, else its first."""

    def draw(results: Results) -> Figure:
        pairs = summaries.preference_pairs(results.read(name))
        model = preferred if preferred in set(pairs["model"]) else None
        return figures_bootstrapping.likelihood_scatter(pairs, model)

    return draw


def _make_strips(name: str) -> FigureBuilder:
    return lambda results: figures_shared.image_strips(results.arrays(f"{name}.npz"))


def _make_segments_plot(plot: Callable[..., Figure]) -> FigureBuilder:
    def draw(results: Results) -> Figure:
        splits = segments.of_split(results, "train")
        return plot(pd.concat(splits), *[split["source"].iloc[0] for split in splits])

    return draw


def _benchmark_set(results: Results) -> Figure:
    splits, prompts = segments.of_split(results, "test"), results.read("mining/prompts.csv")
    return figures_doundo.benchmark_set(pd.concat(splits), prompts, [split["source"].iloc[0] for split in splits])


# Item -> the images (`data/generated/<name>.npz`) that it shows in rows.
GALLERIES = {
    "b_figure5": "evaluation/sequence",
    "b_figure6": "evaluation/fdm_examples",
    "d_figure6": "evaluation_doundo/doundo_examples",
    "d_figure8": "evaluation_doundo/doundo_rare",
    "d_figure11": "evaluation_doundo/doundo_judged",
    "d_figure12": "evaluation_doundo/doundo_metrics",
    "d_figure13": "evaluation_doundo/doundo_unseen",
    "d_figure14": "evaluation_doundo/doundo_more",
}

FIGURES: dict[str, FigureBuilder] = {
    **{item: _make_strips(name) for item, name in GALLERIES.items()},
    "b_figure2": _draw_preferences,
    "b_figure3": lambda results: figures_bootstrapping.recognition_weights(
        results.arrays("evaluation/recognition_weights.npz")
    ),
    "b_figure4": _draw_verification,
    "b_figure7": _make_scatter("probing/likelihoods.csv", "chameleon-7b"),
    "b_figure8": _make_scatter("idm_evaluation/likelihoods.csv", "idm"),
    "b_figure9": lambda results: figures_bootstrapping.score_distributions(results.read("annotation/pairs.csv")),
    "b_figure11": _draw_judges,
    "r_figure11": lambda results: figures_recorded.draw_figure11(results.read("recorded/histograms.csv")),
    "r_pairs": lambda results: figures_recorded.paired_differences(results.read("recorded/paired.csv")),
    "d_figure3": _make_segments_plot(figures_doundo.action_counts),
    "d_figure4": _benchmark_set,
    "d_figure7": lambda results: figures_doundo.action_bars(results.read("evaluation_doundo/doundo_scores.csv")),
    "d_figure10": _make_segments_plot(figures_doundo.verb_noun_heatmap),
    "k_fdm_training": _draw_fdm_training,
    "k_doundo_training": lambda results: figures_shared.training_curves(
        results.read("doundo/training.csv").rename(columns=DOUNDO_LOSSES), "variant", tuple(DOUNDO_LOSSES.values())
    ),
    "k_best_of": lambda results: figures_bootstrapping.verification_metrics(
        best_of_k.metric_curves(results, best_of_k.DRAWN_METRICS)
    ),
    "k_keyframes": lambda results: figures_shared.keyframe_modes(results.read("mining/keyframes.csv")),
}


# What is drawn for an illustration of a paper, whose status stays `not run`: it holds no measurement.
SCHEMATICS: dict[str, Callable[[], Figure]] = {
    "b_figure1": figures_schematic.bootstrapping,
    "d_figure2": figures_schematic.curation,
    "d_figure5": figures_schematic.architecture,
}
