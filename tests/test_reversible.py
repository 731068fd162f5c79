"""Mining reversible actions: vocabularies, inverse narrations, statistics."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from visdyn.datasets.epic_kitchens import Segment, load_segments
from visdyn.mining import reversible
from visdyn.mining.inverse_text import inverse_narration
from visdyn.paths import shared_data
from visdyn.quarantine import Quarantine
from visdyn.trajectory import ReversiblePair

PUBLIC = shared_data() / "data/epic-kitchens-100-annotations/EPIC_100_validation.csv" if shared_data() else None
PAPER_VERBS = ["pick-up", "put-down", "put", "open", "grab", "turn-off", "turn-on", "close", "place", "move", "remove"]


def _segment(verb, noun="door", narration=None, number=0):
    text = narration or f"{verb.replace('-', ' ')} {noun}"
    return Segment(f"P01_01_{number}", "P01", "P01_01", *"abc", 1, 9, text, verb, 0, noun, 0, (noun,), (0,))


def test_the_first_vocabulary_is_the_papers():
    assert sorted(reversible.inverse_verbs("v1")) == sorted(PAPER_VERBS)
    # "grab" and "pick-up" share an inverse, as the paper says.
    assert reversible.inverse_verbs("v1")["grab"] == reversible.inverse_verbs("v1")["pick-up"] == "put-down"


@pytest.mark.parametrize("vocabulary", ["v1", "v2"])
@pytest.mark.parametrize("extras", [False, True])
def test_every_inverse_is_in_the_vocabulary_and_undone_by_some_verb(vocabulary, extras):
    inverses = reversible.inverse_verbs(vocabulary, extras)
    assert set(inverses.values()) <= inverses.keys()
    # Undoing an undoing stays undone: from the second step on, the map goes back and forth.
    assert all(inverses[inverses[inverses[verb]]] == inverses[verb] for verb in inverses)


def test_the_second_vocabulary_covers_the_published_test_set():
    counts = ["turn-on", "turn-off", "take", "open", "pick-up", "put", "put-down", "get", "close", "move"]
    assert set(counts) <= reversible.inverse_verbs("v2").keys()
    with pytest.raises(ValueError, match="v1, v2"):
        reversible.inverse_verbs("v3")


def test_raw_verbs_are_matched_not_classes():
    mined = reversible.mine_pairs([_segment("open"), _segment("take"), _segment("put-into"), _segment("stack")])
    assert [pair.verb for pair in mined] == ["open"]
    mined = reversible.mine_pairs([_segment("open"), _segment("stack")], out_of_distribution=True)
    assert [(pair.verb, pair.inverse_verb, pair.out_of_distribution) for pair in mined] == [
        ("open", "close", False),
        ("stack", "unstack", True),
    ]


@pytest.mark.parametrize(
    ("verb", "inverse", "narration", "noun", "undone"),
    [
        ("open", "close", "open door", "door", "close the door"),
        ("open", "close", "open the red drawer.", "drawer", "close the red drawer"),
        ("turn-on", "turn-off", "turn on tap", "tap", "turn off the tap"),
        ("turn-on", "turn-off", "turn tap on", "tap", "turn off the tap"),
        ("pick-up", "put-down", "pick up cup from table", "cup", "put down the cup"),
        ("put-down", "pick-up", "put cup down", "cup", "pick up the cup"),
        ("put", "pick-up", "put pan on hob", "pan", "pick up the pan from hob"),
        ("put", "pick-up", "put bag in to bin", "bag", "pick up the bag from bin"),
        ("remove", "place", "remove lid from pan", "lid", "place the lid back"),
        ("place-in", "remove-from", "place the cup in the basket", "cup", "remove the cup from the basket"),
        ("remove-from", "place-in", "remove the cup from the basket", "cup", "place the cup in the basket"),
        ("move", "move", "move the cup left", "cup", "move the cup right"),
        ("move", "move", "move the cup to the right", "cup", "move the cup to the left"),
        ("move", "move", "move pan to hob", "pan", "move the pan back"),
        ("stack", "unstack", "stack bowls", "bowl", "unstack the bowls"),
        ("unstack", "stack", "unstack the bowl", "bowl", "stack the bowl"),
        ("open", "close", "still open door", "door", "close the door"),
        ("grab", "put-down", "grab", "cutter:pizza", "put down the pizza cutter"),
    ],
)
def test_inverse_narrations(verb, inverse, narration, noun, undone):
    assert inverse_narration(narration, verb, inverse, noun) == undone


def test_without_an_article_the_annotations_style_is_kept():
    (pair,) = reversible.mine_pairs([_segment("move", "cup", "move red cup left")], article="")
    assert pair.reverse_short == "move red cup right"


def test_statistics_are_tidy_and_say_the_reversible_share():
    segments = [_segment("open"), _segment("open"), _segment("close", "bin"), _segment("wash", "bin")]
    table = reversible.statistics(segments, reversible.mine_pairs(segments))
    assert table.columns.tolist() == ["verb", "noun", "count", "reversible_share"]
    assert table.values.tolist() == [["close", "bin", 1, 0.75], ["open", "door", 2, 0.75]]
    assert reversible.statistics([], []).empty


def test_short_reverse_prompts_are_completed_once():
    pair = ReversiblePair("a", "b", "long", "long", "open door", "", "open door", "open", "door", "P1")
    kept = replace(pair, reverse_short="mine")
    completed = reversible.with_short_prompts([pair, kept])
    assert [item.reverse_short for item in completed] == ["close the door", "mine"]
    with pytest.raises(ValueError, match="pair P1: verb 'wash'"):
        reversible.with_short_prompts([replace(pair, verb="wash")])
    bad = Quarantine()
    assert reversible.with_short_prompts([replace(pair, verb="wash"), kept], bad) == [kept]
    assert [entry.item for entry in bad] == ["P1"]
    oven = replace(pair, narration="turn oven on", verb="turn-on", noun="oven")
    assert reversible.with_short_prompts([oven])[0].reverse_short == "turn off the oven"


@pytest.mark.skipif(PUBLIC is None or not PUBLIC.is_file(), reason="the public EPIC-KITCHENS-100 CSV is not at hand")
def test_the_public_validation_segments():
    segments = load_segments(PUBLIC)
    mined = reversible.mine_pairs(segments)
    counts = Counter(pair.verb for pair in mined)
    assert len(mined) == 4119
    assert (counts["pick-up"], counts["open"], counts["turn-off"], counts["take"]) == (797, 809, 201, 0)
    assert len(reversible.mine_pairs(segments, "v2")) == 5128
    assert all(pair.reverse_short.startswith(pair.inverse_verb.replace("-", " ")) for pair in mined)
    table = reversible.statistics(segments, mined)
    assert table["count"].sum() == 4119
    assert table["reversible_share"].iloc[0] == pytest.approx(4119 / 9668)
