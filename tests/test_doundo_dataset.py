"""From EPIC segments with frames to the released JSON, with tiny Qwen-VL models as filter and as writer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_external import EPIC_HEADER
from tiny_vlms import save_tiny

from visdyn.compute.store import Store
from visdyn.datasets import doundo_bench
from visdyn.datasets.epic_kitchens import load_segments
from visdyn.mining import curation
from visdyn.mining.reversible import OUT_OF_DISTRIBUTION
from visdyn.params import load_params
from visdyn.quarantine import Quarantine
from visdyn.stages import mining
from visdyn.stages.mining import mine_reversible

ROWS = [("open", "door"), ("pick-up", "cup"), ("stack", "plate"), ("wash", "cup"), ("open", "tap"), ("close", "door")]
# The last segment overruns its video by 10 frames, and is clamped.
LAST_FILE = 60 * len(ROWS) + 30


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Real-like data: six segments, of which the fifth lies in a video whose frames are wrong."""
    lines = []
    for number, (verb, noun) in enumerate(ROWS):
        video = "P01_109" if number == 4 else "P01_01"
        times = f"00:00:01.00,00:00:01.00,00:00:02.00,{60 * number + 1},{60 * number + 41 + 59 * (number == 5)}"
        classes = f"{verb} {noun},{verb},0,{noun},0,['{noun}'],[0]"
        lines.append(f"{video}_{number},P01,{video},{times},{classes}\n")
    for name in ("EPIC_100_train.csv", "EPIC_100_validation.csv"):
        (tmp_path / name).write_text(EPIC_HEADER + "".join(lines))
    folder = tmp_path / "frames/P01/rgb_frames/P01_01"
    folder.mkdir(parents=True)
    for frame in range(1, LAST_FILE + 1, 10):
        pixels = np.random.default_rng(frame).integers(0, 255, (16, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"frame_{frame:010d}.jpg")
    settings = load_params(".")
    models = {"filter_model": str(_tiny(tmp_path, "qwen2_vl")), "expansion_model": str(_tiny(tmp_path, "qwen3_vl"))}
    params = replace(settings.mining, curator="a Qwen-VL", test_split="v1", vlm_batch=2, **models)
    # A random model writes no 0, 1 or prose: its words are kept out of the parsers, and that it was asked is checked.
    monkeypatch.setattr(curation, "parse_quality", lambda text: curation.Quality(True, True, True))
    monkeypatch.setattr(curation, "parse_expansion", lambda text: f"{len(text)} letters, written at some length")
    return SimpleNamespace(
        params=params,
        seed=0,
        kitchen=None,
        device="cpu",
        log=tmp_path / "log",
        data=lambda name: tmp_path,
        path=lambda rel: tmp_path / rel,
        reference=lambda name: name,
        settings=settings,
    )


def _tiny(root: Path, name: str) -> Path:
    (root / name).mkdir()
    return save_tiny(name, root / name)


def test_segments_become_the_released_json(stage, tmp_path):
    (tmp_path / "data/mined").mkdir(parents=True)
    quarantine = Quarantine()
    test = mine_reversible(stage, "test", quarantine)
    assert [pair.id for pair in test.pairs] == ["P01_01_0", "P01_01_1", "P01_01_2", "P01_01_5"]
    assert {entry.item: "errata" in entry.reason for entry in quarantine} == {"P01_109_4": True}
    file = tmp_path / "data/mined/doundo_test.json"
    rows = json.loads(file.read_text())
    assert set(doundo_bench.FIELDS) <= rows[0].keys()
    assert rows[-1]["stop_frame"] == max(range(1, LAST_FILE + 1, 10))  # the last file there is
    assert doundo_bench.load(file, tmp_path / "frames") == test.pairs
    assert test.pairs[2].reverse_short == "unstack the plate"
    assert test.counts["source"].unique().tolist() == ["epic-100-test"]
    assert test.balance.set_index("verb").loc["stack", ["unseen", "chosen"]].tolist() == [1, 1]
    assert test.lengths["count"].sum() == 4 * len(test.pairs)
    assert "4 of 4 pairs expanded" in stage.log.read_text()


def test_training_pairs_have_no_unseen_verb_and_nothing_is_asked_twice(stage, tmp_path, monkeypatch):
    (tmp_path / "data/mined").mkdir(parents=True)
    train = mine_reversible(stage, "train", Quarantine())
    assert {pair.verb for pair in train.pairs} == {"open", "pick-up", "close"}
    answers = {path.name: len(Store(path).keys()) for path in tmp_path.rglob("*.sqlite")}
    assert sorted(answers.values()) == [3, 6]  # three questions to the filter, six to the writer

    def refuses(self, questions):
        raise AssertionError("a question was asked a second time")

    monkeypatch.setattr(mining.TransformersVLM, "answer_many", refuses)
    assert mine_reversible(stage, "train", Quarantine()).pairs == train.pairs


def test_the_kitchens_training_pairs_have_no_unseen_verb_either(stage, tmp_path):
    (tmp_path / "data/mined").mkdir(parents=True)
    stage.kitchen = tmp_path
    quarantine = Quarantine()
    assert not {pair.verb for pair in mine_reversible(stage, "train", quarantine).pairs} & set(OUT_OF_DISTRIBUTION)
    assert {pair.verb for pair in mine_reversible(stage, "test", quarantine).pairs} & set(OUT_OF_DISTRIBUTION)


def test_without_a_model_the_long_prompts_come_with_the_data(stage, tmp_path):
    (tmp_path / "data/mined").mkdir(parents=True)
    mined = mine_reversible(stage, "test", Quarantine()).pairs
    doundo_bench.dump(mined[:2], tmp_path / "annotations_test.json", load_segments(tmp_path / "EPIC_100_train.csv"))
    stage.params = replace(stage.params, curator="annotations")
    quarantine = Quarantine()
    assert mine_reversible(stage, "test", quarantine).pairs == mined[:2]
    assert "no long prompts" in quarantine.items[-1].reason
