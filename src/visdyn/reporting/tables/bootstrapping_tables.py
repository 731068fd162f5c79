"""Tables of *Bootstrapping Action-Grounded Visual Dynamics*: ours in the paper's layout, published values beside.

Every builder takes the item's view of the results and its published numbers, and returns a comparison frame
(`tables.compare`). What no model predicts (`FIXED`: copy, oracle ...) stands in every table of metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from visdyn.evaluation.measurements import FIXED
from visdyn.evaluation.metrics import registry
from visdyn.reporting import names, roster, summaries
from visdyn.reporting.results import ResultError, Results
from visdyn.reporting.tables import compare, judge_tables, rows, spatial_tables
from visdyn.reporting.tables.comparison import Setting, fewer_items, items_of
from visdyn.reporting.tables.instruments import differing_instruments, measured_with, name_instruments

SCORES = "evaluation/fdm_scores.csv"
CANDIDATES = "evaluation/candidate_judge_scores.csv"
COPY = "external/aurora_copy.csv"
ALL = "All"  # the panel of Table 6 that averages over subsets
FACTS = ["metric", "instrument", "scale", "drawn", "average"]  # what `tables.compare` earns a status from
# Metric -> its tolerance in comparison.yaml; what the paper does not print needs none.
TOLERANCES = {"l1_paper": "l1", "clip_i": "cosine", "clip_t": "cosine", "clip_t_edited": "cosine", "dino": "cosine",
              "score": "score"}  # fmt: skip
_OF_LABELS = ("actions_per_video", "words_per_action", "selected")  # in annotation/summary.csv
# Definitions of a next-observation likelihood where there are no image tokens, which the paper does not give.
_DEFINITIONS = {name: f"{name}, a definition of ours" for name in ("D2", "D2-target", "D3")}
_DEFINITIONS |= {"own": "the model's own log-likelihood"}
TABLE3_METRICS = ("editing_success", "minimal_editing")
PAPERS_ROW = "GPT-4o"  # of Table 6: the paper's judge with the paper's prompt, and no other's


def figure2(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Figure 2: percentage of items whose reference is preferred; rows are negatives, columns are models.

    The paper's nine stand in its columns; a model of several definitions, or another one, in columns of its own.
    """
    rates = summaries.preference_rates(results.read("probing/likelihoods.csv"))
    ours = rates.assign(
        panel=rates["task"].map(names.TASKS).fillna(rates["task"]),
        row=rates["kind"].map(names.NEGATIVES).fillna(rates["kind"]),
        column=[roster.printed(model, "B", published["column"], f"ours: {model}") for model in rates["model"]]
        + _definition_suffix(rates),
        value=rates["percent"],
        metric="preference",
        instrument=rates["definition"].map(_DEFINITIONS).fillna(""),
        scale=[
            results.differs("B", model) or fewer_items(n, items_of("aurora"))
            for model, n in zip(rates["model"], rates["n"], strict=True)
        ],
        note=[_format_ties(*counts) for counts in zip(rates["ties"], rates["chains"], strict=True)],
    )
    return compare(ours, published, status)


