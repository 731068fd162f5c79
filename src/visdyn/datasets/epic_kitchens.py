"""EPIC-KITCHENS-100 (CC BY-NC 4.0): action segments from the public CSV files, and their pre-extracted frames.

Frames lie at `<root>/<participant>/rgb_frames/<video>/frame_%010d.jpg`, counted from 1. `start_frame` and
`stop_frame` already count those files, which were extracted at 60 frames a second for EPIC-55 videos (`P01_01`) and
50 for the extension (`P01_101`), whatever the video's native rate is: never compute a frame from the native rate.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path

from visdyn.datasets.bad_items import DatasetError, collecting, require_rows
from visdyn.paths import inside
from visdyn.quarantine import Quarantine
from visdyn.readers import read_rows
from visdyn.trajectory import Trajectory

# The dataset's errata say that the published frames of these two videos are wrong.
ERRATUM_VIDEOS = ("P01_109", "P27_103")


class FrameError(ValueError):
    """A segment's frame is not on the disk; the message names it."""


@dataclass(frozen=True)
class Segment:
    """One row of EPIC_100_{train,validation}.csv: the 15 public columns, typed.

    Frames count from 1; timestamps keep the CSV's text (HH:MM:SS.ss); `verb` and `noun` are the raw annotation
    ("put-down", "cutter:pizza"), the classes its clusters (0-96, 0-299).
    """

    narration_id: str
    participant_id: str
    video_id: str
    narration_timestamp: str
    start_timestamp: str
    stop_timestamp: str
    start_frame: int
    stop_frame: int
    narration: str
    verb: str
    verb_class: int
    noun: str
    noun_class: int
    all_nouns: tuple[str, ...]
    all_noun_classes: tuple[int, ...]


COLUMNS = tuple(field.name for field in fields(Segment))


def _parse_whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text.strip()):  # int() takes 1_0, other scripts' digits and signs too
        raise ValueError("it is no whole number")
    return int(text)


def _parse_list(text: str, kind: type) -> tuple:
    found = ast.literal_eval(text)
    if not isinstance(found, list | tuple) or not all(type(item) is kind for item in found):  # a text's letters
        raise ValueError("it is no list of them")
    return tuple(found)


_PARSERS = {"int": _parse_whole, "str": str, "tuple[str, ...]": partial(_parse_list, kind=str),
            "tuple[int, ...]": partial(_parse_list, kind=int)}  # fmt: skip
_TYPES = {field.name: field.type for field in fields(Segment)}


def load_segments(csv_path: str | Path, quarantine: Quarantine | None = None) -> list[Segment]:
    """Read the segments of one CSV file, in its order.

    Args:
        quarantine: takes rows with a cell that cannot be read, with too few or too many, or with an earlier row's
            narration_id; where it is None such a row is an error.

    Raises:
        DatasetError: the file is missing or has no segment, or a column is missing (named).
    """
    path, before = Path(csv_path), len(quarantine or ())
    segments: dict[str, Segment] = {}

    def set_aside(place: str, reason: str) -> None:
        if quarantine is None:
            raise DatasetError(f"{path.parent / place}: {reason}")
        quarantine.add(place, reason)

    for line, row in read_rows(path, COLUMNS, DatasetError, "give the path of an EPIC_100 segment CSV", set_aside):
        try:
            segment = _parse_segment(row)
            if segment.narration_id in segments:
                raise DatasetError(f"narration_id {segment.narration_id} stands there twice; the first row is kept")
            segments[segment.narration_id] = segment
        except DatasetError as error:
            set_aside(f"{path.name} line {line}", str(error))
    if quarantine is not None:
        quarantine.refuse_most(path, len(segments), before)
    require_rows(segments, path)
    return list(segments.values())


def _parse_segment(row: dict) -> Segment:
    values = {}
    for name in COLUMNS:
        try:
            values[name] = _PARSERS[_TYPES[name]](row[name])
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise DatasetError(f"column {name} cannot be read from {row[name]!r}") from error
    return Segment(**values)


