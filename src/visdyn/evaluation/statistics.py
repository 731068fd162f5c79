"""Intervals and paired tests over items; every result carries its n. (Over chains: `chains.py`.)"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_CHUNK = 2_000_000  # resampled indices held at once, to bound memory
_EXACT_CLUSTERS = 16  # up to here all sign patterns are enumerated


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval [low, high] over n items."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class WilcoxonResult:
    """A Wilcoxon signed-rank test.

    Attributes:
        statistic: the smaller rank sum (the sum of positive ranks in a one-sided test).
        pvalue: of the stated alternative; 1 where no difference is left.
        n: pairs.
        num_nonzero: pairs that differ; with `zero_method="wilcox"` only these count.
        zero_method, alternative: as given to scipy.
        mean_difference: mean of scores - reference, the direction of the effect.
    """

    statistic: float
    pvalue: float
    n: int
    num_nonzero: int
    zero_method: str
    alternative: str
    mean_difference: float


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over n pairs with its bootstrap interval, and how often a wins, ties and loses."""

    mean: float
    low: float
    high: float
    n: int
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class PermutationResult:
    """A two-sided sign-flip test: mean difference, p, pairs, clusters, and sign patterns tried (exact or drawn)."""

    mean: float
    pvalue: float
    n: int
    num_clusters: int
    num_permutations: int
    exact: bool


def bootstrap_interval(values: Sequence[float], seed: int, level: float = 0.95, num_resamples: int = 2000) -> Interval:
    """Return the mean of `values` with a percentile bootstrap interval over items.

    Raises:
        ValueError: no values, a non-finite value, or a level outside (0, 1).
    """
    array = _finite(values, "values")
    return bootstrap_statistic(len(array), lambda rows: array[rows].mean(axis=-1), seed, level, num_resamples)


def bootstrap_statistic(
    n: int, statistic: Callable[[np.ndarray], np.ndarray], seed: int, level: float = 0.95, num_resamples: int = 2000
) -> Interval:
    """Return any statistic of n items (a corpus score, say) with its percentile bootstrap interval.

    Args:
        n: number of items.
        statistic: maps int64 item indices (B, n) to float (B,).
        seed: of the resampling.
        level: of the interval, e.g. .95.
        num_resamples: bootstrap samples.
    """
    if n < 1:
        raise ValueError("an interval needs at least one item")
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    generator = np.random.default_rng(seed)
    per_chunk = max(1, _CHUNK // n)
    sizes = [min(per_chunk, num_resamples - start) for start in range(0, num_resamples, per_chunk)]
    drawn = np.concatenate([statistic(generator.integers(0, n, (size, n))) for size in sizes])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(np.arange(n)[None])[0]), float(low), float(high), n)


def wilcoxon_against(
    scores: Sequence[float],
    reference: Sequence[float],
    zero_method: str = "wilcox",
    alternative: str = "two-sided",
) -> WilcoxonResult:
    """Test paired `scores` against `reference` with the Wilcoxon signed-rank test (Bootstrapping, Table 5).

    The paper names neither its treatment of zeros nor its sidedness. The defaults are scipy's: zero differences are
    dropped (`wilcox`), two-sided; `pratt` ranks zeros before dropping them. Best-worst scores have few distinct
    values, so many differences are zero: read `num_nonzero` beside the p-value, and see `sign_flip_test`.

    Raises:
        ValueError: sequences of different lengths, empty or non-finite.
    """
    difference = _differences(scores, reference)
    num_nonzero = int(np.count_nonzero(difference))
    statistic, pvalue = 0.0, 1.0
    if num_nonzero:
        test = stats.wilcoxon(difference, zero_method=zero_method, alternative=alternative)
        statistic, pvalue = float(test.statistic), float(test.pvalue)
    mean = float(difference.mean())
    return WilcoxonResult(statistic, pvalue, len(difference), num_nonzero, zero_method, alternative, mean)


def paired_difference(
    scores: Sequence[float], reference: Sequence[float], seed: int, level: float = 0.95
) -> PairedDifference:
    """Return the mean of scores - reference over pairs with a percentile bootstrap interval over pairs.

    Raises:
        ValueError: sequences of different lengths, empty or non-finite.
    """
    difference = _differences(scores, reference)
    interval = bootstrap_interval(difference, seed, level)
    signs = [int((difference > 0).sum()), int((difference == 0).sum()), int((difference < 0).sum())]
    return PairedDifference(interval.value, interval.low, interval.high, interval.n, *signs)


