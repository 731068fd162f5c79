"""The records and the four kinds of negatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.trajectory import NEGATIVE_KINDS, ReversiblePair, Trajectory, negatives


def _trajectories(subsets: list[str]) -> list[Trajectory]:
    return [Trajectory(f"s{i}.png", f"action {i}", f"t{i}.png", name, str(i)) for i, name in enumerate(subsets)]


ITEMS = _trajectories(["a", "a", "a", "b", "b"])


@pytest.mark.parametrize("text", ["", "  ", None])
def test_a_trajectory_without_action_is_refused(text):
    with pytest.raises(ValueError, match="a/7 has no action"):
        Trajectory("s", text, "t", "a", "7")


def test_copy_and_inverse_observation():
    assert negatives(ITEMS, "copy_observation", 0) == [replace(item, target=item.source) for item in ITEMS]
    inverted = negatives(ITEMS, "inverse_observation", 0)
    assert negatives(inverted, "inverse_observation", 0) == ITEMS
    assert inverted[0].source == "t0.png"


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_drawn_negatives_differ_and_stay_in_their_subset(names, seed):
    items = _trajectories(names * 2)
    for kind, field in (("random_action", "action"), ("random_observation", "target")):
        for item, negative in zip(items, negatives(items, kind, seed), strict=True):
            assert getattr(negative, field) != getattr(item, field)
            assert getattr(negative, field) in {getattr(o, field) for o in items if o.subset == item.subset}
            assert replace(negative, **{field: getattr(item, field)}) == item


def test_random_action_never_draws_the_same_text():
    items = [replace(item, subset="a", action=text) for item, text in zip(ITEMS, "ppPPq", strict=True)]
    assert [item.action for item in negatives(items, "random_action", 3)][:4] == ["q"] * 4


def test_draws_depend_on_the_seed_alone():
    items = _trajectories(["a"] * 30)
    assert negatives(items, "random_action", 1) == negatives(items, "random_action", 1)
    assert negatives(items, "random_action", 1) != negatives(items, "random_action", 2)


def test_equal_image_arrays_are_no_other_observation():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    items = [Trajectory(black, "x", target, "a", str(i)) for i, target in enumerate((black, black.copy(), white))]
    drawn = negatives(items, "random_observation", 0)
    assert np.array_equal(drawn[0].target, white)
    assert np.array_equal(drawn[2].target, black)


def test_impossible_requests_name_the_reason():
    with pytest.raises(ValueError, match="subset b has no other action"):
        negatives(ITEMS[3:4], "random_action", 0)
    with pytest.raises(ValueError, match=NEGATIVE_KINDS[0]):
        negatives(ITEMS, "counterfactual", 0)


def test_a_reversible_pair_gives_both_directions():
    pair = ReversiblePair("a.jpg", "b.jpg", "long do", "long undo", "do", "undo", "do", "open", "door", "P01_1")
    assert (pair.forward().source, pair.forward().action, pair.forward().target) == ("a.jpg", "long do", "b.jpg")
    reverse = pair.reverse("short")
    assert (reverse.source, reverse.action, reverse.target, reverse.id) == ("b.jpg", "undo", "a.jpg", "P01_1-reverse")
    with pytest.raises(ValueError, match="P01_1 has an empty reverse_prompt"):
        replace(pair, reverse_prompt=" ")
