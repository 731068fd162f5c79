"""Key-frames of many clips: one row a clip, over the cores of a machine or over a cluster, resumed after a kill.

A clip is decoded once: its frames are kept until the key-frames are known, and those are written at once as images.
What a row holds depends on the clip and the settings alone, so any executor gives the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from visdyn.compute.rows import Execution, compute_rows, file_identity
from visdyn.compute.workers import Task
from visdyn.datasets.clips import Clip, ClipError, clip_seconds, frames_at, stream_bgr
from visdyn.mining.clip_motion import FLOWS, SHORT_SIDE, FirstPass, measure_motion
from visdyn.mining.keyframes import (
    STATISTIC_OF,
    KeyframePair,
    SettledRange,
    check_selection,
    clean_pair,
    select_keyframes,
)
from visdyn.quarantine import Quarantine

COLUMNS = ["dataset", "class", "video", "mode", "num_frames", "num_keyframes", "num_pairs", "num_clean_pairs"]
# Longer clips than this many bytes of pixels are decoded a second time for their key-frames.
KEPT_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class ClipSettings:
    """What the rows of clips depend on.

    Attributes:
        top_k, min_interval, flow: as of `visdyn.mining.keyframes.select_keyframes`.
        modes: key-frame selections; the flow is computed once for all.
        frame_rate: frames per second of clips that do not say (folders of frames).
        write_mode: the mode whose key-frames are written as images, where it gives at least one pair; "" writes none.
        short_side: pixels to which frames are shrunk before the flow; the images keep their size.
        first_pass: as of `visdyn.mining.clip_motion.measure_motion`.
    """

    top_k: int = 6
    min_interval: int = 20
    modes: tuple[str, ...] = ("top_then_space",)
    flow: str = "farneback"
    frame_rate: float = 25.0
    write_mode: str = ""
    short_side: int = SHORT_SIDE
    first_pass: int | None = None

    def __post_init__(self) -> None:
        if not self.modes:
            raise ValueError(f"no mode given; choose of {', '.join(STATISTIC_OF)}")
        if self.flow not in FLOWS:
            raise ValueError(f"unknown flow {self.flow!r}; choose of {', '.join(FLOWS)}")
        for mode in self.modes:
            check_selection(self.top_k, self.min_interval, mode)
        if self.write_mode and self.write_mode not in self.modes:
            raise ValueError(f"the images of mode {self.write_mode!r} are wanted, but it is none of {self.modes}")

    @property
    def digest(self) -> str:
        """A short name of these settings, for folders of what they gave."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]

    @property
    def statistics(self) -> list[str]:
        """The statistics of the flow that the modes go by."""
        return sorted({STATISTIC_OF[mode] for mode in self.modes})


@dataclass
class MinedClips:
    """What mining a set of clips gives.

    Attributes:
        pairs: key-frame pairs, in the order of the clips.
        stats: one row per clip and mode: dataset, class, video, mode, num_frames, num_keyframes, num_pairs and
            num_clean_pairs (missing where the clip's settled ranges are not known).
        lengths: one row per clip: dataset, class, video, frames, seconds.
        quarantine: clips that could not be read, with their reasons.
    """

    pairs: list[KeyframePair]
    stats: pd.DataFrame
    lengths: pd.DataFrame
    quarantine: Quarantine = field(default_factory=Quarantine)


def mine_clips(
    clips: Iterable[Clip],
    settings: ClipSettings | None = None,
    settled: Mapping[tuple[str, str, str], Sequence[SettledRange]] | None = None,
    quarantine: Quarantine | None = None,
    images: str | Path | None = None,
    shards: str | Path | None = None,
    execution: Execution | None = None,
) -> MinedClips:
    """Select key-frames in every clip and pair the adjacent ones.

    Clips with fewer than two key-frames give no pair; their row of the statistics says so.

    Args:
        clips: as `visdyn.datasets.clips.find_clips` gives them.
        settled: known settled ranges by `clip.key`, only to count clean pairs; it never changes what is selected.
        quarantine: takes clips that cannot be read in full, have fewer than two frames, hang or crash the decoder.
        images: folder that gets the key-frames of `write_mode` as `<dataset>/<class>/<video>/<frame>.png`.
        shards: folder of the rows, where an interrupted run goes on; None keeps nothing.
        execution: where the clips are read; None stays in this process.
    """
    clips, settings = list(clips), settings or ClipSettings()
    shared = (settings, None if images is None else Path(images))
    if shards is None:
        rows: Iterable[dict] = (mine_clip(shared, clip) for clip in clips)
    else:
        facts = {"clips": asdict(settings), "images": None if images is None else str(images)}
        task, names = Task(mine_clip, shared, _limit_opencv_threads), [file_identity(clip.path) for clip in clips]
        if execution is not None and execution.executor == "ray":
            task = Task(mine_clip, shared)
        rows = compute_rows(task, clips, names, shards, facts, execution or Execution(processes=1), "clips")
    return _collect_rows(clips, rows, settings, settled or {}, Quarantine() if quarantine is None else quarantine)