def index_rate(video_id: str) -> int:
    """Return the frames per second at which a video's frame files were extracted (60, or 50 for `PXX_1YY`)."""
    match = re.fullmatch(r"P\d+_(\d+)", video_id)
    if not match:
        raise DatasetError(f"{video_id!r} is no EPIC-KITCHENS video id (PXX_YY or PXX_1YY)")
    return 50 if len(match.group(1)) == 3 else 60


def frame_path(frames_root: str | Path, segment: Segment, frame: int) -> Path:
    """Return where the frame file with index `frame` (from 1) of the segment's video belongs."""
    return inside(frames_root, f"{segment.participant_id}/rgb_frames/{segment.video_id}/frame_{frame:010d}.jpg")


def segment_frames(frames_root: str | Path, segment: Segment, n: int = 5) -> list[Path]:
    """Return `n` (>= 2) frame files from the segment's start to its stop, evenly spaced in time, both included.

    A stop frame past the video's last file is clamped to it, by one second at most (annotations overrun the files).
    Between the two, where only some frames were extracted, the nearest existing file is taken; one may repeat.

    Raises:
        FrameError: the start, or the (clamped) stop frame, is missing, or the segment is empty.
    """
    if n < 2:
        raise ValueError(f"a segment is sampled at its start and stop at least: n is {n}, give 2 or more")
    start, stop = segment.start_frame, _clamped_stop(frames_root, segment)
    if stop <= start:
        raise FrameError(f"segment {segment.narration_id} is empty: frames {start} to {stop}")
    wanted = [round(start + (stop - start) * i / (n - 1)) for i in range(n)]
    return [_find_nearest_frame(frames_root, segment, frame, start, stop) for frame in wanted]


def _clamped_stop(frames_root: str | Path, segment: Segment) -> int:
    for frame in (segment.start_frame, segment.stop_frame):
        path = frame_path(frames_root, segment, frame)
        if path.is_file():
            continue
        last = max(_list_frame_indices(path.parent), default=0)
        overrun = frame - last
        if frame == segment.start_frame or not 0 < overrun <= index_rate(segment.video_id):
            raise FrameError(
                f"frame {path} of segment {segment.narration_id} does not exist; extract the video's frames"
            )
        return last
    return segment.stop_frame


def _find_nearest_frame(frames_root: str | Path, segment: Segment, frame: int, start: int, stop: int) -> Path:
    path = frame_path(frames_root, segment, frame)
    if not path.is_file():
        inside = [index for index in _list_frame_indices(path.parent) if start <= index <= stop]
        path = frame_path(frames_root, segment, min(inside, key=lambda index: (abs(index - frame), index)))
    return path


def _list_frame_indices(folder: Path) -> tuple[int, ...]:
    return _glob_frame_indices(folder, folder.stat().st_mtime_ns) if folder.is_dir() else ()


@lru_cache(maxsize=64)
def _glob_frame_indices(folder: Path, _mtime_ns: int) -> tuple[int, ...]:
    # The modification time is part of the cache's key, so that a folder that grows is listed again.
    # A browser's copy, `frame_0000000001 (1).jpg`, is no frame.
    names = (re.fullmatch(r"frame_(\d+)", path.stem) for path in folder.glob("frame_*.jpg"))
    return tuple(sorted(int(name[1]) for name in names if name))


def load_trajectories(
    csv_path: str | Path,
    frames_root: str | Path,
    quarantine: Quarantine | None = None,
    subset: str = "epic",
    skip_videos: Collection[str] = ERRATUM_VIDEOS,
) -> list[Trajectory]:
    """Read each segment as (first frame, narration, last frame), the IDM's extra training data (section 3.1).

    Segments without their frames, without narration, or of `skip_videos` go to the quarantine (a warning counts them
    where it is None).
    """
    usable: list[Trajectory] = []
    with collecting(quarantine, csv_path, usable) as bad:
        for segment in load_segments(csv_path, bad):
            try:
                if segment.video_id in skip_videos:
                    raise FrameError(f"the published frames of video {segment.video_id} are wrong (dataset's errata)")
                first, last = segment_frames(frames_root, segment, 2)
                usable.append(Trajectory(first, segment.narration.strip(), last, subset, segment.narration_id))
            except ValueError as error:
                bad.add(segment.narration_id, str(error))
    return usable
