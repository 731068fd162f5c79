"""Key-frames of many clips: every executor gives the same rows, a kill loses nothing, a bad file costs itself alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slow_clips
from PIL import Image
from test_clips import write_video

from visdyn.compute.rows import Execution, compute_rows
from visdyn.compute.store import Store
from visdyn.compute.workers import Task, WorkerError, each
from visdyn.datasets.clips import Clip, find_clips, sample_clips, stream_frames
from visdyn.mining import clip_mining
from visdyn.mining.clip_mining import ClipSettings, mine_clips
from visdyn.mining.keyframes import MODES
from visdyn.mining.mined_files import read_lengths, read_pairs, write_pairs
from visdyn.quarantine import Quarantine

NUM_CLIPS = 10


def _moving(seed: int, count: int = 16) -> list[np.ndarray]:
    scene = np.random.default_rng(seed).integers(0, 255, (6, 6, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    return [np.roll(scene, shift * (shift % 3), axis=1) for shift in range(count)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten clips of two classes, a folder of frames, and a file that is no video."""
    root = tmp_path_factory.mktemp("clips") / "root"
    for number in range(NUM_CLIPS):
        write_video(root / "ucf" / f"class{number % 2}" / f"v{number}.avi", _moving(number))
    folder = root / "ucf/class0/frames"
    folder.mkdir()
    for index, frame in enumerate(_moving(77)):
        Image.fromarray(frame).save(folder / f"frame_{index}.png")
    (root / "ucf/class0/broken.avi").write_text("no video")
    return root


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_processes_give_the_rows_of_one_process(root, tmp_path):
    settings = ClipSettings(min_interval=5, modes=MODES, write_mode="greedy_spaced")
    bad = Quarantine()
    plain = mine_clips(find_clips(root), settings, quarantine=bad, images=tmp_path / "plain")
    (entry,) = bad
    assert entry.item.endswith("broken.avi")
    execution = Execution(processes=2, timeout=30.0, log=tmp_path / "log")
    spread = mine_clips(
        find_clips(root), settings, images=tmp_path / "spread", shards=tmp_path / "shards", execution=execution
    )
    assert spread.pairs == plain.pairs
    assert spread.stats.equals(plain.stats)
    assert spread.lengths.equals(plain.lengths)
    assert list(spread.quarantine) == list(bad)
    assert _contents(tmp_path / "spread") == _contents(tmp_path / "plain")
    assert "clips: 12 of 12" in (tmp_path / "log").read_text()
    assert "1 unusable" in (tmp_path / "log").read_text()


def test_key_frames_are_written_as_they_are_in_the_clip(root, tmp_path, monkeypatch):
    """Whether the frames were kept in memory or are decoded a second time."""
    settings = ClipSettings(min_interval=5, write_mode="top_then_space")
    mined = mine_clips(find_clips(root), settings, images=tmp_path / "kept")
    monkeypatch.setattr(clip_mining, "KEPT_BYTES", 1000)
    mine_clips(find_clips(root), settings, images=tmp_path / "again")
    assert _contents(tmp_path / "kept") == _contents(tmp_path / "again")
    pairs = write_pairs(mined, "top_then_space", tmp_path / "kept", tmp_path / "mined")
    read = read_pairs(tmp_path / "mined")
    assert [pair.frames[1:] for pair in read] == [(pair.frame_a, pair.frame_b) for pair in pairs]
    clips = {clip.key: clip for clip in find_clips(root)}
    for pair in read:
        frames = list(stream_frames(clips[pair.frames[0]]))
        assert np.array_equal(np.asarray(Image.open(pair.target)), frames[pair.frame_b])


def test_lengths_are_kept_for_table_7(root, tmp_path):
    mined = mine_clips(find_clips(root), ClipSettings(frame_rate=8.0))
    write_pairs(mined, "top_then_space", tmp_path, tmp_path / "mined")
    lengths = read_lengths(tmp_path / "mined").set_index("video")
    assert len(lengths) == NUM_CLIPS + 1  # a clip without a pair counts, an unreadable one does not
    assert (lengths["frames"] == 16).all()
    assert lengths.loc["frames", "seconds"] == 2.0  # of a folder the rate is a setting
    assert lengths.loc["v0", "seconds"] == 16 / 25


