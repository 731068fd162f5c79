"""Frames of Something-Something videos: first and last, whatever the container states, by one resumable command."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from test_clips import write_video

from visdyn.datasets import something
from visdyn.datasets.aurora import load_train
from visdyn.datasets.bad_items import DatasetError
from visdyn.quarantine import Quarantine

GREYS = (10, 200)


@pytest.fixture
def aurora(tmp_path):
    """Two good videos of 12 frames from dark to light, one cut short, one missing; as AURORA's layout names them."""
    videos, folder = tmp_path / "videos", tmp_path / "aurora/data/something"
    folder.mkdir(parents=True)
    frames = [np.full((24, 32, 3), grey, np.uint8) for grey in np.linspace(*GREYS, 12).astype(np.uint8)]
    for name in ("1", "2"):
        _webm(videos / f"{name}.webm", frames)
    noise = [np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8) for i in range(30)]
    cut = _webm(videos / "3.webm", noise)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 3])
    texts = {"1": "moving a cup", "2": "pretending to move a cup", "3": "closing a box", "4": "opening a box"}
    items = [
        {"instruction": text, "input": f"data/something/images/{name}/first.jpg"}
        | {"output": f"data/something/images/{name}/last.jpg"}
        for name, text in texts.items()
    ]
    (folder / "train.json").write_text(json.dumps(items))
    return tmp_path


def _webm(path, frames):
    """Motion JPEG under a name of webm: the build of OpenCV at hand writes no VP8, and reads by content."""
    return write_video(path.with_suffix(".avi"), frames).rename(path)


def _run(aurora, *more):
    annotations = aurora / "aurora/data/something/train.json"
    return something.main(["--videos", str(aurora / "videos"), "--annotations", str(annotations), *map(str, more)])


def test_the_command_fills_auroras_layout_and_names_what_it_could_not(aurora, capsys):
    assert _run(aurora, "--processes", 2) == 0
    assert "2 of 4 videos have their frames; 2 quarantined" in capsys.readouterr().out
    quarantine = Quarantine()
    items = load_train(aurora / "aurora", "something", quarantine)
    assert [item.action for item in items] == ["moving a cup", "pretending to move a cup"]
    assert len(quarantine) == 2
    for item in items:
        greys = [np.asarray(Image.open(image)).mean() for image in (item.source, item.target)]
        assert greys == pytest.approx(GREYS, abs=4)
    with open(aurora / "aurora/data/something" / something.QUARANTINE) as file:
        reasons = {row["item"].rsplit("/", 1)[-1]: row["reason"] for row in csv.DictReader(file)}
    assert "truncated" in reasons["3.webm"]
    assert "does not exist" in reasons["4.webm"]


def test_a_second_run_makes_only_what_is_missing(aurora):
    _run(aurora, "--processes", 1, "--timeout", 0)
    place = aurora / "aurora/data/something/images"
    before = (place / "1/first.jpg").stat().st_mtime_ns
    (place / "2/last.jpg").unlink()
    (aurora / "videos/1.webm").unlink()  # would be an error if it were read again
    _run(aurora, "--processes", 1, "--timeout", 0)
    assert (place / "1/first.jpg").stat().st_mtime_ns == before
    assert (place / "2/last.jpg").is_file()
    assert not list(place.rglob("*.draft"))


@pytest.mark.parametrize("name", ["../../stolen/1", "/tmp/stolen/1", "a/../../../stolen/1", "link/1"])
def test_frames_are_never_written_outside_the_root(aurora, name):
    """AURORA's published annotations name `../../change_descriptions/...`."""
    (aurora / "link").symlink_to(aurora.parent)
    items = [{"input": f"{name}/first.jpg", "output": f"{name}/last.jpg"}]
    with pytest.raises(DatasetError, match=r"annotation 0: .*leads out of"):
        something.plan(items, aurora / "videos", aurora)


def test_a_container_that_counts_too_many_frames_is_believed_within_ten(aurora, monkeypatch):
    """Cut the decoder short of what the container states, by 8 frames and by 11."""
    from visdyn import videos
    from visdyn.datasets import clips

    work = something.plan([{"input": "a/1/first.jpg", "output": "a/1/last.jpg"}], aurora / "videos", aurora)[0]
    for lacking, fine in ((8, True), (11, False)):

        def short(path, lacking=lacking):
            capture = cv2.VideoCapture(str(path))
            for _ in range(12):
                yield capture.read()[1]
            raise clips.ClipError(f"truncated by {lacking}")

        monkeypatch.setattr(clips, "stream_frames", short)
        monkeypatch.setattr(videos, "stated_frames", lambda path, lacking=lacking: 12 + lacking)
        row = something.extract(None, work)
        assert row == {"frames": 12} if fine else "truncated" in row["error"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("moving a cup away", True),
        ("Pretending to open a box", False),
        ("taking a shower gel", False),  # by the substring "show", as in AURORA's own filter
        ("pushing a cup so that it falls off the table", False),
        ("pushing a cup so that it almost falls off but does not", True),
        ("pushing a cup so that it slightly moves", False),
    ],
)
def test_the_keyword_filter_is_auroras(text, kept):
    assert something.keeps(text) is kept
    assert len(something.KEYWORDS) == 13


def test_filtered_annotations_are_written_and_alone_extracted(aurora):
    kept = aurora / "kept.json"
    assert _run(aurora, "--filtered", kept, "--processes", 1) == 0
    assert [item["instruction"] for item in json.loads(kept.read_text())] == [
        "moving a cup",
        "closing a box",
        "opening a box",
    ]
    assert not (aurora / "aurora/data/something/images/2").exists()


def test_other_annotations_are_refused(aurora, capsys):
    with pytest.raises(DatasetError, match=r"annotation 0 names a\.png"):
        something.plan([{"input": "a.png", "output": "b.png"}], aurora, aurora)
    (aurora / "aurora/data/something/train.json").write_text("{}")
    assert _run(aurora) == 2
    assert "where a list is expected" in capsys.readouterr().err
