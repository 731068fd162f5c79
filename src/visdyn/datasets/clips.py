"""Unlabelled clips: folders of video files, as in Moments in Time, UCF-101 and Kinetics-700, or of extracted frames.

<root>/<dataset>/<class>/<video>.avi           the kit's layout; deeper folders are allowed (class = parent folder)
<root>/<class>/<video>.avi                     one dataset, named as the root
<root>/<video>.avi                             a plain folder of files (class "unlabelled")
<root>/<dataset>/<class>/<video>/<...>_<n>.jpg  frames already extracted, in the order of their last number
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visdyn import images
from visdyn.datasets.bad_items import DatasetError, collecting
from visdyn.paths import printable, walk_files
from visdyn.quarantine import Quarantine
from visdyn.videos import ClipError, stream_video, video_seconds

VIDEO_SUFFIXES = frozenset({".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg"})
FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
# Lists and licences that lie beside videos; they are no clips and no damaged clips either.
LISTING_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".dvc"})
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Clip:
    """One clip: a video file, or a folder of frames. `video` is the file's stem or the folder's name."""

    path: Path
    dataset: str
    class_name: str
    video: str

    @property
    def key(self) -> tuple[str, str, str]:
        """(dataset, class, video): unique among the clips of one root."""
        return self.dataset, self.class_name, self.video


def find_clips(root: str | Path, quarantine: Quarantine | None = None) -> list[Clip]:
    """Return the clips under a folder, sorted by dataset, class and name; nothing is decoded yet.

    Empty files, files that are no video and a second clip of the same dataset, class and name go to the
    quarantine (a warning counts them where it is None), and so do links that lead nowhere or back to a folder that is
    read already; hidden files and lists (.csv, .txt, ...) are passed by.

    Raises:
        DatasetError: the folder does not exist or holds no clip at all.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder; give one that holds clips as <dataset>/<class>/<video>")
    clips: dict[tuple, Clip] = {}
    with collecting(quarantine, root, clips) as bad:
        for path in _find_candidates(root, bad):
            clip = _make_clip(root, path)
            if clip.key in clips:
                bad.add(path, f"has the same dataset, class and name as {clips[clip.key].path}")
            else:
                clips[clip.key] = clip
    if not clips:
        raise DatasetError(f"{root} holds no clip; expected <dataset>/<class>/<video>.avi (.mp4, ...) or frame folders")
    return [clips[key] for key in sorted(clips)]


def _find_candidates(root: Path, bad: Quarantine) -> list[Path]:
    found, folders = set(), defaultdict(list)
    for path in walk_files(root, bad.add):
        suffix = path.suffix.lower()
        if suffix in LISTING_SUFFIXES:
            continue
        if path.stat().st_size == 0:
            bad.add(path, "is an empty file")
        elif suffix in VIDEO_SUFFIXES:
            found.add(path)
        elif suffix in FRAME_SUFFIXES:
            folders[path.parent].append(path)  # a folder of extracted frames is one clip
        else:
            bad.add(path, f"is no video file (suffix {suffix or 'missing'})")
    for files in folders.values():
        frames = set(_pick_frames(files))
        for path in sorted(set(files) - frames):
            bad.add(path, "is no frame of the clip beside it: its name has another form")
    return sorted(found | folders.keys())


def _make_clip(root: Path, path: Path) -> Clip:
    parts = path.relative_to(root).parts
    dataset = parts[0] if len(parts) > 2 else root.resolve().name
    class_name = parts[-2] if len(parts) > 1 else UNLABELLED
    return Clip(path, dataset, class_name, path.name if path.is_dir() else path.stem)


def sample_clips(clips: Sequence[Clip], per_dataset: int | None, seed: int) -> list[Clip]:
    """Draw at most `per_dataset` clips of each dataset, in the order given; None keeps all.

    The paper mined 19,658 of Moments' million clips and does not list them: a seeded draw stands for it.
    """
    if per_dataset is None:
        return list(clips)
    drawn: set[tuple] = set()
    for dataset in sorted({clip.dataset for clip in clips}):
        # Sorted, and a generator for each data set: the draw depends neither on the disk's order nor on the others.
        keys = sorted(clip.key for clip in clips if clip.dataset == dataset)
        drawn |= set(random.Random(f"{seed}-{dataset}").sample(keys, min(per_dataset, len(keys))))
    return [clip for clip in clips if clip.key in drawn]


