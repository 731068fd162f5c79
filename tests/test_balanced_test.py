"""The Do-Undo test set: balanced, seeded, with unseen verbs; the counts of the paper's versions."""

from __future__ import annotations

from collections import Counter

import pytest

from visdyn.mining.balanced_test import UNSEEN_VERBS, V2_COUNTS, balance_table, familiarity, select_test
from visdyn.trajectory import ReversiblePair

COUNTS = {"open": 40, "close": 30, "pick-up": 50, "put-down": 45, "put": 25, "turn-on": 22, "turn-off": 21, "move": 12}
COUNTS |= {"place": 11, "grab": 9, "rotate": 2, "remove-from": 14, "stack": 3, "take": 70, "get": 30, "unstack": 33}


@pytest.fixture(scope="module")
def pairs():
    verbs = [verb for verb, count in COUNTS.items() for _ in range(count)]
    return [ReversiblePair("a", "b", "f", "r", "s", "t", "n", verb, "cup", f"{i:04d}") for i, verb in enumerate(verbs)]


def _counts(pairs):
    return Counter(pair.verb for pair in pairs)


def test_version_1_balances_the_top_eight_and_adds_the_unseen(pairs):
    seen = [pair for pair in pairs if pair.verb not in ("take", "get")]  # v1's vocabulary has neither
    chosen = _counts(select_test(seen, "v1", None, seed=0))
    top = {"open", "close", "pick-up", "put-down", "put", "turn-on", "turn-off", "move"}
    assert {verb: chosen[verb] for verb in top} == dict.fromkeys(top, 12)  # as many as the rarest of the eight
    assert {verb: chosen[verb] for verb in UNSEEN_VERBS} == {"rotate": 2, "remove-from": 12, "stack": 3}
    assert set(chosen) == top | set(UNSEEN_VERBS)  # unstack is none of the vocabulary's, nor one of the paper's
    assert _counts(select_test(seen, "v1", 20, seed=0))["move"] == 12  # all there are
    assert _counts(select_test(seen, "v1", 20, seed=0))["open"] == 20


def test_version_2_has_the_printed_counts(pairs):
    assert sum(V2_COUNTS.values()) == 451
    chosen = _counts(select_test(pairs, "v2", None, seed=0))
    assert chosen == {verb: min(count, COUNTS[verb]) for verb, count in V2_COUNTS.items()}


def test_the_draw_is_seeded_and_keeps_the_order(pairs):
    first = select_test(pairs, "v1", 5, seed=1)
    assert first == select_test(pairs, "v1", 5, seed=1)
    assert first != select_test(pairs, "v1", 5, seed=2)
    assert [pair.id for pair in first] == sorted(pair.id for pair in first)
    assert select_test(pairs, "all", 5, seed=1) == pairs
    fewer = [pair for pair in pairs if pair.verb != "close"]  # of other verbs, the draw stays
    kept = {pair.id for pair in select_test(fewer, "v2", None, 1)}
    assert kept == {pair.id for pair in select_test(pairs, "v2", None, 1) if pair.verb != "close"}


def test_the_table_says_how_it_came_about(pairs):
    chosen = select_test(pairs, "v2", None, seed=0)
    table = balance_table([pair.verb for pair in pairs] + ["move"], pairs, chosen, "v2", None).set_index("verb")
    assert table.loc["move"].to_dict() == {"unseen": 0, "mined": 13, "passed": 12, "wanted": 10, "chosen": 10}
    assert table.loc[["stack", "unstack"], "unseen"].tolist() == [1, 1]
    assert table["chosen"].sum() == len(chosen)


def _pair(verb, noun, name=""):
    return ReversiblePair("a", "b", "f", "r", "s", "t", "n", verb, noun, name)


def test_rare_is_counted_in_training_and_a_verb_never_trained_is_unseen():
    training = [_pair("open", "drawer")] * 9 + [_pair("open", "cupboard")] * 2 + [_pair("close", "drawer")] * 5
    often = [_pair("open", "drawer")] * 4  # the test set has few of the rare one and many of the common
    test = [_pair("open", "cupboard"), *often, _pair("close", "drawer"), _pair("stack", "drawer")]
    assert familiarity(test, training) == ["rare", *["common"] * 4, "rare", "unseen"]  # 2 and 5 of 2 5 9 9 9 9
    assert familiarity([_pair("close", "cupboard"), *often], training)[0] == "rare"  # the verb, but never this noun
    assert familiarity(test[-1:], training) == ["unseen"]


def test_an_unknown_split_is_refused(pairs):
    with pytest.raises(ValueError, match="unknown test split 'v3'"):
        select_test(pairs, "v3", None, 0)
