"""Key-frame mining: against decoding alone, after a first pass against without, over cores against one process.

`python benchmarks/keyframes.py [--videos FOLDER]`: two minutes on 2 cores. Generated clips of 320 x 240 pixels, which
is UCF-101's size, are always there; FOLDER adds real ones. Against decoding, CPU time counts; over cores, wall time.
A first pass promises the key-frames of the exact motion as far as its bound holds: of each clip this says whether both
choices are the same, how many frames were measured, and by how much the frame that moves most for its rough motion
stays within its bound (1 is at it).
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
from visdyn.datasets.clips import Clip, ClipError, find_clips, stream_frames, stream_grey
from visdyn.mining.clip_mining import ClipSettings, mine_clip, mine_clips
from visdyn.mining.clip_motion import FirstPass, flow_profiles, measure_motion
from visdyn.mining.keyframes import ROUGH_FLOOR, SLACK, select_from_profile, select_keyframes
from visdyn.quarantine import Quarantine

SETTINGS = (
    ("farneback", 256, None),
    ("farneback", 256, 64),
    ("farneback", 128, None),
    ("dis", 256, None),
    ("dis", 256, 64),
    ("dis_fast", 128, None),
)
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


def against_decoding(name: str, clip: Clip, flow: str, side: int, first_pass: int | None) -> str:
    """Compare mining a clip, images included, with decoding it."""
    count, shape = 0, None
    for frame in stream_frames(clip):
        count, shape = count + 1, frame.shape
    decoding = seconds(lambda: [None for _ in stream_frames(clip)], time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        settings = ClipSettings(flow=flow, write_mode="top_then_space", short_side=side, first_pass=first_pass)
        mining = seconds(lambda: mine_clip((settings, Path(folder)), clip), time.process_time)
    size = f"{shape[1]} x {shape[0]}"
    how = f"{flow} at {side}" + (f", first {first_pass}" if first_pass else "")
    return (
        f"{name:<22} {size:>9} {count:3d} frames {how:<26} decoding {1000 * decoding / count:5.2f} ms a frame"
        f"   mining {1000 * mining / count:5.2f} ms   {mining / decoding:5.1f} times"
    )


def against_every_frame(name: str, clip: Clip, flow: str) -> list[str]:
    """Compare the choice after a first pass with that of the exact motion of all frames, by each reading."""
    exact, lines = flow_profiles(stream_grey(clip), flow)["mean"], []
    for mode in ("top_then_space", "greedy_spaced"):
        motion = measure_motion(stream_grey(clip), flow, first_pass=64)
        if not isinstance(motion, FirstPass):
            return [f"{name:<22} {flow:<9} every frame is measured: it is too small, or too long, for a first pass"]
        same = select_keyframes(clip, mode=mode, flow=flow, motion=motion) == select_from_profile(exact, mode=mode)
        raised = motion.rough + max(ROUGH_FLOOR * motion.rough.max(), 1e-9)
        seen = max(1, *(value / raised[index] for index, value in motion.exact.items()))
        lines.append(
            f"{name:<22} {flow:<9} {mode:<14} after a first pass: {'the same' if same else 'OTHER'} key-frames"
            f", {len(motion.exact) / len(motion):4.0%} of {len(motion)} frames measured"
            f", the worst frame at {(exact / raised).max() / (SLACK * seen):.2f} of its bound"
        )
    return lines


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
            try:
                for flow, side, first_pass in SETTINGS:
                    print(against_decoding(name, clip, flow, side, first_pass), flush=True)
                for flow in ("farneback", "dis"):
                    print(*against_every_frame(name, clip, flow), sep="\n", flush=True)
            except ClipError as error:
                print(f"{name:<22} left out: {str(error).rsplit('/', 1)[-1]}")
        print(over_cores(generated))