def clip_seconds(clip: Clip, frames: int, default: float) -> float:
    """Return how long a clip of so many frames lasts; of a folder, at `default` frames per second."""
    return frames / default if clip.path.is_dir() else video_seconds(clip.path, frames, default)


def stream_frames(path: str | Path | Clip) -> Iterator[np.ndarray]:
    """Yield a clip's frames one by one as uint8 arrays (H, W, 3), RGB.

    Raises:
        ClipError: at once if the file cannot be opened; after the last decodable frame if the file is truncated or
            damaged, so that nobody takes the part for the whole.
    """
    path = _path_of(path)
    return _stream_folder(path) if path.is_dir() else map(_swap_channels, stream_video(path))


def stream_bgr(path: str | Path | Clip) -> Iterator[np.ndarray]:
    """Yield the frames as `stream_frames` does, but BGR, as OpenCV decodes a video: nothing is converted.

    Raises:
        ClipError: as of `stream_frames`.
    """
    path = _path_of(path)
    return map(_swap_channels, _stream_folder(path)) if path.is_dir() else stream_video(path)


def stream_grey(path: str | Path | Clip) -> Iterator[np.ndarray]:
    """Yield a clip's frames one by one in grey, uint8 (H, W): OpenCV's weights of R, G and B.

    Raises:
        ClipError: as of `stream_frames`.
    """
    import cv2

    return (cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in stream_bgr(path))


def frames_at(path: str | Path | Clip, indices: Sequence[int]) -> np.ndarray:
    """Return the frames with the given indices (from 0), in their order: uint8 array (len(indices), H, W, 3).

    Raises:
        ClipError: the clip cannot be read in full, or has no such frame.
    """
    wanted, kept = set(indices), {}
    for number, frame in enumerate(stream_frames(path)):
        if number in wanted:
            kept[number] = frame
    if lacking := sorted(wanted - kept.keys()):
        raise ClipError(f"clip {printable(_path_of(path))} has no frame {lacking[0]}")
    return np.stack([kept[index] for index in indices])


def _path_of(path: str | Path | Clip) -> Path:
    return path.path if isinstance(path, Clip) else Path(path)


def _swap_channels(frame: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)  # and RGB to BGR


def _stream_folder(path: Path) -> Iterator[np.ndarray]:
    name = f"clip {printable(path)}"
    files = [file for file in path.iterdir() if file.suffix.lower() in FRAME_SUFFIXES and not file.name.startswith(".")]
    if not files:
        raise ClipError(f"{name} is a folder without frames (.jpg, .png)")
    frames = _pick_frames(files)
    if 2 * len(frames) <= len(files):
        first, other = frames[0], next(file for file in sorted(files) if file not in frames)
        raise ClipError(
            f"{name} has frames of several forms of names, such as {first.name} and {other.name}; part them"
        )
    size = None
    for file in frames:
        try:
            frame = np.asarray(images.load(file))
        except images.ImageError as error:
            raise ClipError(f"{name}: {error}") from error
        size = size or frame.shape
        if frame.shape != size:
            raise ClipError(f"{name} has frames of several sizes: {printable(file.name)} is no {size[1]} x {size[0]}")
        yield frame


def _pick_frames(files: Iterable[Path]) -> list[Path]:
    """Return a folder's frames in the order of their last number: the files of the commonest form of name.

    A cover (`cover.png`) or a browser's copy (`frame_01 (1).jpg`) among them has another form, and is no frame.
    """
    forms = defaultdict(list)
    for file in files:
        forms[re.sub(r"\d+", "#", file.name.lower())].append(file)
    commonest = max(sorted(forms), key=lambda form: len(forms[form]))

    def order(path: Path) -> tuple[int, str]:
        numbers = re.findall(r"\d+", path.stem)
        return (int(numbers[-1]) if numbers else -1, path.name)

    return sorted(forms[commonest], key=order)
