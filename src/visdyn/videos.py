"""The one reader of video files: a video's frames are those that decode.

What a header states is only a hint. Matroska's count is a duration times a rate, wrong wherever a video pauses; MP4's
counts the frames that an edit list hides. So a file with fewer frames than its header states is looked at again: it
is refused where its container ends early, or where frames that it holds do not decode.
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from visdyn.images import MAX_PIXELS
from visdyn.paths import printable

# Matroska and AVI headers state a duration, from which the frame count is estimated: it may be off by this much.
COUNT_SLACK = 2
_MATROSKA, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MP4 = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")


class ClipError(ValueError):
    """A clip cannot be read in full; the message says how much of it could."""


def stream_video(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video file one by one as uint8 arrays (H, W, 3), BGR as OpenCV decodes them, upright.

    Raises:
        ClipError: at once if the file cannot be opened, or its frames are too large; after the last decodable frame
            if it is truncated or damaged, so that nobody takes the part for the whole.
    """
    import cv2

    name, decoded, last = f"clip {printable(path)}", 0, 0.0
    try:
        with _opened(path) as capture:
            if not capture.isOpened():
                raise ClipError(f"{name} cannot be opened as a video; it is missing, damaged or of an unknown codec")
            stated, rate = _read_header(capture)
            width, height = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
            if width * height > MAX_PIXELS:
                raise ClipError(f"{name} states frames of {width} x {height} pixels; make them smaller")
            while (read := capture.read())[0]:
                decoded += 1
                last = max(last, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
                yield read[1]
        if decoded == 0:
            raise ClipError(f"{name} is truncated: the container states {stated} frames, none decodes")
        if decoded < stated - COUNT_SLACK and (problem := _find_damage(path, stated, decoded, rate, last)):
            raise ClipError(f"{name} {problem}")
    except ClipError:
        raise
    except Exception as error:  # OpenCV and a hostile header raise anything: cv2.error, MemoryError, struct.error, ...
        raise ClipError(f"{name} cannot be decoded ({printable(error)}); fetch it again") from error


def stated_frames(path: str | Path) -> int:
    """Return how many frames a video's container states (some only estimate it); 0 where it does not open."""
    with _opened(Path(path)) as capture:
        return _read_header(capture)[0]


def video_seconds(path: Path, frames: int, default: float) -> float:
    """Return how long a video of so many frames lasts.

    Its frames over its rate; but where a Matroska file holds fewer than its stated duration has room for, some are
    shown for longer, and the duration counts.
    """
    with _opened(path) as capture:
        stated, rate = _read_header(capture)
    with path.open("rb") as file:
        paused = file.read(4) == _MATROSKA and frames < stated - COUNT_SLACK
    return (stated if paused else frames) / (rate or default)


@contextmanager
def _opened(path: Path, *options: int) -> Iterator:
    """Open a video with FFmpeg alone, so that no name is taken for a pattern of image files or an address."""
    import cv2

    with ExitStack() as stack:
        place = os.path.abspath(path)
        if not place.isascii():  # OpenCV takes no name of bytes that are no UTF-8
            link = Path(stack.enter_context(tempfile.TemporaryDirectory()), "video").with_suffix(
                path.suffix if path.suffix.isascii() else ""
            )
            link.symlink_to(place)
            place = str(link)
        capture = cv2.VideoCapture()
        stack.callback(capture.release)
        if os.path.isfile(path):  # a pipe or a device would be waited for, without end
            capture.open(place, cv2.CAP_FFMPEG, list(options))
        yield capture


def _read_header(capture) -> tuple[int, float]:
    """Return the stated number of frames and frames per second; 0 for what is not stated, or no number."""
    import cv2

    count, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    return (int(count) if math.isfinite(count) and count > 0 else 0), (rate if math.isfinite(rate) and rate > 0 else 0)


def _find_damage(path: Path, stated: int, decoded: int, rate: float, last: float) -> str | None:
    """Return why a file with fewer frames than it states is not whole; None where it is.

    Args:
        rate: frames per second, 0 where unknown.
        last: time of the last frame, seconds.
    """
    counts = f"the container states {stated} frames, {decoded} decode"
    if _ends_early(path):
        return f"is truncated: {counts}"
    if rate and (shown := _read_edit_list(path)) is not None:
        whole = decoded >= shown * rate - COUNT_SLACK or last >= shown - COUNT_SLACK / rate
        return None if whole else f"is damaged: {counts}, and its edit list shows {shown:.2f} seconds"
    packets = _count_packets(path)
    return None if decoded >= packets - COUNT_SLACK else f"is damaged: it holds {packets} frames, {decoded} decode"


def _count_packets(path: Path) -> int:
    """Return how many frames a file holds, without decoding them."""
    import cv2

    with _opened(path, cv2.CAP_PROP_FORMAT, -1) as capture:
        count = 0
        while capture.grab():
            count += 1
    return count


def _ends_early(path: Path) -> bool:
    """Tell whether a container (MP4, Matroska, AVI) states more bytes than the file has."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            return 8 + int.from_bytes(head[4:8], "little") > size
        if head[4:8] in _MP4:
            return any(stop > size for _, _, stop in _list_boxes(file, 0, size))
        if head[:4] != _MATROSKA:
            return False
        file.seek(4)
        file.seek(_read_ebml_size(file) or 0, os.SEEK_CUR)
        if file.read(4) != _SEGMENT:
            return False
        length = _read_ebml_size(file)
        return length is not None and file.tell() + length > size


def _read_ebml_size(file) -> int | None:
    """Read a length of Matroska: its first set bit says of how many bytes; None where it is stated as unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] ^ (0x80 >> more)]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _list_boxes(file, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start of content and stop of the boxes of an MP4 between two places."""
    while start + 8 <= stop:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:  # a length of 64 bits follows
            length, head = int.from_bytes(file.read(8), "big"), 16
        if length == 0:  # to the end of the file
            length = stop - start
        if length < head:
            return
        yield kind, start + head, start + length
        start += length


def _read_edit_list(path: Path) -> float | None:
    """Return how many seconds of its video track an MP4's edit list shows; None where it has none, or is no MP4."""
    with path.open("rb") as file:
        if file.read(8)[4:] not in _MP4:
            return None
        movie = {kind: (start, stop) for kind, start, stop in _list_boxes(file, 0, path.stat().st_size)}.get(b"moov")
        boxes = list(_list_boxes(file, *movie)) if movie else []
        scale = next((_read_timescale(file, start) for kind, start, _ in boxes if kind == b"mvhd"), 0)
        for kind, start, stop in boxes:
            track = {name: place for name, *place in _list_boxes(file, start, stop)} if kind == b"trak" else {}
            if scale and b"edts" in track and b"mdia" in track and _is_video_track(file, *track[b"mdia"]):
                for name, place, _ in _list_boxes(file, *track[b"edts"]):
                    if name == b"elst":
                        return sum(_read_shown(file, place)) / scale
    return None


def _read_timescale(file, start: int) -> int:
    file.seek(start)
    wide = file.read(1) == b"\1"
    file.seek(start + (20 if wide else 12))
    return int.from_bytes(file.read(4), "big")


def _is_video_track(file, start: int, stop: int) -> bool:
    for kind, place, _ in _list_boxes(file, start, stop):
        if kind == b"hdlr":
            file.seek(place + 8)
            return file.read(4) == b"vide"
    return False


def _read_shown(file, start: int) -> Iterator[int]:
    """Yield the durations of an edit list's parts, but those of empty time (a media time of -1)."""
    file.seek(start)
    wide = file.read(1) == b"\1"
    file.seek(start + 4)
    entry = struct.Struct(">Qqi" if wide else ">Iii")
    for _ in range(int.from_bytes(file.read(4), "big")):
        content = file.read(entry.size)
        if len(content) < entry.size:
            return
        duration, media_time, _ = entry.unpack(content)
        if media_time >= 0:
            yield duration
