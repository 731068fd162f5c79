"""Doing and undoing, with an editor whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from visdyn.compute.seeds import item_seed
from visdyn.inference.do_undo import do_and_undo
from visdyn.models.editors.protocol import Guidance, check_items
from visdyn.trajectory import ReversiblePair


class Recorder:
    """An editor that inverts its source and remembers what it was asked."""

    def __init__(self):
        self.calls = []

    def edit(self, sources, prompts, seeds, steps=None, guidance=None):
        self.calls.append((list(sources), list(prompts), list(seeds)))
        return [255 - np.asarray(source) for source in sources]


def images(n: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8))


def pair(name: str) -> ReversiblePair:
    first, second = images(2, len(name))
    texts = (f"long do {name}", f"long undo {name}", f"do {name}", f"undo {name}")
    return ReversiblePair(first, second, *texts, "do", "do", name, name)


def test_guidance_refuses_an_unknown_renorm():
    with pytest.raises(ValueError, match="text_channel"):
        Guidance(renorm="nope")


def test_images_of_one_size_are_stacked_and_others_listed():
    small, large = pair("a"), pair("bb")
    wide = [np.repeat(image, 2, axis=1) for image in (large.start, large.end)]
    mixed = [small, replace(large, start=wide[0], end=wide[1])]
    done, undone = do_and_undo(Recorder(), [small, large])
    assert done.shape == undone.shape == (2, 16, 16, 3)
    for source in ("gt", "generated"):
        done, undone = do_and_undo(Recorder(), mixed, reverse_from=source)
        assert [image.shape for image in done] == [image.shape for image in undone] == [(16, 16, 3), (16, 32, 3)]
        assert isinstance(done, list)
        assert isinstance(undone, list)


def test_reverse_starts_from_the_true_end_or_from_the_edit():
    pairs = [pair("a"), pair("bb")]
    recorder = Recorder()
    done, undone = do_and_undo(recorder, pairs, "long", "gt")
    assert recorder.calls[0][1] == ["long do a", "long do bb"]
    assert recorder.calls[1][1] == ["long undo a", "long undo bb"]
    np.testing.assert_array_equal(done, 255 - np.stack([item.start for item in pairs]))
    np.testing.assert_array_equal(undone, 255 - np.stack([item.end for item in pairs]))
    again, chained = do_and_undo(recorder, pairs, "short", "generated")
    assert recorder.calls[3][1] == ["undo a", "undo bb"]
    np.testing.assert_array_equal(again, done)
    np.testing.assert_array_equal(chained, np.stack([item.start for item in pairs]))


def test_noise_follows_run_seed_item_and_direction_only():
    pairs = [pair("a"), pair("bb")]
    recorder = Recorder()
    do_and_undo(recorder, pairs, "long", "gt", seed=1)
    do_and_undo(recorder, pairs[::-1], "short", "generated", seed=1)
    do_and_undo(recorder, pairs, "long", "gt", seed=2)
    first, undo, reordered, _, other, _ = (seeds for _, _, seeds in recorder.calls)
    assert first == reordered[::-1]
    assert len({*first, *undo, *other}) == 6
    assert item_seed(1, "a") != item_seed(1, "b")


def test_do_and_undo_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="gt, generated"):
        do_and_undo(Recorder(), [pair("a")], reverse_from="truth")
    with pytest.raises(ValueError, match="long, short"):
        do_and_undo(Recorder(), [pair("a")], prompt_length="medium")
    with pytest.raises(ValueError, match="same id"):
        do_and_undo(Recorder(), [pair("a"), pair("a")])


def test_a_function_makes_or_finds_the_images_and_what_was_not_done_is_not_undone():
    pairs, asked = [pair("a"), pair("bb")], []

    def make(edits):
        asked.append([(edit.request.direction, edit.request.reverse_from, edit.request.item) for edit in edits])
        return [None if edit.request.item == "a" else f"{edit.request.item} from {type(edit.source).__name__}"
                for edit in edits]  # fmt: skip

    done, undone = do_and_undo(make, pairs, reverse_from=("generated", "gt"))
    assert done == [None, "bb from ndarray"]
    assert undone == {"generated": [None, "bb from str"], "gt": [None, "bb from ndarray"]}
    assert asked == [
        [("forward", "", "a"), ("forward", "", "bb")],
        [("reverse", "generated", "bb")],
        [("reverse", "gt", "a"), ("reverse", "gt", "bb")],
    ]


@pytest.mark.parametrize("lengths", [(1, 2, 2), (2, 1, 2), (2, 2, 1)])
def test_items_must_be_as_many(lengths):
    with pytest.raises(ValueError, match="{} sources, {} prompts and {} seeds must be as many".format(*lengths)):
        check_items(*(range(n) for n in lengths))
