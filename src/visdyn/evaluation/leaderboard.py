"""One row for each system with outputs and each metric: mean, n, interval, and a paired test against a reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from visdyn.evaluation.metrics.registry import bench_of, metric
from visdyn.evaluation.statistics import bootstrap_interval, wilcoxon_against

COLUMNS = ["paper", "metric", "system", "mean", "n", "low", "high", "num_seeds", "reference", "difference", "p",
           "num_nonzero"]  # fmt: skip


def leaderboard(scores: pd.DataFrame, paper: str, reference: str, seed: int, name: Sequence[str] = ()) -> pd.DataFrame:
    """Compare all systems of one score table.

    A system's value of an item is its mean over seeds, so that n counts items; the test pairs the items that both the
    system and the reference have (Wilcoxon signed-rank, zeros dropped, two-sided; `num_nonzero`: how many differed).

    Args:
        scores: columns system, seed, metric, value, those of `name`, and further ones that name an item.
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
    keys = [column for column in scores.columns if column not in {"system", "seed", "metric", "value", *name}]
    items = known[keys].fillna("").astype(str).agg("/".join, axis=1) if keys else pd.Series("", known.index)
    table = known.assign(label=labels, item=items)
    bench, parts = bench_of(paper), []
    for label, group in table.groupby("label", sort=True):
        rows = _compare_systems(group, reference, seed).assign(metric=label)
        higher = metric(group["metric"].iloc[0], bench).higher_is_better
        parts.append(rows.sort_values(["mean", "system"], ascending=[not higher, True], kind="stable"))
    return pd.concat(parts, ignore_index=True).assign(paper=paper)[COLUMNS]


def _compare_systems(group: pd.DataFrame, reference: str, seed: int) -> pd.DataFrame:
    values = group.groupby(["system", "item"])["value"].mean()
    seeds = group.groupby("system")["seed"].nunique()
    return pd.DataFrame([_row(system, values, seeds[system], reference, seed) for system in seeds.index])


def _row(system: str, values: pd.Series, num_seeds: int, reference: str, seed: int) -> dict:
    own = values[system]
    interval = bootstrap_interval(own.to_numpy(), seed, num_resamples=1000)
    row = {"system": system, "mean": interval.value, "n": interval.n, "low": interval.low, "high": interval.high}
    row |= {"num_seeds": int(num_seeds), "reference": "", "difference": np.nan, "p": np.nan, "num_nonzero": np.nan}
    if system == reference or reference not in values.index.get_level_values(0):
        return row
    pairs = pd.concat([own, values[reference]], axis=1, keys=["own", "other"]).dropna()
    if pairs.empty:
        return row
    test = wilcoxon_against(pairs["own"], pairs["other"])
    return row | {"reference": reference, "difference": test.mean_difference, "p": test.pvalue,
                  "num_nonzero": test.num_nonzero}  # fmt: skip
