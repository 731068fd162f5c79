"""An empty data set is an error, and so is one of which everything is set aside."""

from __future__ import annotations

import pytest

from visdyn.datasets import aurora, doundo_bench, epic_kitchens, spatial_questions
from visdyn.datasets.bad_items import DatasetError
from visdyn.datasets.clips import Clip, find_clips
from visdyn.mining.clip_mining import ClipSettings, mine_clips
from visdyn.quarantine import Quarantine, SetAsideError
from visdyn.training.bagel.records import read_questions, read_records

READERS = {
    "data/ag/train.json": ("[]", lambda root: aurora.load_train(root, "ag")),
    "test.json": ("[]", lambda root: aurora.load_bench(root)),
    "annotations.json": ("[]", lambda root: doundo_bench.load(root / "annotations.json", root)),
    "annotations.csv": (",".join(doundo_bench.FIELDS), lambda root: doundo_bench.load(root / "annotations.csv", root)),
    "EPIC.csv": (",".join(epic_kitchens.COLUMNS), lambda root: epic_kitchens.load_segments(root / "EPIC.csv")),
    "questions.jsonl": ("", lambda root: spatial_questions.load_spatialmqa(root / "questions.jsonl", root)),
    "bench.json": ("[]", lambda root: spatial_questions.load_embspatial(root / "bench.json")),
    "captions.jsonl": ("", lambda root: read_records(captions=str(root / "captions.jsonl"))),
    "asked.jsonl": ("", lambda root: read_questions(root / "asked.jsonl")),
    "clips/readme.txt": ("", lambda root: find_clips(root / "clips")),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_refuses_a_file_without_an_item(tmp_path, name):
    content, read = READERS[name]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=r"holds no (usable )?(item|question|clip)"):
        read(tmp_path)


def test_a_bench_without_an_item_of_the_subsets_is_refused(tmp_path):
    (tmp_path / "test.json").write_text('[{"task": "other", "instruction": "x", "input": "a", "output": "b"}]')
    with pytest.raises(DatasetError, match="holds no item"):
        aurora.load_bench(tmp_path)


def test_triplets_of_which_too_many_lack_an_image_are_refused(tmp_path):
    items = ", ".join('{"instruction": "x", "input": "a.png", "output": "b.png"}' for _ in range(3))
    (tmp_path / "data/ag").mkdir(parents=True)
    (tmp_path / "data/ag/train.json").write_text(f"[{items}]")
    with pytest.raises(SetAsideError, match=r"train\.json: 3 of 3 set aside, nothing is left; first: ag/train\.json"):
        aurora.load_train(tmp_path, "ag", Quarantine(most=0.5))


def test_clips_of_which_none_can_be_read_are_refused(tmp_path):
    clips = []
    for number in range(2):
        path = tmp_path / f"{number}.avi"
        path.write_bytes(b"no video")
        clips.append(Clip(path, "moments", "open", str(number)))
    with pytest.raises(SetAsideError, match=r"clips: 2 of 2 set aside, nothing is left"):
        mine_clips(clips, ClipSettings(), quarantine=Quarantine(most=0.5))


def test_settings_of_mining_are_no_fault_of_a_clip():
    with pytest.raises(ValueError, match="unknown flow 'farnebeck'; choose of farneback, dis"):
        ClipSettings(flow="farnebeck")
