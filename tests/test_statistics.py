"""Intervals and paired tests, against scipy where it has the same."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from visdyn.evaluation.statistics import (
    bootstrap_interval,
    bootstrap_statistic,
    paired_difference,
    sign_flip_test,
    wilcoxon_against,
)


def _scores(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, n)


def test_bootstrap_agrees_with_scipy():
    values = _scores(60, 0, 3.0)
    ours = bootstrap_interval(values, seed=0, num_resamples=9000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=9000, method="percentile", rng=1).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert ours.n == 60
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_bootstrap_is_seeded_and_widens_with_the_level():
    values = _scores(30, 1)
    assert bootstrap_interval(values, 5) == bootstrap_interval(values, 5)
    assert bootstrap_interval(values, 5) != bootstrap_interval(values, 6)
    narrow, wide = (bootstrap_interval(values, 5, level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_bootstrap_in_chunks_covers_every_resample(monkeypatch):
    sizes = []

    def statistic(rows):
        sizes.append(len(rows))
        return rows.mean(axis=1)

    monkeypatch.setattr("visdyn.evaluation.statistics._CHUNK", 40)
    bootstrap_statistic(10, statistic, 0, num_resamples=11)
    assert sizes == [4, 4, 3, 1]  # the last call is the value itself


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.integers(0, 50))
def test_interval_stays_within_the_values(values, seed):
    interval = bootstrap_interval(values, seed, num_resamples=100)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9


@pytest.mark.parametrize("zero_method", ["wilcox", "pratt", "zsplit"])
def test_wilcoxon_is_scipys(zero_method):
    generator = np.random.default_rng(2)
    scores, reference = generator.integers(-1, 2, (2, 70)).astype(float)
    ours = wilcoxon_against(scores, reference, zero_method)
    theirs = stats.wilcoxon(scores, reference, zero_method=zero_method)
    assert (ours.statistic, ours.pvalue) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert (ours.n, ours.num_nonzero) == (70, int((scores != reference).sum()))
    assert ours.num_nonzero < 70
    assert ours.zero_method == zero_method
    assert ours.mean_difference == pytest.approx(scores.mean() - reference.mean())


def test_wilcoxon_finds_a_shift_and_no_difference():
    scores = _scores(40, 3)
    assert wilcoxon_against(scores + 1, scores + _scores(40, 4) / 10).pvalue < 1e-6
    same = wilcoxon_against(scores, scores)
    assert (same.pvalue, same.num_nonzero) == (1.0, 0)
    shifted = scores + 0.5 + _scores(40, 5) / 10
    assert wilcoxon_against(shifted, scores, alternative="less").pvalue > 0.99


def test_paired_difference_counts_and_covers():
    result = paired_difference([3, 2, 5, 1], [1, 2, 4, 2], seed=0)
    assert (result.mean, result.n, result.wins, result.ties, result.losses) == (0.5, 4, 2, 1, 1)
    assert result.low <= 0.5 <= result.high
    # Pairing removes what the items share.
    items = _scores(50, 6) * 100
    assert paired_difference(items + 1, items, seed=0).low == pytest.approx(1)


def test_sign_flip_agrees_with_scipy_when_each_pair_is_its_own_cluster():
    difference = _scores(9, 7, 0.6)
    ours = sign_flip_test(difference, np.zeros(9), range(9), seed=0)
    theirs = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert ours.exact
    assert ours.num_permutations == 512
    assert ours.pvalue == pytest.approx(theirs.pvalue)


def test_sign_flip_flips_whole_clusters():
    scores, zeros = np.ones(30), np.zeros(30)
    clustered = sign_flip_test(scores, zeros, np.repeat(["a", "b", "c"], 10), seed=0)
    assert clustered.pvalue == pytest.approx(2 / 8)
    assert (clustered.n, clustered.num_clusters) == (30, 3)
    single = sign_flip_test(scores, zeros, range(30), seed=0)
    assert not single.exact
    assert single.pvalue == pytest.approx(1 / 10000)


def test_sign_flip_needs_a_label_for_each_pair():
    with pytest.raises(ValueError, match="2 cluster labels for 3 pairs"):
        sign_flip_test([1, 2, 3], [0, 0, 0], ["a", "b"], seed=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([], 0), "non-empty"),
        (lambda: bootstrap_interval([1, math.nan], 0), "1 non-finite"),
        (lambda: bootstrap_interval([1, 2], 0, level=95), "not between 0 and 1"),
        (lambda: wilcoxon_against([1, 2], [1]), "2 scores cannot be paired with 1"),
    ],
)
def test_unusable_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Darwin's pairs of cross- and self-fertilised plants, differences in eighths of an inch; Fisher, The Design of
# Experiments (1935), section 21: of 2**15 sign patterns 1,726 have a sum as far from zero as 314.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
# Hollander and Wolfe (1973), section 3.1: depression scores of nine patients before and after a tranquilliser.
BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]


def test_fisher_s_randomisation_of_darwin_s_plants():
    test = sign_flip_test(DARWIN, [0] * 15, range(15), seed=0)
    assert sum(DARWIN) == 314
    assert (test.exact, test.num_permutations) == (True, 2**15)
    assert test.pvalue == pytest.approx(1726 / 2**15)


def test_wilcoxon_of_hollander_and_wolfe():
    test = wilcoxon_against(BEFORE, AFTER, alternative="greater")
    assert test.statistic == 40
    assert test.pvalue == pytest.approx(0.01953, abs=1e-5)
    assert wilcoxon_against(BEFORE, AFTER).pvalue == pytest.approx(0.03906, abs=1e-5)