def resample_clusters(
    values: np.ndarray, clusters: Sequence[Hashable], seed: int, num_resamples: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """Draw whole clusters with replacement, and return what the values in them sum up to and how many there are.

    Items that share a source are not independent of each other, so they are drawn together. `sums / counts` are the
    means of one resample; strata are resampled one by one and their sums and counts added.

    Args:
        values: float (N, V), V quantities of the same N items; NaN where an item has none.
        clusters: what each item stands on, e.g. its photograph (N,).
        seed: of the draws, which all quantities share, so that differences of columns are paired.
        num_resamples: R.

    Returns:
        sums float64 (R, V), counts int64 (R, V).

    Raises:
        ValueError: `values` is no array of items by quantities with a cluster for each item.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not len(values) or len(clusters) != len(values):
        raise ValueError(f"values of shape {values.shape} do not go with {len(clusters)} cluster labels")
    labels, num_clusters = number_clusters(clusters)
    member = np.zeros((num_clusters, len(values)))  # (C, N)
    member[labels, np.arange(len(values))] = 1
    known = np.isfinite(values)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), num_resamples)  # (R, C)
    sums = drawn @ (member @ np.where(known, values, 0))
    return sums, np.rint(drawn @ (member @ known)).astype(np.int64)


def number_clusters(clusters: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """Return each item's cluster as a number (N,) from 0 on, in order of appearance, and how many there are."""
    index: dict[Hashable, int] = {}
    labels = np.array([index.setdefault(cluster, len(index)) for cluster in clusters])
    return labels, len(index)


def sign_flip_test(
    scores: Sequence[float],
    reference: Sequence[float],
    clusters: Sequence[Hashable],
    seed: int,
    num_permutations: int = 9999,
) -> PermutationResult:
    """Test whether the mean of scores - reference is zero by flipping the signs of whole clusters.

    An annotator's judgements are not independent of each other, so all differences of one annotator change sign
    together. Up to 16 clusters every sign pattern is enumerated (the p-value is exact); beyond, patterns are drawn
    and the p-value is (1 + as extreme) / (1 + drawn).

    Args:
        scores, reference: paired values (N,).
        clusters: who gave each pair of values, e.g. the annotator's id (N,).
        seed: of the drawn patterns.
        num_permutations: patterns drawn where they are not enumerated.
    """
    difference = _differences(scores, reference)
    if len(clusters) != len(difference):
        raise ValueError(f"{len(clusters)} cluster labels for {len(difference)} pairs")
    sums = np.bincount(number_clusters(clusters)[0], weights=difference)
    exact = len(sums) <= _EXACT_CLUSTERS
    drawn = _all_signs(len(sums)) if exact else _drawn_signs(len(sums), num_permutations, seed)
    # A relative tolerance keeps the identity pattern and its mirror from falling to rounding.
    extreme = int((np.abs(drawn @ sums) >= abs(sums.sum()) - 1e-9 * np.abs(sums).sum()).sum())
    pvalue = extreme / len(drawn) if exact else (1 + extreme) / (1 + len(drawn))
    return PermutationResult(float(difference.mean()), pvalue, len(difference), len(sums), len(drawn), exact)


def _all_signs(num_clusters: int) -> np.ndarray:
    bits = np.arange(2**num_clusters)[:, None] >> np.arange(num_clusters) & 1
    return (2 * bits - 1).astype(np.float64)


def _drawn_signs(num_clusters: int, num_permutations: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], (num_permutations, num_clusters))


def _differences(scores: Sequence[float], reference: Sequence[float]) -> np.ndarray:
    left, right = _finite(scores, "scores"), _finite(reference, "reference scores")
    if len(left) != len(right):
        raise ValueError(f"{len(left)} scores cannot be paired with {len(right)} reference scores")
    return left - right


def _finite(values: Sequence[float], name: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} must be a non-empty list of numbers, not an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} hold {int((~np.isfinite(array)).sum())} non-finite numbers; set those items aside first"
        )
    return array
