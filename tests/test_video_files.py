"""The one reader of videos: frames are those that decode, and damage is told from a header that counts otherwise."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visdyn import videos
from visdyn.datasets.clips import Clip, find_clips, frames_at, stream_frames
from visdyn.datasets.inventory import take_inventory
from visdyn.paths import shared_data, walk_files
from visdyn.quarantine import Quarantine

AWKWARD = shared_data() / "data/awkward/clips" if shared_data() else None
needs_awkward = pytest.mark.skipif(AWKWARD is None or not AWKWARD.is_dir(), reason="needs shared/data/awkward")


def write(path, count=30, side=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (side, side))
    for index in range(count):
        writer.write(np.random.default_rng(index).integers(0, 255, (side, side, 3), np.uint8))
    writer.release()
    return path


def count(path) -> int:
    return sum(1 for _ in videos.stream_video(path))


@needs_awkward
@pytest.mark.parametrize(
    ("name", "frames", "shape", "seconds"),
    [
        ("plain.mp4", 75, (64, 96, 3), 3.0),
        ("cover_first.mp4", 75, (64, 96, 3), 3.0),
        ("rotated90.mp4", 75, (96, 64, 3), 3.0),
        ("ten_bit.mp4", 75, (64, 96, 3), 3.0),
        ("trimmed_copy.mp4", 27, (64, 96, 3), 27 / 25),  # its edit list hides 8 of 35
        ("vfr_pause_webm.webm", 75, (64, 96, 3), 12.48),  # a pause: the header has room for 312
        ("vfr_pause_mkv.mkv", 64, (64, 96, 3), 12.52),
        ("size_change.mpg", 49, (64, 96, 3), 49 / 25),
        ("one_frame.mp4", 1, (64, 96, 3), 1 / 25),
    ],
)
def test_whole_files_give_the_frames_that_decode(name, frames, shape, seconds):
    found = list(videos.stream_video(AWKWARD / name))
    assert len(found) == frames
    assert {frame.shape for frame in found} == {shape}
    assert videos.video_seconds(AWKWARD / name, frames, 9.0) == pytest.approx(seconds)


@needs_awkward
@pytest.mark.parametrize("name", ["cut_tail.mp4", "audio_only.mp4"])
def test_what_is_no_whole_video_is_refused(name):
    with pytest.raises(videos.ClipError, match=rf"{name} (is truncated: the container states 75|cannot be opened)"):
        count(AWKWARD / name)


@needs_awkward
@pytest.mark.parametrize("name", ["plain.mp4", "vfr_pause_webm.webm", "vfr_pause_mkv.mkv", "trimmed_copy.mp4"])
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_every_container_is_refused_when_it_is_cut(tmp_path, name, share):
    content = (AWKWARD / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(videos.ClipError):
        count(path)


@needs_awkward
@pytest.mark.parametrize("name", ["plain.mp4", "ten_bit.mp4"])
def test_a_zeroed_tail_is_damage(tmp_path, name):
    content = bytearray((AWKWARD / name).read_bytes())
    start = content.index(b"mdat")
    stop = start - 4 + int.from_bytes(content[start - 4 : start], "big")
    content[(start + stop) // 2 : stop] = bytes(stop - (start + stop) // 2)
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(videos.ClipError, match="damaged"):
        count(path)


def test_a_header_that_counts_too_many_is_not_believed(tmp_path):
    """An AVI whose header says 1,000 frames and that ends where it says it ends."""
    path = write(tmp_path / "v.avi")
    content = bytearray(path.read_bytes())
    place = content.index(b"strh") + 8 + 32  # dwLength
    content[place : place + 4] = (1000).to_bytes(4, "little")
    place = content.index(b"avih") + 8 + 16  # dwTotalFrames
    content[place : place + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    assert videos.stated_frames(path) > 100
    assert count(path) == 30
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(videos.ClipError, match="truncated"):
        count(path)


def test_frames_too_large_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "v.avi")
    monkeypatch.setattr(videos, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(videos.ClipError, match=r"v\.avi states frames of 64 x 64 pixels"):
        count(path)
    monkeypatch.setattr(videos, "MAX_PIXELS", 64 * 64)
    assert count(path) == 30


def test_names_of_any_bytes_and_patterns_are_names(tmp_path):
    source = write(tmp_path / "v.avi", 4)
    for name in (b"\xff\xfe.avi", "é.avi".encode(), b"a%03d.avi", b"http:x.avi", b"new\nline.avi"):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        shutil.copy(source, path)
        assert count(Path(path)) == 4
        with open(path, "w") as file:
            file.write("no video")
        with pytest.raises(videos.ClipError) as caught:
            count(Path(path))
        assert str(caught.value).encode().count(b"\n") == 0


def test_what_is_no_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.avi")
    (tmp_path / "folder.avi").mkdir()
    for name in ("pipe.avi", "folder.avi", "absent.avi"):
        with pytest.raises(videos.ClipError, match="cannot be opened"):
            count(tmp_path / name)
        assert videos.stated_frames(tmp_path / name) == 0


def test_links_are_followed_once_and_loops_are_named(tmp_path):
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "clips"
    write(elsewhere / "Archery/a.avi", 2)
    write(root / "mit/open/b.avi", 2)
    (root / "ucf").symlink_to(elsewhere)  # the class folders of another disk
    (root / "mit/again").symlink_to(root / "mit")  # a loop
    (root / "mit/up").symlink_to(tmp_path)
    (root / "mit/open/gone.avi").symlink_to(tmp_path / "nowhere.avi")
    (root / "mit/open/self.avi").symlink_to(root / "mit/open/self.avi")
    os.mkfifo(root / "mit/open/pipe.avi")
    bad = Quarantine()
    found = find_clips(root, bad)
    assert {clip.key for clip in found} == {("mit", "open", "b"), ("ucf", "Archery", "a")}
    reasons = {os.path.basename(entry.item): entry.reason for entry in bad}
    assert "is read already" in reasons["again"]
    assert "leads nowhere" in reasons["gone.avi"]
    assert "leads nowhere" in reasons["self.avi"]
    assert "neither" in reasons["pipe.avi"]
    assert [len(list(stream_frames(clip))) for clip in found] == [2, 2]
    counted = {part.part: part.size for part in take_inventory({"clips": root})}
    assert counted == {"**": 2}


def test_each_real_folder_is_read_once(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x.txt").touch()
    (tmp_path / "a").symlink_to(tmp_path / "real")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    told = []
    assert [path.parent.name for path in walk_files(tmp_path, lambda *what: told.append(what))] == ["real"]
    assert [path.name for path, _ in told] == ["a", "b"]


def test_a_cover_or_a_copy_among_frames_is_no_frame(tmp_path):
    folder = tmp_path / "d/c/v"
    folder.mkdir(parents=True)
    frame = np.zeros((8, 8, 3), np.uint8)
    for number in range(1, 5):
        cv2.imwrite(str(folder / f"frame_{number:010d}.jpg"), frame + 10 * number)
    for name in ("cover.png", "frame_0000000001 (1).jpg"):
        cv2.imwrite(str(folder / name), frame + 255)
    bad = Quarantine()
    (clip,) = find_clips(tmp_path, bad)
    assert sorted(os.path.basename(entry.item) for entry in bad) == ["cover.png", "frame_0000000001 (1).jpg"]
    assert frames_at(clip, range(4))[:, 0, 0, 0].tolist() == pytest.approx([10, 20, 30, 40], abs=2)
    cv2.imwrite(str(folder / "frame_0000000009.jpg"), np.zeros((9, 8, 3), np.uint8))
    with pytest.raises(videos.ClipError, match="several sizes: frame_0000000009"):
        list(stream_frames(clip))
    for number in range(7):
        cv2.imwrite(str(folder / f"right_{number}.jpg"), frame)
    with pytest.raises(videos.ClipError, match="several forms of names"):
        list(stream_frames(clip))


CONTENT = []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=12), st.integers(0, 1 << 16))
def test_any_damage_is_frames_or_the_kit_s_own_error(tmp_path, changes, cut):
    if not CONTENT:
        CONTENT.append(write(tmp_path / "whole.avi", 6, 16).read_bytes())
    content = bytearray(CONTENT[0])
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "v.avi"
    path.write_bytes(content[: cut % len(content)] if cut % 2 else content)
    with suppress(videos.ClipError):  # any other exception fails
        for frame in stream_frames(Clip(path, "d", "c", "v")):
            assert frame.dtype == np.uint8
            assert frame.ndim == 3


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([b"\x1a\x45\xdf\xa3", b"\0\0\0\x18ftyp", b"RIFF"]), st.binary(max_size=60))
def test_any_header_ends_in_an_answer(tmp_path, start, rest):
    path = tmp_path / "v.bin"
    path.write_bytes(start + rest)
    assert videos._ends_early(path) in (True, False)
    assert (found := videos._read_edit_list(path)) is None or found >= 0
