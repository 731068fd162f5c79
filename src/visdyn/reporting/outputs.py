"""Which function makes which table and figure of the map, and the call that makes them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from visdyn.reporting import (
    figures_bootstrapping,
    figures_doundo,
    figures_schematic,
    figures_shared,
    names,
    provenance,
    published,
    segments,
    style,
    summaries,
    tables,
    tables_bootstrapping,
    tables_doundo,
)
from visdyn.reporting.items import Item, ItemMap
from visdyn.reporting.results import ResultError, Results

TableBuilder = Callable[[Results, pd.DataFrame | None, str], pd.DataFrame]
FigureBuilder = Callable[[Results], Figure]


@dataclass
class Outcome:
    """What became of one item.

    Attributes:
        item: the item.
        status: one of `items.STATUSES`; `not run` where results are missing.
        reason: why it was not run, or "".
        table: the comparison or plain frame, None where there is none.
        files: what was written.
        n, seeds: range of items a cell and of seeds, as text, "" where unknown.
        reproduced: number of cells that are reproduced on the same data.
    """

    item: Item
    status: str
    reason: str = ""
    table: pd.DataFrame | None = None
    files: list[Path] = field(default_factory=list)
    n: str = ""
    seeds: str = ""
    reproduced: int = 0


TABLES: dict[str, TableBuilder] = {
    "b_figure2": tables_bootstrapping.figure2,
    "b_figure8": tables_bootstrapping.figure8,
    "b_algorithm1": tables_bootstrapping.algorithm1,
    "b_table1": tables_bootstrapping.table1,
    "b_table2": tables_bootstrapping.table2,
    "b_table3": tables_bootstrapping.table3,
    "b_table4": tables_bootstrapping.table4,
    "b_table6": tables_bootstrapping.table6,
    "b_table7": tables_bootstrapping.table7,
    "d_figure3": segments.figure3,
    "d_figure4": segments.figure4,
    "d_table1": tables_doundo.table1,
    "d_table2": tables_doundo.table2,
    "d_table3": tables_doundo.table3,
    "d_table4": tables_doundo.table4,
    "d_table5": tables_doundo.table5,
    "d_table6": tables_doundo.table6,
    "k_fdm_training": lambda results, _, status: _plain(results.read_or_none("fdm/arms.csv")),
    "k_keyframes": lambda results, _, status: keyframe_table(results.read("mining/keyframes.csv")),
    "k_encoders": lambda results, _, status: results.read("base_models/encoders.csv"),
    "k_tokenizer": lambda results, _, status: results.read("base_models/tokenizer.csv"),
}


def _verification(results: Results) -> Figure:
    curves = summaries.verification_curves(results.read("verification/candidates.csv"))
    return figures_bootstrapping.verification_curves(curves, _horizontal_lines(results))


def _scatter(name: str, preferred: str) -> FigureBuilder:
    """Draw the model named `preferred` where the file has it, else its first."""

    def draw(results: Results) -> Figure:
        pairs = summaries.preference_pairs(results.read(name))
        model = preferred if preferred in set(pairs["model"]) else None
        return figures_bootstrapping.likelihood_scatter(pairs, model)

    return draw


def _strip(name: str) -> FigureBuilder:
    return lambda results: figures_shared.image_strips(results.arrays(f"evaluation/{name}.npz"))


def _segments(plot: Callable[..., Figure]) -> FigureBuilder:
    def draw(results: Results) -> Figure:
        splits = segments.of_split(results, "train")
        return plot(pd.concat(splits), *[split["source"].iloc[0] for split in splits])

    return draw


def _benchmark_set(results: Results) -> Figure:
    splits, prompts = segments.of_split(results, "test"), results.read("mining/prompts.csv")
    return figures_doundo.benchmark_set(pd.concat(splits), prompts, [split["source"].iloc[0] for split in splits])


FIGURES: dict[str, FigureBuilder] = {
    "b_figure2": lambda results: figures_bootstrapping.preference_heatmaps(
        summaries.preference_rates(results.read("probing/likelihoods.csv"))
    ),
    "b_figure3": lambda results: figures_bootstrapping.recognition_weights(
        results.arrays("evaluation/recognition_weights.npz")
    ),
    "b_figure4": _verification,
    "b_figure5": _strip("sequence"),
    "b_figure6": _strip("fdm_examples"),
    "b_figure7": _scatter("probing/likelihoods.csv", "chameleon-7b"),
    "b_figure8": _scatter("idm/likelihoods.csv", "idm"),
    "b_figure9": lambda results: figures_bootstrapping.score_distributions(results.read("annotation/pairs.csv")),
    "b_figure11": lambda results: figures_bootstrapping.judge_distributions(results.read("evaluation/fdm_scores.csv")),
    "d_figure3": _segments(figures_doundo.action_counts),
    "d_figure4": _benchmark_set,
    "d_figure6": _strip("doundo_examples"),
    "d_figure7": lambda results: figures_doundo.action_bars(results.read("evaluation/doundo_scores.csv")),
    "d_figure8": _strip("doundo_rare"),
    "d_figure10": _segments(figures_doundo.verb_noun_heatmap),
    "d_figure11": _strip("doundo_judged"),
    "d_figure12": _strip("doundo_metrics"),
    "d_figure13": _strip("doundo_unseen"),
    "d_figure14": _strip("doundo_more"),
    "k_fdm_training": lambda results: figures_shared.training_curves(results.read("fdm/training.csv"), "arm"),
    "k_doundo_training": lambda results: figures_shared.training_curves(
        results.read("doundo/training.csv"), "variant", ("loss", "consistency")
    ),
    "k_keyframes": lambda results: figures_shared.keyframe_modes(results.read("mining/keyframes.csv")),
}


# What is drawn for an illustration of a paper, whose status stays `not run`: it holds no measurement.
SCHEMATICS: dict[str, Callable[[], Figure]] = {
    "b_figure1": figures_schematic.bootstrapping,
    "d_figure2": figures_schematic.curation,
    "d_figure5": figures_schematic.architecture,
}


def build_item(item: Item, results: Results, reports: Path, repository: Path, strict: bool = False) -> Outcome:
    """Write an item's table and figure; where its results are missing or unfit, say so in the outcome.

    Args:
        strict: raise a builder's error instead of turning it into `not run` with the error as reason.
    """
    numbers = published.load(item.published, repository) if item.published else None
    view = results.view(item.files)
    if problem := item.problem(view):
        return _not_run(item, problem, numbers, reports, results.profile, repository)
    try:
        outcome = Outcome(item, item.status, **_sizes(item, view))
        _write_table(outcome, view, numbers, reports, repository)
        _write_figure(outcome, view, reports, repository)
    except Exception as error:
        if strict and not isinstance(error, ResultError):
            raise
        reason = str(error) if isinstance(error, ResultError) else f"{type(error).__name__}: {error}"
        return _not_run(item, reason, numbers, reports, results.profile, repository)
    return outcome


def build_items(profile: str | Path, item_map: ItemMap, repository: str | Path, strict: bool = False) -> list[Outcome]:
    """Write all tables and figures of a profile into `reports/tables` and `reports/figures`, in the map's order.

    Tables and figures of an earlier run whose item is now not run are removed, so that none is shown as current.
    """
    profile, repository = Path(profile).resolve(), Path(repository).resolve()
    reports = profile / "reports"
    for folder in ("tables", "figures"):
        (reports / folder).mkdir(parents=True, exist_ok=True)
    results = Results(profile, item_map.results, repository=repository)
    outcomes = [build_item(item, results, reports, repository, strict) for item in item_map]
    _remove_stale(outcomes, item_map, reports)
    return outcomes


def status_frame(outcomes: list[Outcome]) -> pd.DataFrame:
    """Return one row an item: id, paper, label, title, stage, status, reproduced (cells), n, seeds, reason, files."""
    rows = [
        {
            "id": outcome.item.id,
            "paper": outcome.item.paper,
            "label": outcome.item.label,
            "title": outcome.item.title,
            "stage": outcome.item.stage,
            "status": outcome.status,
            "reproduced": outcome.reproduced,
            "n": outcome.n,
            "seeds": outcome.seeds,
            "reason": outcome.reason,
            "files": " ".join(path.name for path in outcome.files),
        }
        for outcome in outcomes
    ]
    return pd.DataFrame(rows)


def keyframe_table(keyframes: pd.DataFrame) -> pd.DataFrame:
    """Return dataset, mode, videos, key-frames and pairs per video, clean pairs (%) for each reading of the rule."""
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
    ).reset_index()


def _write_table(
    outcome: Outcome, view: Results, numbers: pd.DataFrame | None, reports: Path, repository: Path
) -> None:
    item = outcome.item
    builder = TABLES.get(item.id) if item.table else None
    frame = builder(view, numbers, item.status) if builder else None
    if frame is None:
        return
    outcome.table = frame
    outcome.files += tables.write(frame, item.table, reports / "tables")
    inputs = [path for path in _inputs(item, view, repository) if path.is_file()]
    hashes = provenance.input_hashes(inputs, view.profile, repository)
    outcome.files.append(provenance.write_sidecar(reports / "tables" / f"{item.table}.json", hashes))
    if "status" in frame.columns and "value" in frame.columns:
        mine = frame[frame["value"].notna()]
        outcome.n, outcome.seeds = _range(mine["n"]) or outcome.n, _range(mine["seeds"]) or outcome.seeds
        outcome.reproduced = int((mine["status"] == "reproduced").sum())
        outcome.status = _worth(frame, item.status)


def _worth(frame: pd.DataFrame, planned: str) -> str:
    """Status of a table: `reproduced` where every cell is, `interpretation` where no cell is of the planned kind."""
    statuses = set(frame["status"])
    if statuses == {"reproduced"}:
        return "reproduced"
    return "interpretation" if planned not in statuses and "interpretation" in statuses else planned


def _write_figure(outcome: Outcome, view: Results, reports: Path, repository: Path) -> None:
    item = outcome.item
    if item.figure:
        inputs = [view.path(name) for name in item.files if view.path(name).is_file()]
        figure = FIGURES[item.id](view)
        outcome.files += style.save(figure, item.figure, reports / "figures", inputs, view.profile, repository)


def _not_run(
    item: Item, reason: str, numbers: pd.DataFrame | None, reports: Path, profile: Path, repository: Path
) -> Outcome:
    """A table of the published values alone, so that the report still shows what is to be reached; or a schematic."""
    outcome = Outcome(item, "not run", reason)
    if item.id in SCHEMATICS:
        outcome.files += style.save(SCHEMATICS[item.id](), item.figure, reports / "figures")
    if item.table and numbers is not None:
        empty = pd.DataFrame(columns=["panel", "row", "column", "value"])
        outcome.table = tables.compare(empty, numbers, "not run")
        outcome.files += tables.write(outcome.table, item.table, reports / "tables")
        path = published.folder(repository) / f"{item.published}.csv"
        hashes = provenance.input_hashes([path], repository)
        outcome.files.append(provenance.write_sidecar(reports / "tables" / f"{item.table}.json", hashes))
    return outcome


def _remove_stale(outcomes: list[Outcome], item_map: ItemMap, reports: Path) -> None:
    current = {path for outcome in outcomes for path in outcome.files}
    for item in item_map:
        ours = [reports / "tables" / f"{item.table}.{suffix}" for suffix in ("csv", "md", "tex", "json") if item.table]
        ours += [reports / "figures" / f"{item.figure}.{suffix}" for suffix in ("png", "pdf", "json") if item.figure]
        for path in set(ours) - current:
            path.unlink(missing_ok=True)


def _inputs(item: Item, view: Results, repository: Path) -> list[Path]:
    inputs = [view.path(name) for name in item.files]
    return [*inputs, published.folder(repository) / f"{item.published}.csv"] if item.published else inputs


def _horizontal_lines(results: Results) -> dict[str, float]:
    """The kitchen's counterpart of Figure 4's lines for other systems: the copy and tokenizer-ceiling scores."""
    scores = results.read_or_none("evaluation/fdm_scores.csv")
    if scores is None:
        return {}
    scores = scores[(scores["metric"] == "score") & scores["system"].isin(["copy", "tokenizer_ceiling"])]
    means = summaries.macro_over_seeds(scores, ["system"])
    return {names.FDM_SYSTEMS[entry.system]: entry.value for entry in means.itertuples()}


def _plain(frame: pd.DataFrame | None) -> pd.DataFrame | None:
    return frame if frame is None or "arm" not in frame else frame.assign(arm=frame["arm"].map(names.fdm_system))


def _sizes(item: Item, view: Results) -> dict[str, str]:
    """n and seeds behind a figure: distinct items (else rows) of its first result, or images of its first .npz."""
    name = next(name for name in item.files if view.path(name).is_file())
    if name.endswith(".npz"):
        return {"n": str(len(next(iter(view.arrays(name).values()))))}
    frame = view.read(name)
    if "source" in frame.columns and "count" in frame.columns:
        return {"n": _range(segments.totals(segments.of_split(view, "train")))}
    keys = [key for key in ("subset", "dataset", "video", "pair", "id") if key in frame.columns]
    count = len(frame[keys].drop_duplicates()) if {"id", "video"} & set(keys) else len(frame)
    return {"n": str(count), "seeds": str(frame["seed"].nunique()) if "seed" in frame.columns else ""}


def _range(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return ""
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"
