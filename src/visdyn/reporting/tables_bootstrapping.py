"""Tables of *Bootstrapping Action-Grounded Visual Dynamics*: ours in the paper's layout, published values beside.

Every builder takes the item's view of the results and its published numbers, and returns a comparison frame
(`tables.compare`). Copy, oracle and shuffled stand in every table of metrics.
"""

from __future__ import annotations

import pandas as pd

from visdyn.reporting import names, summaries
from visdyn.reporting.results import ResultError, Results
from visdyn.reporting.tables import compare, rows

BASELINES = ("copy", "oracle", "shuffled")
SCORES = "evaluation/fdm_scores.csv"
COPY = "external/aurora_copy.csv"
L1_TOLERANCE = 0.0005 + 1e-9  # the paper prints three decimals
TABLE6_METRICS = {
    "l1_paper": "L1", "clip_i": "CLIP-I", "clip_t": "CLIP-T", "dino": "DINO", "score": "GPT-4o",
    "l1_matched": "L1, matched crop", "success": "Success", "copied": "Copied",
}  # fmt: skip


def figure2(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Figure 2: percentage of items whose reference is preferred; rows are negatives, columns are models."""
    rates = summaries.preference_rates(results.read("probing/likelihoods.csv"))
    ours = rates.assign(
        panel=rates["task"].map(names.TASKS).fillna(rates["task"]),
        row=rates["kind"].map(names.NEGATIVES).fillna(rates["kind"]),
        column="ours: " + rates["model"] + _definition(rates),
        value=rates["percent"],
        note=[f"{int(ties)} ties" if ties else "" for ties in rates["ties"]],
    )
    return compare(ours, published, status)


def figure8(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Figure 8: percentage of items whose reference is preferred, before and after fine-tuning; rows are models."""
    rates = summaries.preference_rates(results.read("idm/likelihoods.csv"))
    panels = {"idp": "Action prediction (IDP)", "fdp": "Next observation prediction (FDP)"}
    models = {"zero_shot": "Chameleon-7B zero-shot", "idm": "Chameleon IDM"}
    ours = rates.assign(
        panel=rates["task"].map(panels).fillna(rates["task"]),
        row=rates["model"].map(models).fillna(rates["model"]) + _definition(rates),
        column=rates["kind"].map(names.NEGATIVES).fillna(rates["kind"]),
        value=rates["percent"],
    )
    return compare(ours, published, status)


def table1(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 1: text metrics of the IDM. The interval over items is in the note; `BS` is our embedding similarity."""
    metrics = results.read("idm/text_metrics.csv")
    ours = metrics.assign(
        row=metrics["model"].map(names.IDM_MODELS).fillna(metrics["model"]),
        column=metrics["metric"].map(names.TEXT_METRICS).fillna(metrics["metric"]),
        note=[_interval(entry) for entry in metrics.itertuples()],
    )
    return compare(ours, published, status)


def table2(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 2: judge score by subset and system, and the mean over subsets. Spatial reasoning is only published."""
    scores = _metric(results, "score")
    panel, average = published["panel"].iloc[0], "AURORA-BENCH Avg."
    cells = _by_subset(scores, long_names=True, average=average)
    return compare(cells.assign(panel=panel), published, status)


def table3(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 3: editing success and minimal editing, weighted against standard loss.

    The published row `GPT4o` stands in the row `Avg.` as columns `Weighted score` and `Standard score`.
    """
    scores = results.read(SCORES)
    columns = {"editing_success": "ES", "minimal_editing": "ME", "score": "score"}
    systems = {
        "synthetic_weighted": "Weighted",
        "synthetic": "Standard",
        **{name: name.capitalize() for name in BASELINES},
    }
    chosen = scores[scores["metric"].isin(columns) & scores["system"].isin(systems)]
    parts = []
    for system in names.system_order(chosen["system"], systems):
        for metric, label in columns.items():
            cells = _subset_cells(
                chosen[(chosen["system"] == system) & (chosen["metric"] == metric)], "Avg.", long_names=False
            )
            parts.append(cells.assign(column=f"{systems[system]} {label}"))
    moved = published["row"] == "GPT4o"
    published = published.assign(
        row=published["row"].mask(moved, "Avg."), column=published["column"].mask(moved, published["column"] + " score")
    )
    return compare(_concat(parts, SCORES, "the systems of Table 3"), published, status)


def table4(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 4: C-FDM, and the differences without synthetic data and without loss weighting, paired by seed.

    Further columns that the paper lacks: no weight floor, true labels, supervised only, and the baselines' scores.
    """
    scores = _metric(results, "score")
    reference = _subset_cells(scores[scores["system"] == "synthetic_weighted"], "All", long_names=False)
    parts = [reference.assign(column="C-FDM")]
    differences = {
        "supervised_weighted": "w/o Synth.", "synthetic": "w/o LW", "supervised": "w/o both (C-FT)",
        "synthetic_weighted_nofloor": "w/o weight floor", "synthetic_weighted_true": "with true labels",
    }  # fmt: skip
    for system, column in differences.items():
        parts.append(_difference_cells(scores, system).assign(column=column, note="difference, paired by seed"))
    for system in BASELINES:
        parts.append(
            _subset_cells(scores[scores["system"] == system], "All", long_names=False).assign(
                column=names.FDM_SYSTEMS[system]
            )
        )
    return compare(_concat(parts, SCORES, "the arm synthetic_weighted"), published, status)


def table6(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 6: all metrics by subset. The Copy row's L1 on AURORA-Bench itself is compared on the same data."""
    parts = [_copy_cells(results), _metric_cells(results)]
    ours = _concat(
        [part for part in parts if part is not None], SCORES, f"neither it nor {COPY} holds a metric of Table 6"
    )
    return compare(ours, published, status)


def table7(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 7: statistics of the mined videos. The paper's #Samples counts videos (see its notes)."""
    summary = results.read("annotation/summary.csv")
    columns = {
        "mean_seconds": "Avg. Length (seconds)", "total_hours": "Total Length (hours)", "videos": "#Samples",
        "observations_per_video": "#Avg. OPV", "actions_per_video": "#Avg. APV", "words_per_action": "#Avg. WPA",
        "pairs": "Pairs", "selected": "Selected pairs",
    }  # fmt: skip
    cells = [
        (names.dataset(entry["dataset"]), column, entry[name], entry["videos"])
        for entry in summary.to_dict("records")
        for name, column in columns.items()
    ]
    return compare(rows(cells, ["row", "column", "value", "n"]), published, status)


def algorithm1(results: Results, published: pd.DataFrame | None, status: str) -> pd.DataFrame:
    """Algorithm 1: what stratified top-K selected, class by class, and the gain in mean log-likelihood and accuracy."""
    pairs = results.read("annotation/pairs.csv")
    cells = []
    for (dataset, label), group in pairs.groupby(["dataset", "class"]):
        chosen = group[group["selected"] == 1]
        values = {
            "Pairs": len(group), "Selected": len(chosen),
            "Log-likelihood, all": group["log_likelihood"].mean(),
            "Log-likelihood, selected": chosen["log_likelihood"].mean(),
            "Correct, all": group["correct"].mean(), "Correct, selected": chosen["correct"].mean(),
        }  # fmt: skip
        cells += [(names.dataset(dataset), label, column, value, len(group)) for column, value in values.items()]
    return compare(rows(cells, ["panel", "row", "column", "value", "n"]), None, status).assign(digits=2)


def _definition(rates: pd.DataFrame) -> pd.Series:
    several = rates.groupby(["model", "task", "kind"])["definition"].transform("nunique") > 1
    return (" (" + rates["definition"] + ")").where(several, "")


def _metric(results: Results, metric: str) -> pd.DataFrame:
    scores = results.read(SCORES)
    scores = scores[scores["metric"] == metric]
    if scores.empty:
        raise ResultError(f"{SCORES} has no rows of metric {metric}; run stage evaluation with a judge")
    return scores


def _subset_name(subset: str, long_names: bool) -> str:
    return names.SUBSETS.get(subset, (subset, subset))[0 if long_names else 1]


def _subset_cells(scores: pd.DataFrame, average: str, long_names: bool) -> pd.DataFrame:
    """Rows are subsets in the paper's order, then their unweighted mean."""
    each = summaries.over_seeds(scores, ["subset"])
    order = names.system_order(each["subset"], names.SUBSETS)
    each = each.set_index("subset").loc[order].reset_index()
    each = each.assign(row=[_subset_name(subset, long_names) for subset in each["subset"]])
    mean = summaries.macro_over_seeds(scores.assign(all=""), ["all"]).assign(row=average)
    return pd.concat([each, mean], ignore_index=True)[["row", "value", "spread", "n", "seeds"]]


def _by_subset(scores: pd.DataFrame, long_names: bool, average: str) -> pd.DataFrame:
    order = names.system_order(scores["system"], names.FDM_SYSTEMS)
    parts = [_subset_cells(scores[scores["system"] == system], average, long_names) for system in order]
    return pd.concat([part.assign(column=names.fdm_system(system)) for part, system in zip(parts, order, strict=True)])


def _difference_cells(scores: pd.DataFrame, system: str) -> pd.DataFrame:
    each = summaries.paired_difference(scores, system, "synthetic_weighted", ["subset"])
    each = each.assign(row=[_subset_name(subset, long_names=False) for subset in each["subset"]])
    means = scores.groupby(["system", "seed", "subset"], as_index=False)["value"].mean()
    total = summaries.paired_difference(means, system, "synthetic_weighted").assign(row="All")
    return pd.concat([part for part in (each, total) if len(part)] or [each.assign(row="")], ignore_index=True).drop(
        columns="subset"
    )


def _copy_cells(results: Results) -> pd.DataFrame | None:
    copy = results.read_or_none(COPY)
    if copy is None:
        return None
    paper = copy["geometry"] == "paper"
    same = paper & ((copy["l1"] - copy["published"]).abs() <= L1_TOLERANCE)
    return copy.assign(
        panel=[_subset_name(subset, long_names=True) for subset in copy["subset"]],
        row=["L1" if flag else "L1, matched crop" for flag in paper],
        column="Copy",
        value=copy["l1"],
        status=["reproduced" if flag else "interpretation" for flag in same],
        note=[_copy_note(*flags, n) for *flags, n in zip(paper, same, copy["n"], strict=True)],
    )


def _copy_note(paper: bool, same: bool, n: float) -> str:
    text = f"AURORA-Bench itself, n = {int(n)}"
    if paper:
        return text if same else f"{text}; the printed value is not met to three decimals"
    return f"{text}; the matched crop, which the paper does not report"


def _metric_cells(results: Results) -> pd.DataFrame | None:
    scores = results.read_or_none(SCORES)
    if scores is None:
        return None
    scores = scores[scores["metric"].isin(TABLE6_METRICS)]
    each = summaries.over_seeds(scores, ["system", "subset", "metric"])
    every = summaries.macro_over_seeds(scores, ["system", "metric"]).assign(subset="All")
    cells = pd.concat([each, every], ignore_index=True)
    order = {name: rank for rank, name in enumerate([*names.SUBSETS, "All"])}
    ranks = {metric: rank for rank, metric in enumerate(TABLE6_METRICS)}
    cells = cells.assign(_subset=cells["subset"].map(order).fillna(len(order)), _metric=cells["metric"].map(ranks))
    cells = cells.sort_values(["_subset", "_metric"], kind="stable")
    printed = {**names.FDM_SYSTEMS, "zero_shot": "CM", "copy": "Copy (kitchen)"}
    return cells.assign(
        panel=[_subset_name(subset, long_names=True) for subset in cells["subset"]],
        row=cells["metric"].map(TABLE6_METRICS),
        column=[printed.get(system, names.fdm_system(system)) for system in cells["system"]],
    ).drop(columns=["_subset", "_metric"])


def _interval(entry) -> str:
    return "" if pd.isna(entry.low) else f"interval over items {entry.low:.3f} to {entry.high:.3f}"


def _concat(parts: list[pd.DataFrame], name: str, what: str) -> pd.DataFrame:
    parts = [part for part in parts if len(part)]
    if not parts:
        raise ResultError(f"{name} lacks {what}; run its stage again")
    return pd.concat(parts, ignore_index=True)
