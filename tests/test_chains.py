"""Intervals over chains, on simulated results with a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from visdyn.evaluation.chains import equal_chains, estimate_over_chains, estimate_over_items, half_width_over_chains

REPETITIONS, ITEMS = 800, 120
# Standard deviations of chain, item, cluster and rest, and items a cluster: where each part decides, and mixtures.
WORLDS = {
    "items decide": (0.0, 1.0, 0.0, 1.0, 1),
    "chains decide": (0.5, 1.0, 0.0, 1.0, 1),
    "both": (0.15, 1.0, 0.0, 1.0, 1),
    "clusters of four": (0.07, 0.5, 1.0, 1.0, 4),
}


def draw(world: str, rng: np.random.Generator, chains: int = 3, truth: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return values (C, N) of a world, and the items' clusters (N,)."""
    of_chain, of_item, of_cluster, rest, size = WORLDS[world]
    clusters = np.arange(ITEMS) // size
    shared = rng.normal(0, of_item, ITEMS) + rng.normal(0, of_cluster, ITEMS)[clusters]
    own = rng.normal(0, of_chain, (chains, 1)) + rng.normal(0, rest, (chains, ITEMS))
    return truth + shared + own, clusters


@pytest.mark.parametrize("world", WORLDS)
def test_an_interval_of_three_chains_covers_the_truth_at_the_stated_rate(world):
    rng = np.random.default_rng(1)
    found = [estimate_over_chains(*draw(world, rng, truth=2.0)) for _ in range(REPETITIONS)]
    covered = np.mean([one.low <= 2.0 <= one.high for one in found])
    # 800 repetitions of a true .95 give .935 to .965 in 95 of 100 runs; more is allowed, but not the whole line.
    assert 0.935 <= covered <= 0.995


def test_shares_of_few_right_answers_are_covered_too():
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(REPETITIONS):
        logits = -1.5 + rng.normal(0, 0.3, (3, 1)) + rng.normal(0, 1, ITEMS)
        truth = np.mean(1 / (1 + np.exp(-(-1.5 + np.sqrt(1.09) * NORMAL))))
        one = estimate_over_chains(rng.random((3, ITEMS)) < 1 / (1 + np.exp(-logits)), np.arange(ITEMS))
        covered.append(one.low <= truth <= one.high)
    assert np.mean(covered) >= 0.935


NORMAL = np.random.default_rng(0).normal(size=20_000)


@pytest.mark.parametrize("world", WORLDS)
def test_no_effect_is_on_one_side_of_zero_as_rarely_as_stated(world):
    rng = np.random.default_rng(3)
    above = np.mean([estimate_over_chains(*draw(world, rng)).low > 0 for _ in range(REPETITIONS)])
    assert above <= 0.025 + 0.011  # 2.5 %, and two standard errors of 800 repetitions


def test_the_interval_is_the_sum_of_squares_of_its_two_parts():
    values = np.array([[1.0, 2.0, 3.0, 6.0], [2.0, 2.0, 5.0, 7.0], [3.0, 5.0, 7.0, 9.0]])
    one = estimate_over_chains(values, ["a", "a", "b", "c"])
    means = values.mean(axis=1)  # 3, 4, 6
    between = 4.302653 * means.std(ddof=1) / math.sqrt(3)
    items = values.mean(axis=0) - values.mean()
    sums = np.array([items[0] + items[1], items[2], items[3]])
    within = 4.302653 * math.sqrt(3 / 2 * (sums**2).sum()) / 4
    assert one.value == pytest.approx(values.mean())
    assert one.high - one.value == pytest.approx(math.hypot(between, within), rel=1e-5)
    assert one.value - one.low == pytest.approx(one.high - one.value)
    assert (one.chains, one.n, one.spread) == (3, 4, pytest.approx(means.std(ddof=1)))


def test_items_of_one_source_count_less_than_items_of_their_own():
    values = np.repeat(np.random.default_rng(4).normal(size=(3, 20)), 5, axis=1)
    alone = estimate_over_chains(values, range(100))
    shared = estimate_over_chains(values, np.repeat(np.arange(20), 5))
    assert shared.high - shared.low > 1.2 * (alone.high - alone.low)


def test_three_chains_leave_two_and_a_half_deviations_open():
    assert half_width_over_chains(2.0, 3) == pytest.approx(2 * 4.302653 / math.sqrt(3), rel=1e-6)
    assert math.isnan(half_width_over_chains(2.0, 1))


def test_one_chain_has_no_interval():
    one = estimate_over_chains(np.array([[0.2, 0.4]]), "ab")
    assert (one.value, one.chains) == (pytest.approx(0.3), 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_what_no_chain_drew_has_an_interval_over_items():
    one = estimate_over_items(np.array([1.0, 2.0, 3.0]), "abc")
    assert (one.chains, one.value) == (0, 2.0)
    assert one.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)


def test_a_copied_chain_is_found():
    assert equal_chains({5: (1.5, 2.5), 0: (1.5, 2.5), 1: (1.5, 2.5), 2: (1.5, 2.6)}) == {0: 0, 1: 0, 2: 2, 5: 0}


def test_wrong_arrays_are_refused_in_words():
    with pytest.raises(ValueError, match=r"shape \(C, N\).*not \(0, 3\)"):
        estimate_over_chains(np.empty((0, 3)), "abc")
    with pytest.raises(ValueError, match=r"1 values are not finite"):
        estimate_over_chains(np.array([[1.0, np.nan]]), "ab")
    with pytest.raises(ValueError, match=r"3 cluster labels for 2 items"):
        estimate_over_items(np.array([1.0, 2.0]), "abc")
