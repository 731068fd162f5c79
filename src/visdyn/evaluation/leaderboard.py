"""One row for each system with outputs and each metric: mean, n, interval, and a paired test against a reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from visdyn.evaluation.chains import equal_chains, estimate_over_chains
from visdyn.evaluation.measurements import FIXED
from visdyn.evaluation.metrics.registry import bench_of, metric
from visdyn.evaluation.statistics import bootstrap_interval, sign_flip_test, wilcoxon_against

COLUMNS = ["paper", "metric", "system", "mean", "n", "low", "high", "interval_over", "num_chains", "reference",
           "difference", "difference_low", "difference_high", "p", "p_sign_flip", "num_nonzero"]  # fmt: skip
NUM_FLIPS = 9999  # sign patterns drawn where they are not enumerated
CHAINS, ITEMS = "chains and items", "items"


def leaderboard(scores: pd.DataFrame, paper: str, reference: str, seed: int, name: Sequence[str] = ()) -> pd.DataFrame:
    """Compare all systems of one score table.

    A system's value of an item is its mean over chains, so that n counts items. Intervals are over chains, then items
    (`visdyn.evaluation.chains`; pairs of one video belong together), where several chains drew the system, else over
    items alone: those say nothing of another training. The difference pairs chains and items that both systems have;
    what no chain draws (copy, oracle, shuffled ...) meets every chain. A chain that copies another counts once. `p`
    is Wilcoxon's signed-rank test of the items' mean differences (zeros dropped, two-sided; `num_nonzero`: how many
    differed), of these chains alone; `p_sign_flip` tests their mean instead, and flips what belongs together at once.

    Args:
        scores: columns system, chain, metric, value, those of `name`, and further ones that name an item.
        paper: B or D; its benchmark's metrics say which way is better (`visdyn.evaluation.metrics.registry`).
        reference: system that the others are compared with; where it has no scores, the test's columns stay empty.
        seed: of the bootstrap.
        name: columns that belong to the metric's name, such as direction and prompt.

    Returns:
        `COLUMNS`, best first within a metric.

    Raises:
        KeyError: a metric that is not registered.
    """
    known = scores.dropna(subset=["value"])
    if known.empty:
        return pd.DataFrame(columns=COLUMNS)
    labels = known["metric"].astype(str)
    for column in name:
        labels = labels + known[column].fillna("").astype(str).map(lambda text: f" {text}" if text else "")
    keys = [column for column in scores.columns if column not in {"system", "chain", "metric", "value", *name}]
    items = known[keys].fillna("").astype(str).agg("/".join, axis=1) if keys else pd.Series("", known.index)
    table = _drop_copies(known.assign(label=labels, item=items))
    bench, parts = bench_of(paper), []
    for label, group in table.groupby("label", sort=True):
        rows = _compare_systems(group, reference, paper, seed).assign(metric=label)
        higher = metric(group["metric"].iloc[0], bench).higher_is_better
        parts.append(rows.sort_values(["mean", "system"], ascending=[not higher, True], kind="stable"))
    return pd.concat(parts, ignore_index=True).assign(paper=paper)[COLUMNS]


def _drop_copies(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out a system's chains that answered everything as an earlier one did: a copy narrows no interval."""
    kept = []
    for _, own in table.sort_values(["label", "item"], kind="stable").groupby("system"):
        answers = {chain: part["value"].to_numpy(float).tobytes() for chain, part in own.groupby("chain")}
        first = equal_chains(answers)
        kept.append(own[own["chain"].map(first) == own["chain"]])
    return pd.concat(kept)


def _compare_systems(group: pd.DataFrame, reference: str, paper: str, seed: int) -> pd.DataFrame:
    # A system a key, a frame (C, N) of its chains' values of the items that all of them have.
    values = {
        system: own.pivot_table(index="chain", columns="item", values="value").dropna(axis=1)
        for system, own in group.groupby("system")
    }
    return pd.DataFrame([_row(system, values, reference, paper, seed) for system in values])


def _row(system: str, values: dict[str, pd.DataFrame], reference: str, paper: str, seed: int) -> dict:
    own = values[system]
    low, high = _interval(own, paper, seed)
    row = {"system": system, "mean": own.to_numpy().mean(), "n": own.shape[1], "low": low, "high": high}
    row |= {"interval_over": CHAINS if len(own) > 1 else ITEMS, "num_chains": len(own), "reference": ""}
    row |= dict.fromkeys(("difference", "difference_low", "difference_high", "p", "p_sign_flip", "num_nonzero"), np.nan)
    if system == reference or reference not in values:
        return row
    pairs = _pair(system, own, reference, values[reference])
    if pairs.empty:
        return row
    difference = pairs.to_numpy().mean(axis=0)  # (N,)
    low, high = _interval(pairs, paper, seed)
    zeros, clusters = np.zeros(len(difference)), [_cluster(item, paper) for item in pairs.columns]
    test, flips = wilcoxon_against(difference, zeros), sign_flip_test(difference, zeros, clusters, seed, NUM_FLIPS)
    tested = {"p": test.pvalue, "p_sign_flip": flips.pvalue, "num_nonzero": test.num_nonzero}
    return row | tested | {"reference": reference, "difference": test.mean_difference, "difference_low": low,
                           "difference_high": high}  # fmt: skip


def _pair(system: str, own: pd.DataFrame, reference: str, other: pd.DataFrame) -> pd.DataFrame:
    """Return the differences (C, N) of the chains and items that both have."""
    items = own.columns.intersection(other.columns)
    own, other = own[items], other[items]
    if system in FIXED:
        return own.iloc[0] - other
    return own - other.iloc[0] if reference in FIXED else own.sub(other).dropna(how="all")


def _interval(values: pd.DataFrame, paper: str, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean of chains and items (C, N); of one chain over its items."""
    if len(values) == 1:
        interval = bootstrap_interval(values.to_numpy()[0], seed, num_resamples=1000)
        return interval.low, interval.high
    found = estimate_over_chains(values.to_numpy(), [_cluster(item, paper) for item in values.columns])
    return found.low, found.high


def _cluster(item: str, paper: str) -> str:
    """Return what an item shares with others: EPIC's narration ids are <video>_<number>, one video is one kitchen."""
    return item.rpartition("/")[2].rpartition("_")[0] or item if paper == "D" else item
