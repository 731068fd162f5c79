"""Key-frame mining: against decoding alone, and over the cores of this machine against one process.

`python benchmarks/keyframes.py [--videos FOLDER]`: two minutes on 2 cores. Generated clips of 320 x 240 pixels, which
is UCF-101's size, are always there; FOLDER adds real ones. Against decoding, CPU time counts; over cores, wall time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from visdyn.compute.pool import cores
from visdyn.compute.rows import Execution
from visdyn.datasets.clips import Clip, ClipError, find_clips, stream_frames
from visdyn.mining.clip_mining import ClipSettings, mine_clip, mine_clips
from visdyn.quarantine import Quarantine

CLIPS, FRAMES = 16, 180  # UCF-101's mean length, 7.2 s at 25 fps


def generate(root: Path) -> list[Clip]:
    """Write clips of a noisy scene with a moving square, 320 x 240."""
    random = np.random.default_rng(0)
    scene = cv2.resize(random.integers(0, 255, (24, 32, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    for number in range(CLIPS):
        path = root / f"generated/c{number % 4}/v{number}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"XVID"), 25, (320, 240))
        for index in range(FRAMES):
            frame = scene.copy()
            place = (number * 7 + index) % 260
            frame[100:140, place : place + 40] = 255 - frame[100:140, place : place + 40]
            writer.write(frame)
        writer.release()
    return find_clips(root)


def seconds(work: Callable, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the wall time of a call, or its time by another clock."""
    began = clock()
    work()
    return clock() - began


def against_decoding(name: str, clip: Clip, flow: str, side: int) -> str:
    """Compare mining a clip, images included, with decoding it."""
    count, shape = 0, None
    for frame in stream_frames(clip):
        count, shape = count + 1, frame.shape
    decoding = seconds(lambda: [None for _ in stream_frames(clip)], time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        settings = ClipSettings(flow=flow, write_mode="top_then_space", short_side=side)
        mining = seconds(lambda: mine_clip((settings, Path(folder)), clip), time.process_time)
    size = f"{shape[1]} x {shape[0]}"
    return (
        f"{name:<22} {size:>9} {count:3d} frames {flow:<9} at {side} decoding {1000 * decoding / count:5.2f} ms a frame"
        f"   mining {1000 * mining / count:5.2f} ms   {mining / decoding:5.1f} times"
    )


def over_cores(clips: list[Clip]) -> str:
    """Mine clips in one process that can be killed, and in one a core; the start of the processes counts."""
    times = {}
    for processes in (1, cores()):
        with tempfile.TemporaryDirectory() as folder:
            execution = Execution(processes=processes, timeout=600.0)
            options = {"images": Path(folder) / "images", "shards": Path(folder) / "shards", "execution": execution}
            settings = ClipSettings(write_mode="top_then_space")
            times[processes] = seconds(partial(mine_clips, clips, settings, **options))
    one, many = times[1], times[cores()]
    return (
        f"{len(clips)} generated clips: {one:.1f} s in 1 process, {many:.1f} s in {cores()}: "
        f"{one / many:.2f} times faster, {len(clips) / many:.1f} clips a second"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        generated = generate(Path(folder))
        chosen = [("generated", generated[0])]
        if options.videos:
            chosen += [(clip.path.name, clip) for clip in find_clips(options.videos, Quarantine())]
        for name, clip in chosen:
            for flow, side in (("farneback", 256), ("farneback", 128), ("dis", 256), ("dis", 128)):
                try:
                    print(against_decoding(name, clip, flow, side), flush=True)
                except ClipError as error:
                    print(f"{name:<20} left out: {str(error).rsplit('/', 1)[-1]}")
        print(over_cores(generated))
