"""What the known states say about mined pairs and about captions; and the files that mining exchanges."""

from __future__ import annotations

import numpy as np
import pytest

from visdyn.datasets.clips import find_clips, read_frames
from visdyn.datasets.epic_kitchens import load_segments
from visdyn.images import to_array
from visdyn.kitchen import measuring
from visdyn.kitchen.state import State
from visdyn.kitchen.text import facts
from visdyn.kitchen.truth import load_truth
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
    key = measuring._clip_key(record)
    spans = record["settled"]
    pairs = [
        (key, spans[0]["first"], spans[1]["last"]),
        (key, spans[0]["first"], spans[2]["last"]),  # two actions
        (key, spans[0]["first"], spans[0]["last"]),  # none
        (key, record["motion"][0]["first"], spans[1]["last"]),  # starts with the hand at work
    ]
    assert measuring.true_actions(kitchen, pairs) == [record["texts"][0], "", "", ""]


def test_settled_ranges_name_states_by_what_they_are(kitchen):
    ranges = measuring.settled_ranges(kitchen)
    assert len(ranges) == 3 * SIZES.clips_per_dataset
    for record in load_truth(kitchen, "clips"):
        named = ranges[measuring._clip_key(record)]
        same = [record["states"][i] == record["states"][j] for i in range(len(named)) for j in range(len(named))]
        assert [a[2] == b[2] for a in named for b in named] == same


def test_reachable_images_hold_the_true_target_and_captions_are_true(kitchen):
    records = load_truth(kitchen, "aurora_test")
    candidates = measuring.reachable_images(records)
    for record, images in zip(records, candidates, strict=True):
        target = to_array([kitchen / "aurora" / record["output"]])[0].astype(float)
        assert min(np.abs(image - target).mean() for image in images) < 4  # sensor noise, not another state
    for record, caption in zip(records, measuring.true_captions([r["end"] for r in records]), strict=True):
        assert set(caption.split(" . ")) <= set(facts(State.from_json(record["end"])))


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
    frames = read_frames(next(clip for clip in clips if clip.key == found[0].frames[0]))
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
