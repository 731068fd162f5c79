"""The kitchen on disk: public layouts, truth files, same bytes twice."""

from __future__ import annotations

import ast
import csv
import hashlib
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from visdyn import images, paths
from visdyn.datasets import aurora, clips, doundo_bench, epic_kitchens, spatial_questions
from visdyn.kitchen.render import ImageSettings, render_state
from visdyn.kitchen.scene import Scene, make_scene, split_of
from visdyn.kitchen.state import Action, State, apply
from visdyn.kitchen.truth import NAMES, Truth, load_truth, state_at
from visdyn.kitchen.write import KitchenSizes, spatial_files, write_dev, write_kitchen
from visdyn.kitchen.write.aurora_files import SUBSETS
from visdyn.kitchen.write.epic_files import COLUMNS, FRAME_RATE, VERB_CLASSES
from visdyn.params.world import DevSizes

SIZES = KitchenSizes(6, 3, 30, 10, 4, 20, 8)
DEV_SIZES = DevSizes(2, 10, 2, 8)


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("kitchen")
    counts = write_kitchen(root, SIZES, seed=1)
    assert counts["aurora_train"] == 24
    assert counts["aurora_test"] == 15
    assert counts["epic_train"] == 30
    return root


@pytest.fixture(scope="module")
def dev(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("dev")
    counts = write_dev(root, DEV_SIZES, seed=1)
    assert counts == {
        **{"aurora_test": 10, "epic_validation": 10, "spatial": 8},
        **{f"clips_{name}": 2 for name in ("moments", "ucf", "kinetics")},
    }
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def seconds(timestamp: str) -> float:
    hours, minutes, rest = timestamp.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


def public_annotations(name: str) -> Path:
    shared = paths.shared_data()
    path = shared and shared / "data" / "epic-kitchens-100-annotations" / name
    if not path or not path.is_file():
        pytest.skip("EPIC-KITCHENS-100 annotations are not beside the checkout (VISDYN_SHARED)")
    return path


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_writes_the_same_bytes(tmp_path):
    small = KitchenSizes(1, 1, 3, 2, 1, 3, 2)
    first, second, other = (tmp_path / name for name in "abc")
    for root, seed in ((first, 1), (second, 1), (other, 2)):
        write_kitchen(root, small, seed=seed)
    assert digest(first) == digest(second)
    assert digest(first)["captions/images.npy"] != digest(other)["captions/images.npy"]
    write_kitchen(other, small, seed=1)  # replaces an earlier kitchen, leaving nothing of it behind
    assert digest(other) == digest(first)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "aurora").mkdir()
    (tmp_path / "aurora" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not a kitchen"):
        write_kitchen(tmp_path, KitchenSizes(1, 1, 1, 1, 1, 1, 1))
    assert (tmp_path / "aurora" / "mine.txt").read_text() == "keep"


def test_aurora_layout(kitchen):
    root = kitchen / "aurora"
    train = json.loads((root / "data" / "ag" / "train.json").read_text())
    assert set(train[0]) == {"instruction", "input", "output"}
    assert {item["instruction"].split()[0] for item in train} == {"open", "close"}
    test = json.loads((root / "test.json").read_text())
    assert Counter(item["task"] for item in test) == dict.fromkeys(
        ("magicbrush", "ag", "something", "whatsup", "kubric"), 3
    )
    assert not (root / "data" / "whatsup" / "train.json").exists()
    assert all("left" in i["instruction"] or "right" in i["instruction"] for i in test if i["task"] == "whatsup")
    for item in train + test:
        assert images.to_array([root / item["input"], root / item["output"]]).shape == (2, 64, 64, 3)


def test_truth_ids_are_the_readers_ids(kitchen):
    truth = {(r["subset"], r["id"]): r["text"] for r in load_truth(kitchen, "aurora_test")}
    assert {(t.subset, t.id): t.action for t in aurora.load_bench(kitchen / "aurora")} == truth
    truth = {r["id"]: r["text"] for r in load_truth(kitchen, "aurora_train") if r["subset"] == "kubric"}
    assert {t.id: t.action for t in aurora.load_train(kitchen / "aurora", "kubric")} == truth


SPLITS_OF = {"aurora_train": "train", "aurora_test": "test", "epic_train": "train", "epic_validation": "validation"}


@pytest.mark.parametrize(
    ("tree", "name", "split"),
    [*(("kitchen", name, split) for name, split in SPLITS_OF.items()),
     ("dev", "aurora_test", "dev"), ("dev", "epic_validation", "dev")],
)  # fmt: skip
def test_truth_is_what_the_images_show(request, tree, name, split):
    root = request.getfixturevalue(tree)
    records = load_truth(root, name)
    for record in records:
        action, start, end = Action.from_json(record["action"]), *(State.from_json(record[k]) for k in ("start", "end"))
        assert apply(start, action) == end
        assert split_of(Scene.from_json(record["scene"]).layout) == split
        if name.startswith("aurora"):
            files = [root / "aurora" / record[key] for key in ("input", "output")]
        else:
            files = [root / "epic" / "frames" / record["frames"][i] for i in (0, -1)]
        shown = images.to_array(files).astype(float)
        known = np.stack([render_state(record[key], record["scene"]) for key in ("start", "end")])
        assert np.abs(shown - known).mean((1, 2, 3)).max() < 4  # noise, camera shift and JPEG only
        if split != "train":
            assert record["end"] in [candidate["state"] for candidate in record["candidates"]]
            assert len({candidate["text"] for candidate in record["candidates"]}) == len(record["candidates"]) > 3


def test_dev_items_are_read_as_the_test_items_are(dev):
    bench = aurora.load_bench(dev / "aurora")
    assert {(t.subset, t.id): t.action for t in bench} == {
        (r["subset"], r["id"]): r["text"] for r in load_truth(dev, "aurora_test")
    }
    assert Counter(item.subset for item in bench) == dict.fromkeys(SUBSETS, 2)
    pairs = doundo_bench.load(dev / "doundo" / "annotations_test.json", dev / "epic" / "frames")
    assert [pair.id for pair in pairs] == [r["id"] for r in load_truth(dev, "epic_validation")]
    segments = epic_kitchens.load_segments(dev / "epic" / "EPIC_100_validation.csv")
    assert [segment.narration_id for segment in segments] == [pair.id for pair in pairs]
    assert Counter(clip.dataset for clip in clips.find_clips(dev / "clips")) == {"kinetics": 2, "moments": 2, "ucf": 2}
    questions = spatial_questions.load_spatialmqa(dev / "spatial/test.jsonl", dev / "spatial/images")
    assert len(questions) == 8
    truth = Truth(dev)
    assert len(truth.reachable_images("epic_validation", [pairs[0].id])[0]) > 3
    assert len(truth.settled_ranges()) == 6


def test_no_layout_of_the_dev_items_is_trained_or_tested_on(kitchen, dev):
    used, chosen = (
        {Scene.from_json(r["scene"]).layout for name in NAMES if name in parts for r in load_truth(root, name)}
        for root, parts in ((kitchen, NAMES), (dev, ("aurora_test", "epic_validation", "clips")))
    )
    assert len(used) > 40
    assert {split_of(layout) for layout in chosen} == {"dev"}
    assert not used & chosen


@pytest.mark.parametrize("split", ["test", "dev"])
def test_questions_show_scenes_of_their_split(tmp_path, monkeypatch, split):
    drawn = []
    monkeypatch.setattr(spatial_files, "make_scene", lambda *which: drawn.append(make_scene(*which)) or drawn[-1])
    spatial_files.write_spatial(tmp_path, split, 12, 1, ImageSettings())
    assert len(drawn) == 12
    assert {split_of(scene.layout) for scene in drawn} == {split}


def test_dev_files_are_not_trained_on(dev):
    assert not list(dev.rglob("*train*"))
    assert not (dev / "captions").exists()


def test_epic_rows_are_consistent(kitchen):
    for split in ("train", "validation"):
        table = rows(kitchen / "epic" / f"EPIC_100_{split}.csv")
        assert tuple(table[0]) == COLUMNS
        assert len({row["narration_id"] for row in table}) == len(table)
        for row in table:
            assert row["video_id"].startswith(row["participant_id"] + "_")
            for end in ("start", "stop"):
                frame = int(row[f"{end}_frame"])
                assert max(1, int(seconds(row[f"{end}_timestamp"]) * FRAME_RATE + 1e-6)) == frame
                name = f"{row['participant_id']}/rgb_frames/{row['video_id']}/frame_{frame:010d}.jpg"
                assert (kitchen / "epic" / "frames" / name).is_file()
            assert int(row["stop_frame"]) - int(row["start_frame"]) >= 50
            assert ast.literal_eval(row["all_nouns"])[0] == row["noun"]
            assert ast.literal_eval(row["all_noun_classes"])[0] == int(row["noun_class"])
    tables = [rows(kitchen / "epic" / f"EPIC_100_{split}.csv") for split in ("train", "validation")]
    train, validation = ({row["video_id"] for row in table} for table in tables)
    assert not train & validation


def test_epic_columns_and_verb_classes_are_the_public_ones():
    with public_annotations("EPIC_100_validation.csv").open(encoding="utf-8") as file:
        assert file.readline().strip().split(",") == list(COLUMNS)
    with public_annotations("EPIC_100_verb_classes.csv").open(encoding="utf-8") as file:
        classes = {int(row["id"]): ast.literal_eval(row["instances"]) for row in csv.DictReader(file)}
    for verb, number in VERB_CLASSES.items():
        if verb == "unstack":
            assert number not in classes
        else:
            assert verb in classes[number]


def test_doundo_items_carry_the_released_fields(kitchen):
    for name, split in (("train", "train"), ("test", "validation")):
        items = json.loads((kitchen / "doundo" / f"annotations_{name}.json").read_text())
        table = rows(kitchen / "epic" / f"EPIC_100_{split}.csv")
        assert [item["narration_id"] for item in items] == [row["narration_id"] for row in table]
        for item in items:
            assert isinstance(item["start_frame"], int)
            assert item["forward_short"] == item["narration"] != item["reverse_short"]
            assert 30 <= len(item["forward_prompt"].split()) <= 60
            assert 30 <= len(item["reverse_prompt"].split()) <= 60


def test_clips_decode_to_their_states(kitchen):
    records = load_truth(kitchen, "clips")
    assert Counter(record["dataset"] for record in records) == {"moments": 4, "ucf": 4, "kinetics": 4}
    lengths = {"moments": {1}, "ucf": {2}, "kinetics": {2, 3}}
    for record in records:
        assert len(record["actions"]) in lengths[record["dataset"]]
        assert record["class"] == record["actions"][0]["verb"]
        capture, frames = cv2.VideoCapture(str(kitchen / record["video"])), []
        while (answer := capture.read())[0]:
            frames.append(answer[1][..., ::-1].astype(float))
        assert len(frames) == record["num_frames"]
        for span in record["settled"]:
            known = render_state(record["states"][span["index"]], record["scene"])
            for frame in (span["first"], span["last"]):
                assert np.abs(frames[frame] - known).mean() < 3
                assert state_at(record, frame) == span["index"]
        assert state_at(record, record["motion"][0]["first"]) is None


def test_captions_and_pairs(kitchen):
    folder = kitchen / "captions"
    pictures, pairs = np.load(folder / "images.npy"), np.load(folder / "pairs.npy")
    captions = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    assert pictures.shape == (20, 64, 64, 3)
    assert pairs.shape == (8, 2, 64, 64, 3)
    assert [record["index"] for record in captions] == list(range(20))
    assert np.abs(pairs[:, 0].astype(int) - pairs[:, 1]).max((1, 2, 3)).min() > 40


def test_unknown_codec_and_truth_name_are_named(tmp_path, kitchen):
    with pytest.raises(OSError, match="codec 'XXXX'"):
        write_kitchen(tmp_path, KitchenSizes(0, 0, 0, 0, 1, 0, 0), image=ImageSettings(codec="XXXX"))
    with pytest.raises(ValueError, match="no truth file is called 'ag'"):
        load_truth(kitchen, "ag")
    with pytest.raises(FileNotFoundError, match="write the kitchen first"):
        load_truth(tmp_path / "none", "clips")