def _limit_opencv_threads(shared, _place: int):
    cv2.setNumThreads(1)  # one process a core: OpenCV's own threads would only compete
    return shared


def mine_clip(shared: tuple[ClipSettings, Path | None], clip: Clip) -> dict:
    """Return the row of one clip: frames, seconds and keyframes (mode -> indices), or the error; write its images."""
    settings, folder = shared
    try:
        kept = _FrameBuffer()
        greys = (cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in kept.passing(stream_bgr(clip)))
        motion = measure_motion(greys, settings.flow, settings.statistics, settings.short_side, settings.first_pass)
        count = len(motion if isinstance(motion, FirstPass) else next(iter(motion.values())))
        if count < 2:
            return {"error": f"clip {clip.path} has {count} frame; motion needs two"}
        options = (settings.top_k, settings.min_interval)
        chosen = {mode: select_keyframes(clip, *options, mode, settings.flow, motion) for mode in settings.modes}
        wanted = chosen.get(settings.write_mode, [])
        if folder is not None and len(wanted) > 1:
            _write_images(clip, wanted, kept, folder)
        return {"frames": count, "seconds": clip_seconds(clip, count, settings.frame_rate), "keyframes": chosen}
    except (ClipError, ValueError, cv2.error) as error:
        return {"error": str(error)}


class _FrameBuffer:
    """Remembers the frames (BGR) that pass, as long as they fit in memory."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] | None = []
        self.size = 0

    def passing(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            self.size += frame.nbytes
            if self.size > KEPT_BYTES:
                self.frames = None
            if self.frames is not None:
                self.frames.append(frame)
            yield frame


def _write_images(clip: Clip, wanted: Sequence[int], kept: _FrameBuffer, folder: Path) -> None:
    place = folder / Path(*clip.key)
    place.mkdir(parents=True, exist_ok=True)
    if kept.frames is None:
        frames: Sequence[np.ndarray] = frames_at(clip, wanted)
    else:
        frames = [cv2.cvtColor(kept.frames[index], cv2.COLOR_BGR2RGB) for index in wanted]
    for index, frame in zip(wanted, frames, strict=True):
        draft = place / f".{index}.draft"
        Image.fromarray(frame).save(draft, format="PNG")
        draft.replace(place / f"{index}.png")  # a reader never meets half an image, whatever is killed


def _collect_rows(clips, rows, settings: ClipSettings, settled: Mapping, bad: Quarantine) -> MinedClips:
    pairs, stats, lengths, before = [], [], [], len(bad)
    for clip, row in zip(clips, rows, strict=True):
        if "error" in row:
            bad.add(clip.path, row["error"])
            continue
        lengths.append((*clip.key, row["frames"], row["seconds"]))
        for mode in settings.modes:
            chosen = row["keyframes"][mode]
            found = [KeyframePair(*clip.key, a, b, mode) for a, b in pairwise(chosen)]
            pairs += found
            clean = _count_clean(found, settled.get(clip.key))
            stats.append((*clip.key, mode, row["frames"], len(chosen), len(found), clean))
    bad.refuse_most("clips", len(lengths), before)
    table = pd.DataFrame(stats, columns=COLUMNS).astype({"num_clean_pairs": "Int64"})
    return MinedClips(pairs, table, pd.DataFrame(lengths, columns=[*COLUMNS[:3], "frames", "seconds"]), bad)


def _count_clean(pairs: Sequence[KeyframePair], ranges: Sequence[SettledRange] | None) -> int | None:
    return None if ranges is None else sum(clean_pair(pair.frame_a, pair.frame_b, ranges) for pair in pairs)
