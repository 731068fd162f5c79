"""A run of key-frame mining that a test can kill: each clip leaves a note when it is decoded, and takes its time."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from visdyn.compute.rows import Execution, compute_rows, file_identity
from visdyn.compute.workers import Task
from visdyn.datasets.clips import find_clips
from visdyn.mining import clip_mining
from visdyn.mining.clip_mining import ClipSettings


def noted(shared, clip) -> dict:
    """Mine one clip, with a note of it on the disk; files that a damaged decoder would hang or crash on do so."""
    settings, images, notes, pause = shared
    with open(notes, "a") as file:
        file.write(f"{clip.video}\n")
    time.sleep(pause)
    if clip.video == "hangs":
        time.sleep(60)
    if clip.video == "crashes":
        os.abort()
    return clip_mining.mine_clip((settings, images), clip)


def rows(root: Path, work: Path, processes: int, pause: float = 0.0, executor="local") -> list:
    """Return the rows of all clips under `root`, kept under `work`."""
    clips = find_clips(root)
    settings = ClipSettings(min_interval=5, write_mode="top_then_space")
    task = Task(noted, (settings, work / "images", work / "notes", pause))
    execution = Execution(executor, processes, timeout=5.0, log=work / "log", log_seconds=0.1)
    names = [file_identity(clip.path) for clip in clips]
    return compute_rows(task, clips, names, work / "shards", "settings", execution, "clips")


if __name__ == "__main__":
    rows(Path(sys.argv[1]), Path(sys.argv[2]), 2, pause=0.15)
