"""What the known states say about mined pairs and about captions; and the files that mining exchanges."""

from __future__ import annotations

import numpy as np
import pytest

from visdyn.datasets.clips import find_clips, stream_frames
from visdyn.datasets.epic_kitchens import load_segments
from visdyn.images import to_array
from visdyn.kitchen.render import render_state
from visdyn.kitchen.state import State
from visdyn.kitchen.text import list_facts
from visdyn.kitchen.truth import _clip_key, load_truth, open_truth
from visdyn.kitchen.write import KitchenSizes, write_kitchen
from visdyn.mining.clip_mining import ClipSettings, mine_clips
from visdyn.mining.mined_files import prompt_lengths, read_pairs, write_pairs
from visdyn.mining.reversible import mine_pairs
from visdyn.trajectory import ReversiblePair

SIZES = KitchenSizes(2, 2, 12, 12, 4, 8, 4)


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kitchen") / "kitchen"
    write_kitchen(folder, SIZES, seed=1)
    return folder


def test_the_true_action_of_a_pair_is_the_one_between_its_two_settled_states(kitchen):
    record = next(record for record in load_truth(kitchen, "clips") if len(record["texts"]) > 1)
    key = _clip_key(record)
    spans = record["settled"]
    pairs = [
        (key, spans[0]["first"], spans[1]["last"]),
        (key, spans[0]["first"], spans[2]["last"]),  # two actions
        (key, spans[0]["first"], spans[0]["last"]),  # none
        (key, record["motion"][0]["first"], spans[1]["last"]),  # starts with the hand at work
    ]
    assert open_truth(kitchen).true_actions(pairs) == [record["texts"][0], "", "", ""]


def test_settled_ranges_name_states_by_what_they_are(kitchen):
    ranges = open_truth(kitchen).settled_ranges()
    assert len(ranges) == 3 * SIZES.clips_per_dataset
    for record in load_truth(kitchen, "clips"):
        named = ranges[_clip_key(record)]
        same = [record["states"][i] == record["states"][j] for i in range(len(named)) for j in range(len(named))]
        assert [a[2] == b[2] for a in named for b in named] == same


def test_what_is_undone_starts_at_the_true_end(kitchen):
    truth, ids = open_truth(kitchen), [record["id"] for record in load_truth(kitchen, "epic_validation")]
    forward, back = (truth.reachable_images("epic_validation", ids, backwards) for backwards in (False, True))
    again = truth.photograph_again("epic_validation", ids, seed=0)
    starts = [render_state(record["start"], record["scene"]) for record in load_truth(kitchen, "epic_validation")]
    for done, undone, start, end in zip(forward, back, starts, again, strict=True):
        assert any(np.array_equal(image, start) for image in undone)
        assert not any(np.array_equal(image, start) for image in done)
        assert min(np.abs(image - end.astype(float)).mean() for image in done) < 4


def test_walks_are_the_same_for_a_seed_and_start_where_an_item_starts(kitchen):
    truth, records = open_truth(kitchen), load_truth(kitchen, "aurora_test")
    (sources, walks), again = (truth.random_walks("aurora_test", 4, 3, seed=5) for _ in range(2))
    assert walks == again[1] != truth.random_walks("aurora_test", 4, 3, seed=6)[1]
    assert np.array_equal(sources[-1], render_state(records[-1]["start"], records[-1]["scene"]))
    assert {len(texts) for texts in walks} == {3}


def test_of_real_data_nothing_is_known():
    truth = open_truth(None)
    assert not truth.known
    assert truth.captions("aurora_test", ["0"]) is truth.reachable_images("aurora_test", ["0"]) is None
    assert truth.photograph_again("aurora_test", ["0"], 0) is truth.random_walks("aurora_test", 1, 1, 0) is None
    assert truth.settled_ranges() is truth.true_actions([]) is None


def test_reachable_images_hold_the_true_target_and_captions_are_true(kitchen):
    records = load_truth(kitchen, "aurora_test")
    truth, ids = open_truth(kitchen), [record["id"] for record in records]
    candidates = truth.reachable_images("aurora_test", ids)
    for record, images in zip(records, candidates, strict=True):
        target = to_array([kitchen / "aurora" / record["output"]])[0].astype(float)
        assert min(np.abs(image - target).mean() for image in images) < 4  # sensor noise, not another state
    for record, caption in zip(records, truth.captions("aurora_test", ids), strict=True):
        assert set(caption.split(" . ")) <= set(list_facts(State.from_json(record["end"])))


def test_key_frame_pairs_survive_the_disk(kitchen, tmp_path):
    clips = find_clips(kitchen / "clips")[:3]
    settings = ClipSettings(6, 8, ("quiet_around_peak", "greedy_spaced"), write_mode="quiet_around_peak")
    mined = mine_clips(clips, settings, images=tmp_path / "cut")
    pairs = write_pairs(mined, "quiet_around_peak", tmp_path / "cut", tmp_path / "mined")
    found = read_pairs(tmp_path / "mined")
    assert pairs == [pair for pair in mined.pairs if pair.mode == "quiet_around_peak"]
    assert [pair.frames for pair in found] == [
        ((pair.dataset, pair.class_name, pair.video), pair.frame_a, pair.frame_b) for pair in pairs
    ]
    frames = list(stream_frames(next(clip for clip in clips if clip.key == found[0].frames[0])))
    assert np.array_equal(to_array([found[0].source])[0], frames[found[0].frame_a])
    images = {image for pair in found for image in (pair.source, pair.target)}
    assert len(list((tmp_path / "mined").glob("frames/*/*/*/*.png"))) == len(images)  # a shared frame is written once


def test_prompt_lengths_count_every_prompt_once(kitchen):
    mined = mine_pairs(load_segments(kitchen / "epic/EPIC_100_train.csv"), "v1", True, "")
    pairs = [
        ReversiblePair(
            "a", "b", "one two three", "one two", "x", "y z", m.segment.narration, m.verb, m.segment.noun, "1"
        )
        for m in mined
    ]
    table = prompt_lengths(pairs, "kitchen-train", "train")
    assert table["count"].sum() == 4 * len(pairs)
    assert table.set_index(["direction", "length"])["num_words"].to_dict() == {
        ("forward", "long"): 3,
        ("forward", "short"): 1,
        ("reverse", "long"): 2,
        ("reverse", "short"): 2,
    }
