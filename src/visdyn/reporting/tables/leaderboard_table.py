"""Whatever systems have outputs, side by side; what each metric was measured with; and what each judge was asked.

These are tables of the kit alone: the papers have no counterpart.
"""

from __future__ import annotations

import pandas as pd

from visdyn.evaluation.metrics.registry import Metric, bench_of, metric
from visdyn.reporting import names
from visdyn.reporting.results import ResultError, Results

# What decides: a whole board of every metric, direction and prompt is in the file itself.
SHOWN = {
    "B": ("score", "success", "l1_paper", "clip_i", "dino"),
    "D": ("score forward long", "success forward long", "joint reverse generated long", "dino forward long"),
}


def table(results: Results) -> pd.DataFrame:
    """Return the deciding metrics: paper, metric, rank, system, mean, 95 % interval, n, chains, difference, p.

    The best of a metric stands first; an arrow at each metric says which way is better.
    """
    return _deciding(results.read_evaluations("leaderboard.csv"))


def robust(results: Results) -> pd.DataFrame:
    """Return the same of what `make robust` trained, beside the default's systems, with what each run learnt from."""
    runs = results.read("robust/runs.csv").drop_duplicates("system")
    about = {_system_name(*(("D", row.system) if row.run.startswith("doundo") else ("B", row.system))): _describe(row)
             for row in runs.itertuples()}  # fmt: skip
    table = _deciding(results.read("robust/leaderboard.csv"))
    table.insert(3, "learns from", table["system"].map(about).fillna("the default"))
    return table


def _describe(run) -> str:
    """Say what a run learns from: `600 labelled, 82 synthetic (<key-frame rule>); floor 0.5; 900 steps`."""
    if pd.isna(run.num_supervised):  # a generator's pairs are the default's
        return f"{run.steps} steps"
    triplets = f"{run.num_supervised:.0f} labelled, {run.num_synthetic:.0f} synthetic"
    return f"{triplets} ({run.mode}); floor {run.floor:g}; {run.steps} steps"


def _deciding(board: pd.DataFrame) -> pd.DataFrame:
    wanted = pd.concat([board[(board["paper"] == paper) & (board["metric"] == metric)]
                        for paper, metrics in SHOWN.items() for metric in metrics], ignore_index=True)  # fmt: skip
    if wanted.empty:
        raise ResultError(
            "leaderboard.csv holds none of the metrics that are shown; run the stages of the evaluation again"
        )
    rising = [_find_metric(*pair).higher_is_better for pair in wanted[["paper", "metric"]].to_numpy()]
    wanted = wanted.assign(order=wanted["mean"].where([not up for up in rising], -wanted["mean"]))
    by = ["paper", "metric"]
    wanted = wanted.assign(rank=wanted.groupby(by)["order"].rank(method="min"))
    wanted = pd.concat([own.sort_values("rank", kind="stable") for _, own in wanted.groupby(by, sort=False)])
    bounds = wanted[["low", "high"]].to_numpy()
    return pd.DataFrame(
        {
            "paper": wanted["paper"],
            "metric": [_add_arrow(*pair) for pair in wanted[["paper", "metric"]].to_numpy()],
            "rank": wanted["rank"].astype("Int64"),
            "system": [_system_name(*pair) for pair in wanted[["paper", "system"]].to_numpy()],
            "mean": wanted["mean"],
            "95 % interval": [f"{low:.3g} to {high:.3g}" for low, high in bounds],
            "over": wanted["interval_over"],
            "n": wanted["n"].astype(int),
            "chains": wanted["num_chains"].astype(int),
            "difference to": [
                _system_name(*pair) if pair[1] else "" for pair in wanted[["paper", "reference"]].to_numpy()
            ],
            "difference on shared items": wanted["difference"],
            "its 95 % interval": [
                "" if pd.isna(low) else f"{low:.3g} to {high:.3g}"
                for low, high in wanted[["difference_low", "difference_high"]].to_numpy()
            ],
            "p over items (Wilcoxon, zeros dropped)": wanted["p"].map(_format_p),
            "p over items (sign flips)": wanted["p_sign_flip"].map(_format_p),
        }
    )


def _format_p(p: float) -> str:
    return "" if pd.isna(p) else "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def judges(results: Results) -> pd.DataFrame:
    """Return what each judge that answers in words was asked, and what came of it."""
    return results.read_evaluations("judge_runs.csv")


def measures(results: Results) -> pd.DataFrame:
    """Return what each metric was measured with, and how many rows have no value and why."""
    return results.read_evaluations("measures.csv")


def _add_arrow(paper: str, name: str) -> str:
    """Return a metric with an arrow that says which way is better; Do-Undo's names go on with direction and prompt."""
    return f"{name} {'↑' if _find_metric(paper, name).higher_is_better else '↓'}"


def _find_metric(paper: str, name: str) -> Metric:
    return metric(name.partition(" ")[0], bench_of(paper))


def _system_name(paper: str, name: str) -> str:
    return names.fdm_system(name) if paper == "B" else names.doundo_system(name)
