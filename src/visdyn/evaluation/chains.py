"""Estimates over chains: whole repetitions of an experiment, from the base model to the last sample.

Chains and items are crossed: every chain answers the same items, so an item's ease is shared by all chains and a
chain's luck by all items. With C chains and G clusters of items (those that share a source image or video),

    y_ci = mean + chain_c + item_i + rest_ci

and the mean of all y errs by both. Its interval adds the two errors, each with its own t:

    half-width^2 = (t_{C-1} s_chains / sqrt(C))^2 + (t_{G-1} s_clusters)^2

where s_chains is the deviation of the chains' means and s_clusters the cluster-robust standard error of the items'
means over chains. (The square-and-add rule for sums of two independent estimates: Zou and Donner, 2008.) What is left
over enters both terms, so the interval errs on the wide side. tests/test_chains.py simulates it with a known truth:
at 95 % it covered in 95 to 99 of 100 repetitions with three chains, whatever part of the variance lay in chains,
clusters and rest. On the same data a t-interval over chain means alone covered in 72 to 95 and a pooled one in 36 to
96; Satterthwaite's degrees of freedom for the sum of both variances fell to 92 where chains decide.

One chain says nothing about chains: its interval is unknown (NaN), not that of its items.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from visdyn.evaluation.statistics import number_clusters

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over chains and items with its interval.

    Attributes:
        value: mean over items, then chains; of a contrast already paired within its chain.
        low, high: ends of the interval, NaN where they are unknown.
        chains: different chains behind it; 0 where nothing in it was drawn by a chain.
        n: items.
        spread: standard deviation of the chains' means, NaN for fewer than two chains.
    """

    value: float
    low: float
    high: float
    chains: int
    n: int
    spread: float = math.nan


def estimate_over_chains(values: np.ndarray, clusters: Sequence[Hashable], level: float = LEVEL) -> Estimate:
    """Return the mean of chains that answered the same items, with the interval of the module's head.

    Args:
        values: float (C, N): a chain a row, an item a column; only different chains (`equal_chains` finds copies).
        clusters: what each item shares with others, e.g. its source image (N,).
        level: of the interval.

    Raises:
        ValueError: no values, a non-finite one, or another number of cluster labels than of items.
    """
    values, sums = _checked(values, clusters)
    chains, n = values.shape
    mean = float(values.mean())
    if chains == 1:
        return Estimate(mean, math.nan, math.nan, 1, n)
    spread = float(values.mean(axis=1).std(ddof=1))  # (C,) -> one number
    between = half_width_over_chains(spread, chains, level)
    half = math.hypot(between, _half_width_over_items(sums, n, level))
    return Estimate(mean, mean - half, mean + half, chains, n, spread)


def estimate_over_items(values: np.ndarray, clusters: Sequence[Hashable], level: float = LEVEL) -> Estimate:
    """Return the mean of values that no chain drew (Copy's, real data's), with a t-interval over clusters.

    Args:
        values: float (N,).
        clusters: as in `estimate_over_chains`.

    Raises:
        ValueError: as in `estimate_over_chains`.
    """
    values, sums = _checked(np.asarray(values)[None], clusters)
    mean, half = float(values.mean()), _half_width_over_items(sums, values.shape[1], level)
    return Estimate(mean, mean - half, mean + half, 0, values.shape[1])


def half_width_over_chains(spread: float, chains: int, level: float = LEVEL) -> float:
    """Return t s / sqrt(C): how far a mean of C chains may lie from the mean of all chains that could be drawn.

    With three chains it is 2.5 times their standard deviation. It says nothing of other items; NaN for fewer than two.
    """
    if chains < 2:
        return math.nan
    return float(stats.t.ppf((1 + level) / 2, chains - 1)) * spread / math.sqrt(chains)


def equal_chains(drawn: Mapping[int, Hashable]) -> dict[int, int]:
    """Return for every chain the first one that drew the same; a chain of its own is mapped to itself.

    A base model copied three times, or one seed used three times, makes three chains on paper and one in truth.

    Args:
        drawn: chain -> everything that it drew, in one order for all chains.
    """
    first: dict[Hashable, int] = {}
    return {chain: first.setdefault(drawn[chain], chain) for chain in sorted(drawn)}


def _checked(values: np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 values (C, N), and the clusters' sums of item deviations (G,)."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"chains of items are an array of shape (C, N) with at least one of each, not {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} values are not finite; set those items aside first")
    if len(clusters) != values.shape[1]:
        raise ValueError(f"{len(clusters)} cluster labels for {values.shape[1]} items")
    items = values.mean(axis=0)  # (N,)
    return values, np.bincount(number_clusters(clusters)[0], weights=items - items.mean())


def _half_width_over_items(sums: np.ndarray, n: int, level: float) -> float:
    """t times the cluster-robust standard error of a mean of n items; infinite for a single cluster."""
    count = len(sums)
    if count == 1:
        return math.inf
    error = math.sqrt(count / (count - 1) * float((sums**2).sum())) / n
    return float(stats.t.ppf((1 + level) / 2, count - 1)) * error