def test_a_killed_run_is_finished_by_the_same_command(root, tmp_path):
    """SIGKILL in the middle: the rows and images are those of a whole run, and no finished clip is read again."""
    (tmp_path / "whole").mkdir()
    whole = slow_clips.rows(root, tmp_path / "whole", processes=1)
    work = tmp_path / "killed"
    work.mkdir()
    process = subprocess.Popen([sys.executable, slow_clips.__file__, str(root), str(work)])
    finished = _wait_for(lambda: _finished(work), at_least=5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = _finished(work)
    assert 5 <= len(finished) < len(whole)
    time.sleep(1.5)  # the workers end with the process that asked
    (work / "notes").rename(work / "first")
    assert slow_clips.rows(root, work, processes=2) == whole
    again = (work / "notes").read_text().split()
    assert len(again) == len(set(again)) == len(whole) - len(finished)
    assert not finished & set(again)
    assert _contents(work / "images") == _contents(tmp_path / "whole/images")
    assert _rows(work) == _rows(tmp_path / "whole")
    (work / "notes").unlink()
    assert slow_clips.rows(root, work, processes=2) == whole
    assert not (work / "notes").exists()


def _finished(work: Path) -> set[str]:
    return {Path(identity.split()[0]).stem for identity in _rows(work)}


def _rows(work: Path) -> dict[str, bytes]:
    return dict(row for path in (work / "shards").glob("*.sqlite") for row in Store(path).items())


def test_rows_in_the_shards_of_an_earlier_version_are_not_computed_again(root, tmp_path):
    def run(name):
        return slow_clips.rows(root, tmp_path / name, processes=1)

    for name in ("new", "old"):
        (tmp_path / name).mkdir()
    rows = run("new")
    (kept,) = (tmp_path / "new/shards").glob("*.sqlite")
    folder = tmp_path / "old/shards" / kept.stem
    folder.mkdir(parents=True)
    lines = [json.dumps({"item": item, "row": json.loads(row)}) for item, row in Store(kept).items()]
    (folder / "shard-00000.jsonl").write_text("\n".join(lines[:4]) + "\n")
    lost = json.dumps({"item": json.loads(lines[5])["item"], "row": {"error": "killed", "lost": True}})
    (folder / "shard-00001.part").write_text(f"{lines[4]}\n{lost}\n{lines[6][:30]}")
    with pytest.warns(UserWarning, match="1 damaged"):
        assert run("old") == rows
    assert len((tmp_path / "old/notes").read_text().split()) == len(rows) - 5


def _wait_for(found, at_least: int) -> set:
    for _ in range(600):
        if len(result := found()) >= at_least:
            return result
        time.sleep(0.02)
    raise AssertionError("the run did not get there")


def test_a_file_that_hangs_or_crashes_costs_itself_alone(tmp_path):
    root, work = tmp_path / "root", tmp_path / "work"
    work.mkdir()
    for name in ("crashes", "good", "hangs", "other"):
        write_video(root / "d/c" / f"{name}.avi", _moving(1))
    found = dict(zip([clip.video for clip in find_clips(root)], slow_clips.rows(root, work, 2), strict=True))
    assert found["good"]["frames"] == found["other"]["frames"] == 16
    assert "longer than 5 seconds" in found["hangs"]["error"]
    assert "signal 6" in found["crashes"]["error"]
    (work / "notes").unlink()
    assert len(slow_clips.rows(root, work, 2)) == 4
    assert sorted((work / "notes").read_text().split()) == ["crashes", "hangs"]  # tried again, the others not


def test_a_changed_file_or_setting_is_computed_again(root, tmp_path):
    clip = Clip(write_video(tmp_path / "d/c/v.avi", _moving(3)), "d", "c", "v")
    options = {"shards": tmp_path / "shards", "execution": Execution(processes=1)}
    first = mine_clips([clip], ClipSettings(), **options)
    write_video(clip.path, _moving(3, 12))
    assert mine_clips([clip], ClipSettings(), **options).lengths["frames"].tolist() == [12]
    assert first.lengths["frames"].tolist() == [16]
    assert len(mine_clips([clip], ClipSettings(top_k=1), **options).stats) == 1
    assert len(list((tmp_path / "shards").glob("*.sqlite"))) == 2


def fails(_, item):
    """Fail as code with an error does."""
    return {"value": 1 // item}


def test_an_error_of_the_code_is_no_bad_file():
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        list(each(Task(fails), [1, 0, 1], processes=2))
    with pytest.raises(ZeroDivisionError):
        list(each(Task(fails), [0], processes=1))


def test_identities_and_executors_are_checked(tmp_path):
    with pytest.raises(ValueError, match="different identities"):
        compute_rows(Task(fails), [1, 1], ["a", "a"], tmp_path, {}, Execution())
    with pytest.raises(ValueError, match="unknown executor 'slurm'"):
        Execution("slurm")
    with pytest.raises(ValueError, match="mode 'greedy_spaced' are wanted"):
        ClipSettings(write_mode="greedy_spaced")


def test_a_sample_of_clips_is_seeded_and_keeps_the_order(root):
    clips = find_clips(root)
    drawn = sample_clips(clips, 4, seed=3)
    assert drawn == sample_clips(list(reversed(clips)), 4, seed=3)[::-1]
    assert len(drawn) == 4
    assert drawn != sample_clips(clips, 4, seed=4)
    assert sample_clips(clips, None, seed=3) == clips