def figure8(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Figure 8: percentage of items whose reference is preferred, before and after fine-tuning; rows are models."""
    rates = summaries.preference_rates(results.read("idm_evaluation/likelihoods.csv"))
    panels = {"idp": "Action prediction (IDP)", "fdp": "Next observation prediction (FDP)"}
    models = {"zero_shot": "Chameleon-7B zero-shot"}
    ours = rates.assign(
        panel=rates["task"].map(panels).fillna(rates["task"]),
        row=[models.get(model, names.idm_model(model)) for model in rates["model"]] + _definition_suffix(rates),
        column=rates["kind"].map(names.NEGATIVES).fillna(rates["kind"]),
        value=rates["percent"],
        metric="preference",
        scale=[results.differs("B", model) for model in rates["model"]],  # over how many items is not printed
    )
    return compare(ours, published, status)


def table1(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 1: text metrics of the IDM; of one chain the note has the interval over items.

    `BS` is BERTScore alone; the similarity of a small text encoder has a column of its own.
    """
    each = results.read("idm_evaluation/text_metrics.csv")
    measured = summaries.of_chains(each, ["model", "metric"], ["value", "low", "high"])
    columns = {entry.name: entry.printed_as for entry in registry.metrics(registry.LABELS)}
    notes = {entry.name: entry.note for entry in registry.metrics(registry.LABELS)}
    ours = measured.assign(
        row=[roster.printed(model, "B", published["row"], names.idm_model(model)) for model in measured["model"]],
        column=measured["metric"].map(columns).fillna(measured["metric"]),
        spread=measured["value_spread"],
        metric="text",
        instrument=measured["metric"].map({"bleu": "which order the paper prints is not said"}).fillna(""),
        scale=[results.differs("B", model) for model in measured["model"]],
        note=[
            "; ".join(filter(None, (notes.get(entry.metric), _format_interval(entry))))
            for entry in measured.itertuples()
        ],
    )
    return compare(ours, published, status)


def table2(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 2: judge score by subset and system, the mean over subsets, and spatial reasoning.

    The paper's panel holds what GPT-4o says, and no other judge; the region judge and the others have panels of their
    own.
    """
    panel, labels, average = published["panel"].iloc[0], published["column"], "AURORA-BENCH Avg."
    parts = [
        _by_subset(results, judge.of_metric("score"), average, labels).assign(panel=judge.panel)
        for judge in judges(results, panel)
    ]
    spatial = spatial_tables.cells(results, published)
    frame = compare(_concat_parts([*parts, spatial], SCORES, "a judge's score"), published, status)
    return spatial_tables.with_digits(frame)


def table3(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 3: editing success and minimal editing, weighted against standard loss.

    The published row `GPT4o` stands in the row `Avg.` as columns `Weighted score` and `Standard score`.
    """
    parts = [cells.assign(panel=judge.panel) for judge in judges(results, "") for cells in _loss_cells(results, judge)]
    moved = published["row"] == "GPT4o"
    published = published.assign(
        row=published["row"].mask(moved, "Avg."), column=published["column"].mask(moved, published["column"] + " score")
    )
    frame = compare(_concat_parts(parts, SCORES, "the systems of Table 3"), published, status)
    return judge_tables.name_papers_judge(frame, "B")


def _loss_cells(results: Results, judge: Judged) -> list[pd.DataFrame]:
    """Return Table 3's cells of one judge: a column for each loss (and baseline) and each of its scores."""
    columns = {name: registry.metric(name, registry.AURORA).printed_as for name in TABLE3_METRICS} | {"score": "score"}
    systems = {
        "synthetic_weighted": "Weighted",
        "synthetic": "Standard",
        **{name: name.capitalize() for name in FIXED},
    }
    scores = judge.scores[judge.scores["system"].isin(systems)]
    parts = []
    for system in names.system_order(scores["system"], systems):
        for metric, label in columns.items():
            own = replace(judge, scores=scores[(scores["system"] == system) & (scores["metric"] == metric)])
            if len(own.scores):
                cells = _subset_cells(results, own, system, "Avg.", long_names=False)
                parts.append(cells.assign(column=f"{systems[system]} {label}"))
    return parts


def table4(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 4: C-FDM, and the differences without synthetic data and without loss weighting, paired by chain.

    Further columns that the paper lacks: no weight floor, true labels, supervised only, and the baselines' scores.
    """
    parts = [
        cells.assign(panel=judge.panel) for judge in judges(results, "")
        for cells in _ablation_cells(results, replace(judge, scores=judge.of_metric("score").scores))
    ]  # fmt: skip
    frame = compare(_concat_parts(parts, SCORES, "the arm synthetic_weighted"), published, status)
    return judge_tables.name_papers_judge(frame, "B")


def _ablation_cells(results: Results, judge: Judged) -> list[pd.DataFrame]:
    """Return Table 4's cells of one judge."""
    reference = "synthetic_weighted"
    if not (judge.scores["system"] == reference).any():
        return []
    parts = [_subset_cells(results, judge.of_system(reference), reference, "All", long_names=False)]
    parts[0] = parts[0].assign(column="C-FDM")
    differences = {
        "supervised_weighted": "w/o Synth.", "synthetic": "w/o LW", "supervised": "w/o both (C-FT)",
        "synthetic_weighted_nofloor": "w/o weight floor", "synthetic_weighted_true": "with true labels",
        "weights_permuted": "with weights permuted", "labels_shuffled": "with labels shuffled",
    }  # fmt: skip
    for system, column in differences.items():
        cells = _difference_cells(results, judge, system)
        parts.append(cells.assign(column=column, note="difference, paired by chain"))
    for system in FIXED:
        own = judge.of_system(system)
        if len(own.scores):
            cells = _subset_cells(results, own, system, "All", long_names=False)
            parts.append(cells.assign(column=names.FDM_SYSTEMS[system]))
    return parts


def table6(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 6: all metrics by subset. The Copy row's L1 on AURORA-Bench itself is compared on the same data.

    CLIP-T has two readings, of a caption of the target and of one of the edited image: the printed values stand beside
    both.
    """
    oracle = _describe_oracle(results)
    parts = [_copy_cells(results), _metric_cells(results, published["column"], oracle)]
    asked = judge_tables.of_paper(results, "B")
    if asked is not None:
        for judge, scores in asked[asked["metric"] == "score"].groupby("judge", sort=True):
            facts = {"score": (judge_tables.instrument(judge, "B"), "")}
            heads = {"score": judge_tables.head(judge, "B", PAPERS_ROW)}
            parts.append(_laid_out(results, scores, heads, published["column"], facts, oracle))
    ours = _concat_parts(
        [part for part in parts if part is not None], SCORES, f"neither it nor {COPY} holds a metric of Table 6"
    )
    heads, instruments = _table6_heads(), measured_with(results, "B")
    by_head = {heads[name]: instrument for name, instrument in instruments.items() if name in heads}
    edited = published[published["row"] == heads["clip_t"]].assign(row=heads["clip_t_edited"])
    edited = edited[edited["row"].isin(ours["row"])]
    frame = compare(ours, pd.concat([published, edited], ignore_index=True), status)
    return name_instruments(frame, "row", by_head)


def _table6_heads() -> dict[str, str]:
    """Metric -> its row of Table 6: the paper's, then the kit's, without the parts of the judge's score (Table 3)."""
    return {entry.name: entry.printed_as for entry in registry.metrics(registry.AURORA)
            if entry.name not in TABLE3_METRICS}  # fmt: skip


def crop_table(results: Results, published: pd.DataFrame) -> pd.DataFrame:
    """Return what a centre crop costs in L1 by subset, beside the L1 that Table 6 prints of Chameleon's arms."""
    costs = results.read("external/crop_cost.csv").set_index("subset")
    costs = costs.loc[names.system_order(costs.index, names.SUBSETS)]
    printed = published[published["row"] == "L1"].pivot(index="panel", columns="column", values="value")
    printed = printed.loc[[_subset_name(subset, long_names=True) for subset in costs.index]].set_index(costs.index)
    return pd.DataFrame(
        {
            "subset": [_subset_name(subset, long_names=True) for subset in costs.index],
            "n": costs["n"],
            "Copy [Table 6]": printed["Copy"],
            "Copy": costs["copy"],
            "Copy of the centre crop": costs["crop"],
            "C-FT [Table 6]": printed["C-FT"],
            "C-FDM [Table 6]": printed["C-FDM"],
            "Copy of the centre crop, target cropped alike": costs["crop_both"],
        }
    )


def table7(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 7: statistics of the mined videos, means over chains. The paper counts videos as #Samples."""
    columns = {
        "mean_seconds": "Avg. Length (seconds)", "total_hours": "Total Length (hours)", "videos": "#Samples",
        "observations_per_video": "#Avg. OPV", "actions_per_video": "#Avg. APV", "words_per_action": "#Avg. WPA",
        "pairs": "Pairs", "selected": "Selected pairs",
    }  # fmt: skip
    summary = summaries.of_chains(results.read("annotation/summary.csv"), ["dataset"], list(columns))
    cells = [
        (
            names.dataset(entry["dataset"]),
            column,
            entry[name],
            entry[f"{name}_spread"] or float("nan"),  # what is mined is the same in all chains
            entry["videos"],
            entry["chains"],
            results.differs("B", "idm") if name in _OF_LABELS else results.setting.data,
        )
        for entry in summary.to_dict("records")
        for name, column in columns.items()
    ]
    ours = rows(cells, ["row", "column", "value", "spread", "n", "chains", "scale"])
    return compare(ours.assign(metric="videos"), published, status)


def algorithm1(results: Results, published: pd.DataFrame | None, status: str) -> pd.DataFrame:
    """Algorithm 1: what stratified top-K selected, class by class, and the gain in mean log-likelihood and accuracy.

    Means over chains: the pairs are the same in all, the labels and so the selection each chain's own.
    """
    cells = []
    for (dataset, label, chain), group in results.read("annotation/pairs.csv").groupby(["dataset", "class", "chain"]):
        chosen = group[group["selected"] == 1]
        values = {
            "Pairs": len(group), "Selected": len(chosen),
            "Log-likelihood, all": group["log_likelihood"].mean(),
            "Log-likelihood, selected": chosen["log_likelihood"].mean(),
            "Correct, all": group["correct"].mean(), "Correct, selected": chosen["correct"].mean(),
        }  # fmt: skip
        where = names.dataset(dataset), label
        cells += [(*where, column, chain, value, len(group)) for column, value in values.items()]
    each = rows(cells, ["panel", "row", "column", "chain", "value", "n"])
    means = summaries.of_chains(each, ["panel", "row", "column"], ["value"])
    means = means.rename(columns={"value_spread": "spread"})
    means["spread"] = means["spread"].mask(means["column"] == "Pairs")  # what is mined is the same in all chains
    counts = means.pivot(index=["panel", "row"], columns="column", values="value")
    whole = (counts["Selected"] == counts["Pairs"]).groupby(level="panel").all()  # fewer pairs than are wanted
    means["note"] = ["all pairs selected, there are too few" if whole[panel] and column == "Selected" else ""
                     for panel, column in zip(means["panel"], means["column"], strict=True)]  # fmt: skip
    frame = compare(means, None, status)
    digits = {"Pairs": 0, "Selected": 1}
    return frame.assign(digits=[digits.get(column, 2) for column in frame["column"]])


def _definition_suffix(rates: pd.DataFrame) -> pd.Series:
    several = rates.groupby(["model", "task", "kind"])["definition"].transform("nunique") > 1
    return (" (" + rates["definition"] + ")").where(several, "")


@dataclass(frozen=True)
class Judged:
    """A judge's scores of Bootstrapping's systems.

    Attributes:
        panel: head over its values.
        instrument: how it differs from the paper's judge, "" where it does not.
        scores: long frame with system, chain, subset, id, metric, value.
    """

    panel: str
    instrument: str
    scores: pd.DataFrame

    def of_metric(self, metric: str) -> Judged:
        """Return the scores of one metric."""
        return replace(self, scores=self.scores[self.scores["metric"] == metric])

    def of_system(self, system: str) -> Judged:
        """Return the scores of one system."""
        return replace(self, scores=self.scores[self.scores["system"] == system])


def judges(results: Results, papers: str) -> list[Judged]:
    """Return the region judge, then each judge that answers in words; the paper's own has the panel `papers`."""
    found = []
    region = results.read(SCORES).dropna(subset=["value"])
    region = region[region["metric"].isin([*TABLE3_METRICS, "score"])]
    if len(region):
        found.append(Judged(judge_tables.region_panel(papers), registry.REGION, region))
    asked = judge_tables.of_paper(results, "B")
    for judge, scores in [] if asked is None else asked.groupby("judge", sort=True):
        found.append(Judged(judge_tables.head(judge, "B", papers), judge_tables.instrument(judge, "B"), scores))
    return found


def _subset_name(subset: str, long_names: bool) -> str:
    return names.SUBSETS.get(subset, (subset, subset))[0 if long_names else 1]


def _subset_cells(
    results: Results, judge: Judged, system: str, average: str, long_names: bool, every: int = 0
) -> pd.DataFrame:
    """Rows are subsets in the paper's order, then their unweighted mean, which says if it is of fewer than `every`."""
    each = summaries.over_chains(judge.scores, ["subset"])
    order = names.system_order(each["subset"], names.SUBSETS)
    each = each.set_index("subset").loc[order].reset_index()
    each = each.assign(row=[_subset_name(subset, long_names) for subset in each["subset"]])
    mean = summaries.macro_over_chains(judge.scores.assign(all=""), ["all"]).assign(row=average, subset=ALL)
    note = f"mean of {len(order)} of {every} subsets" if len(order) < every else ""
    cells = pd.concat([each.assign(note=""), mean.assign(note=note)], ignore_index=True)
    cells = _add_facts(results, cells, system, "score", judge.instrument)
    return cells[["row", "value", "spread", "n", "chains", "note", *FACTS]]


def _add_facts(
    results: Results, cells: pd.DataFrame, system: str, metric: str, instrument: str, scale: str = ""
) -> pd.DataFrame:
    """Say of a system's cells (`subset`, n) what they are beside the paper's."""
    own = scale or results.differs("B", system)
    return cells.assign(
        metric=metric,
        instrument=instrument,
        scale=[
            own or fewer_items(n, items_of("aurora", subset))
            for n, subset in zip(cells["n"], cells["subset"], strict=True)
        ],
        drawn=system not in FIXED,
        average=cells["subset"] == ALL,
    )


def _by_subset(results: Results, judge: Judged, average: str, labels: pd.Series) -> pd.DataFrame:
    scores = judge.scores
    order, every = names.system_order(scores["system"], names.FDM_SYSTEMS), scores["subset"].nunique()
    parts = [
        _subset_cells(results, judge.of_system(system), system, average, True, every).assign(
            column=roster.printed(system, "B", labels, names.fdm_system(system))
        )
        for system in order
    ]
    return pd.concat(parts) if parts else scores.assign(row="", column="").head(0)


def _difference_cells(results: Results, judge: Judged, system: str) -> pd.DataFrame:
    scores, reference = judge.scores, "synthetic_weighted"
    each = summaries.paired_difference(scores, system, reference, ["subset"])
    each = each.assign(row=[_subset_name(subset, long_names=False) for subset in each["subset"]])
    means = scores.groupby(["system", "chain", "subset"], as_index=False)["value"].mean()
    total = summaries.paired_difference(means, system, reference).assign(row="All", subset=ALL)
    if len(total):  # its n counted subsets
        total["n"] = each["n"].sum()
    parts = [part for part in (each, total) if len(part)] or [each.assign(row="")]
    cells = pd.concat(parts, ignore_index=True)
    scale = results.differs("B", system) or results.differs("B", reference)
    return _add_facts(results, cells, system, "difference", judge.instrument, scale).drop(columns="subset")


def _copy_cells(results: Results) -> pd.DataFrame | None:
    copy, scores = results.read_or_none(COPY), results.read_or_none(SCORES)
    measured = scores is not None and ((scores["system"] == "copy") & (scores["metric"] == "l1_paper")).any()
    if copy is None or (measured and not results.setting.data):  # then the run has its own
        return None
    paper = copy["geometry"] == "paper"
    cells = _add_facts(replace(results, setting=Setting(data="")), copy, "copy", "l1", "")
    cells = cells.assign(
        panel=[_subset_name(subset, long_names=True) for subset in copy["subset"]],
        row=["L1" if flag else "L1, matched crop" for flag in paper],
        column="Copy",
        value=copy["l1"],
        instrument=["" if flag else "the matched crop" for flag in paper],
        note=[_copy_note(*flags) for flags in zip(paper, copy["n"], strict=True)],
    )
    return cells.drop(columns=["published"])


def _copy_note(paper: bool, n: float) -> str:
    text = f"AURORA-Bench itself, n = {int(n)}"
    return text if paper else f"{text}; the matched crop, which the paper does not report"


def _describe_oracle(results: Results) -> str:
    """Return how the best of 3's oracle differs from the paper's, which knows GPT-4o's score; "" where it does not."""
    judged = results.read_or_none(CANDIDATES)
    known = judged is not None and judge_tables.has_papers(judged, results, "B")
    return "" if known else "the oracle knows another judge's score than GPT-4o's"


def _metric_cells(results: Results, labels: pd.Series, oracle: str) -> pd.DataFrame | None:
    scores = results.read_or_none(SCORES)
    if scores is None:
        return None
    return _laid_out(results, scores, _table6_heads(), labels, differing_instruments(results, "B"), oracle)


def _laid_out(
    results: Results,
    scores: pd.DataFrame,
    metrics: dict[str, str],
    labels: pd.Series,
    facts: dict[str, tuple[str, str]],
    oracle: str,
) -> pd.DataFrame:
    """Return Table 6's cells of some metrics.

    Args:
        metrics: metric -> head of its row.
        facts: metric -> how what measured it differs from the paper's (`differing_instruments`).
        oracle: how who chose the best of 3 differs (`_describe_oracle`).
    """
    scores = scores[scores["metric"].isin(metrics)]
    each = summaries.over_chains(scores, ["system", "subset", "metric"])
    every = summaries.macro_over_chains(scores, ["system", "metric"]).assign(subset=ALL)
    measured = each.dropna(subset=["value"]).groupby(["system", "metric"])["subset"].nunique()
    counts, most = (
        [int(measured.get(key, 0)) for key in zip(every["system"], every["metric"], strict=True)],
        (scores["subset"].nunique()),
    )
    every = every.assign(note=[f"mean of {count} of {most} subsets" if count < most else "" for count in counts])
    cells = pd.concat([each.assign(note=""), every], ignore_index=True)
    order = {name: rank for rank, name in enumerate([*names.SUBSETS, ALL])}
    ranks = {metric: rank for rank, metric in enumerate(metrics)}
    cells = cells.assign(_subset=cells["subset"].map(order).fillna(len(order)), _metric=cells["metric"].map(ranks))
    cells = cells.sort_values(["_subset", "_metric"], kind="stable")
    cells = cells.assign(
        panel=[_subset_name(subset, long_names=True) for subset in cells["subset"]],
        row=cells["metric"].map(metrics),
        column=[_table6_column(results, system, labels) for system in cells["system"]],
    )
    parts = [_add_facts(results, group, system, TOLERANCES.get(metric, metric), *facts[metric])
             for (system, metric), group in cells.groupby(["system", "metric"], sort=False)]  # fmt: skip
    if parts:
        cells = pd.concat(parts).loc[cells.index]
        chosen = cells["system"].str.endswith("_by_oracle") & (cells["instrument"] == "")
        cells["instrument"] = cells["instrument"].mask(chosen, oracle)
    return cells.drop(columns=["_subset", "_metric"])


def _table6_column(results: Results, system: str, labels: pd.Series) -> str:
    # The column Copy is AURORA-Bench's own, recomputed; the kitchen's stands beside it.
    if system == "copy" and results.setting.data:
        return "Copy (kitchen)"
    return roster.printed(system, "B", labels, names.fdm_system(system))


def _format_interval(entry) -> str:
    # Of several chains the cell has the spread over chains; an interval over items leaves out what training draws.
    single = entry.chains == 1 and not pd.isna(entry.low)
    return f"interval over items {entry.low:.3f} to {entry.high:.3f}" if single else ""


def _format_ties(count: float, chains: int) -> str:
    return f"{int(count)} ties" + (f" in {int(chains)} chains" if chains > 1 else "") if count else ""


def _concat_parts(parts: list[pd.DataFrame], name: str, what: str) -> pd.DataFrame:
    parts = [part for part in parts if len(part)]
    if not parts:
        raise ResultError(f"{name} lacks {what}; run its stage again")
    return pd.concat(parts, ignore_index=True)
