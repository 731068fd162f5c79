"""Finding and decoding unlabelled clips."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from visdyn.datasets import clips
from visdyn.datasets.bad_items import DatasetError
from visdyn.paths import shared_data
from visdyn.quarantine import Quarantine

PUBLIC = shared_data() / "data" / "videos" if shared_data() else None
needs_videos = pytest.mark.skipif(PUBLIC is None or not PUBLIC.is_dir(), reason="the public clips are not at hand")


def write_video(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def _read_frames(clip):
    return np.stack(list(clips.stream_frames(clip)))


def _frames(count, value=10):
    return [np.full((32, 48, 3), (value * i, 0, 255 - value * i), np.uint8) for i in range(count)]


def test_dataset_and_class_come_from_the_folders(tmp_path):
    root = tmp_path / "root"
    for name in ("ucf/Archery/v_1.avi", "mit/training/opening/x.avi", "Juggling/k.avi", "plain.avi"):
        write_video(root / name, _frames(2))
    (root / "list.csv").write_text("a,b")
    (root / ".hidden.avi").write_text("x")
    found = {clip.video: clip.key[:2] for clip in clips.find_clips(root)}
    assert found == {
        "v_1": ("ucf", "Archery"),
        "x": ("mit", "opening"),
        "k": ("root", "Juggling"),
        "plain": ("root", clips.UNLABELLED),
    }


def test_unusable_files_are_set_aside(tmp_path):
    write_video(tmp_path / "d/c/good.avi", _frames(2))
    (tmp_path / "d/c/good.mp4").write_bytes(b"twin")
    (tmp_path / "d/c/empty.mp4").write_bytes(b"")
    (tmp_path / "d/c/sound.wav").write_bytes(b"x")
    quarantine = Quarantine()
    assert [clip.path.name for clip in clips.find_clips(tmp_path, quarantine)] == ["good.avi"]
    reasons = {entry.item.rsplit("/", 1)[-1]: entry.reason for entry in quarantine}
    assert reasons.keys() == {"good.mp4", "empty.mp4", "sound.wav"}
    assert "same dataset, class and name" in reasons["good.mp4"]


def test_no_clips_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="holds no clip"):
        clips.find_clips(tmp_path)
    with pytest.raises(DatasetError, match="is no folder"):
        clips.find_clips(tmp_path / "nowhere")


def test_grey_and_bgr_streams_are_the_same_frames(tmp_path):
    """Of a video and of a folder of frames, bit for bit what the RGB frames give."""
    video = write_video(tmp_path / "v.avi", _frames(12))
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(_read_frames(video)):
        Image.fromarray(frame).save(folder / f"{index}.png")
    for path in (video, folder):
        rgb = _read_frames(path)
        assert np.array_equal(np.stack(list(clips.stream_bgr(path))), rgb[..., ::-1])
        greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb]
        assert np.array_equal(np.stack(list(clips.stream_grey(path))), greys)


def test_frames_are_rgb_and_in_order(tmp_path):
    path = write_video(tmp_path / "v.avi", _frames(12))
    frames = _read_frames(path)
    assert frames.shape == (12, 32, 48, 3)
    assert frames.dtype == np.uint8
    reds, blues = frames[..., 0].mean((1, 2)), frames[..., 2].mean((1, 2))
    assert np.abs(reds - 10 * np.arange(12)).max() < 12
    assert np.abs(blues - 255 + 10 * np.arange(12)).max() < 12
    assert np.array_equal(clips.frames_at(path, [7, 2]), frames[[7, 2]])
    with pytest.raises(clips.ClipError, match="no frame 12"):
        clips.frames_at(path, [0, 12])


def test_a_folder_of_frames_is_a_clip_in_natural_order(tmp_path):
    folder = tmp_path / "d/c/v"
    folder.mkdir(parents=True)
    for number in (10, 9, 1):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"v2_motion_{number}.png")
    (clip,) = clips.find_clips(tmp_path)
    assert clip.key == ("d", "c", "v")
    assert _read_frames(clip)[:, 0, 0, 0].tolist() == [1, 9, 10]
    (folder / "v2_motion_9.png").write_bytes(b"damaged")
    with pytest.raises(clips.ClipError, match="motion_9"):
        _read_frames(clip)


def test_a_truncated_file_is_not_shortened(tmp_path):
    path = write_video(
        tmp_path / "v.avi", [np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8) for i in range(30)]
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(clips.ClipError, match="truncated"):
        _read_frames(clips.Clip(path, "d", "c", "v"))


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "v.avi").write_text("no video at all")
    with pytest.raises(clips.ClipError, match="cannot be opened"):
        _read_frames(tmp_path / "v.avi")
    with pytest.raises(clips.ClipError, match="cannot be opened"):
        _read_frames(tmp_path / "missing.avi")


@needs_videos
def test_the_public_truncated_file_is_refused_with_both_counts():
    found = {clip.video: clip for clip in clips.find_clips(PUBLIC)}
    assert found.keys() == {"arm_wrestling", "corrupted", "flipping_a_pancake", "structuralize", "ucf_clip"}
    with pytest.raises(clips.ClipError, match="50 frames, 28 decode"):
        _read_frames(found.pop("corrupted"))
    assert _read_frames(found["ucf_clip"]).shape == (164, 240, 320, 3)
