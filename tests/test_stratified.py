"""Algorithm 1, against a literal transcription."""

from __future__ import annotations

from collections import namedtuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.mining.stratified import stratified_top_k

Item = namedtuple("Item", "score class_name id")


def algorithm_1(items, k):
    """The paper's lines, with its ties and class order settled as documented, and a guard for k > N."""
    remaining = sorted(items, key=lambda item: (-item.score, item.id))
    classes = list(dict.fromkeys(item.class_name for item in remaining))
    selected = []
    while len(selected) < k and remaining:
        for name in classes:
            top = next((item for item in remaining if item.class_name == name), None)
            if top is not None:
                selected.append(top)
                remaining.remove(top)
            if len(selected) == k:
                break
    return selected


ITEMS = st.lists(st.tuples(st.integers(-3, 3), st.sampled_from("abcd")), max_size=25).map(
    lambda rows: [Item(score, name, f"{i:02d}") for i, (score, name) in enumerate(rows)]
)


@given(ITEMS, st.integers(0, 30), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_equals_the_papers_algorithm_in_any_order_of_items(items, k, random):
    shuffled = random.sample(items, len(items))
    assert stratified_top_k(shuffled, k) == algorithm_1(items, k)


@given(ITEMS, st.integers(0, 30))
@settings(max_examples=50, deadline=None)
def test_classes_differ_by_one_at_most_unless_exhausted(items, k):
    drawn = stratified_top_k(items, k)
    have = {name: sum(item.class_name == name for item in items) for name in "abcd"}
    got = {name: sum(item.class_name == name for item in drawn) for name in "abcd"}
    most = max(got.values(), default=0)
    assert all(got[name] >= most - 1 or got[name] == have[name] for name in have)


def test_more_than_there_are_gives_all_and_ends():
    items = [Item(1.0, "a", "x"), Item(2.0, "a", "y")]
    assert stratified_top_k(items, 100) == [items[1], items[0]]
    assert stratified_top_k([], 5) == []


def test_key_functions_serve_other_records():
    rows = [{"s": 1, "c": "a", "n": "1"}, {"s": 3, "c": "a", "n": "2"}, {"s": 2, "c": "b", "n": "3"}]
    drawn = stratified_top_k(rows, 2, lambda row: row["s"], lambda row: row["c"], lambda row: row["n"])
    assert [row["n"] for row in drawn] == ["2", "3"]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 0"):
        stratified_top_k([], -1)
    with pytest.raises(ValueError, match="item x has the score nan"):
        stratified_top_k([Item(float("nan"), "a", "x")], 1)
