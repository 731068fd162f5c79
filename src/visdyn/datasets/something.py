"""First and last frames of Something-Something V2 videos, where AURORA's annotations name them.

    visdyn something --videos VIDEOS --annotations aurora/data/something/train.json

The videos (`<id>.webm`) come from Qualcomm, under its licence; AURORA publishes none of the training frames. For each
annotation `{"input": ".../<id>/first.jpg", "output": ".../<id>/last.jpg"}` the two files are written below `--root`
(default: AURORA's folder, three above the annotations). Files that are there are not made again, so a killed run is
finished by the same command. Videos that cannot be read go to `quarantine_frames.csv` beside the annotations.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from visdyn.compute.progress import Progress
from visdyn.compute.workers import Lost, Task, each
from visdyn.datasets.bad_items import DatasetError
from visdyn.paths import OutsideError, inside
from visdyn.quarantine import Quarantine
from visdyn.readers import Unusable, read_items

# What AURORA's own filter drops, as substrings ("show" also hits "shower").
KEYWORDS = (
    "pretend",
    "holding",
    "fail",
    "roll",
    "then letting it",
    "until it falls down",
    "spin",
    "nothing happens",
    "show",
    "falling like",
    "squeezing",
    "throwing",
    "slightly",
)
# AURORA's own script steps back up to 10 frames from the last one that the container states.
COUNT_SLACK = 10
QUARANTINE = "quarantine_frames.csv"


@dataclass(frozen=True)
class Extraction:
    """One video and the two files that its frames become."""

    video: Path
    first: Path
    last: Path

    @property
    def done(self) -> bool:
        """Whether both files are there."""
        return self.first.is_file() and self.last.is_file()


def keeps(instruction: str) -> bool:
    """Say whether AURORA's keyword filter keeps an instruction."""
    text = instruction.lower()
    return not any(word in text for word in KEYWORDS) and ("falls off" not in text or "but" in text)


def plan(items: Iterable[dict], videos: str | Path, root: str | Path) -> list[Extraction]:
    """Return what is to be extracted for annotations, each video once.

    Raises:
        DatasetError: an annotation does not name `<id>/first.jpg` and `<id>/last.jpg`, or names files outside `root`.
    """
    found: dict[str, Extraction] = {}
    for number, item in enumerate(items):
        first, last = (Path(str(item.get(end) or "")) for end in ("input", "output"))
        if (first.stem, last.stem) != ("first", "last") or first.parent != last.parent:
            raise DatasetError(f"annotation {number} names {first} and {last}, not <id>/first.jpg and <id>/last.jpg")
        name = first.parent.name
        try:
            found[name] = Extraction(
                inside(videos, f"{name}.webm"), *(inside(root, str(path), links=False) for path in (first, last))
            )
        except OutsideError as error:
            raise DatasetError(f"annotation {number}: {error}") from error
    return list(found.values())


def extract(_, work: Extraction) -> dict:
    """Write a video's first and last frame; return their number of frames, or why it cannot be used."""
    from visdyn.datasets.clips import ClipError, stream_frames
    from visdyn.videos import stated_frames

    first = last = None
    count, stated = 0, 0
    if not work.video.is_file():
        return {"error": f"video {work.video} does not exist"}
    try:
        stated = stated_frames(work.video)
        for last in stream_frames(work.video):
            first = last if first is None else first
            count += 1
    except ClipError as error:
        # The count of a webm file is estimated from its duration: a few frames less are no damage.
        if count < 2 or count < stated - COUNT_SLACK:
            return {"error": str(error)}
    if count < 2:
        return {"error": f"video {work.video} has {count} frame; a first and a last are two"}
    for frame, path in ((first, work.first), (last, work.last)):
        _write_frame(frame, path)
    return {"frames": count}


def _write_frame(frame: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    Image.fromarray(frame).save(draft, format="JPEG", quality=95)
    draft.replace(path)


def extract_all(
    work: Sequence[Extraction],
    quarantine: Quarantine,
    processes: int = 0,
    timeout: float = 60.0,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Extract what is not there yet, over processes, and return how many videos are done.

    Args:
        quarantine: takes the videos that are missing, damaged, or hang or crash the decoder.
        processes: 0 means one per core.
        timeout: seconds for one video.
    """
    waiting = [one for one in work if not one.done]
    progress = Progress("videos", len(work), 5.0, len(work) - len(waiting), tell)
    for index, result in each(Task(extract), waiting, processes, timeout):
        reason = result.reason if isinstance(result, Lost) else result.get("error")
        if reason:
            quarantine.add(waiting[index].video, reason)
        progress.add(bad=bool(reason))
    progress.end()
    return sum(one.done for one in work)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 where no video could be used."""
    options = _make_parser().parse_args(arguments)
    try:
        items = _read_items(options.annotations)
        if options.filtered:
            items = [item for item in items if keeps(_first_instruction(item))]
            options.filtered.write_text(json.dumps(items, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        work = plan(items, options.videos, options.root or options.annotations.resolve().parents[2])
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 2
    quarantine = Quarantine()
    done = extract_all(work, quarantine, options.processes, options.timeout, lambda line: print(line, file=sys.stderr))
    quarantine.write(options.annotations.parent / QUARANTINE)
    print(f"{done} of {len(work)} videos have their frames; {quarantine.summary()}")
    return 0 if done else 1


def _read_items(path: Path) -> list[dict]:
    advice = "give AURORA's data/something/train.json"
    items = read_items(path, DatasetError, advice)
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            reason = item.reason if isinstance(item, Unusable) else f"is a {type(item).__name__}, not an object"
            raise DatasetError(f"{path}: annotation {number} {reason}; {advice}")
    return items


def _first_instruction(item: dict) -> str:
    text = item.get("instruction", "")
    return str(text[0] if isinstance(text, list) and text else text)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visdyn something", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True, help="folder of <id>.webm")
    parser.add_argument("--annotations", type=Path, required=True, help="AURORA's data/something/train.json")
    parser.add_argument("--root", type=Path, help="folder that the annotations' paths start at; default: AURORA's")
    parser.add_argument("--filtered", type=Path, help="apply AURORA's keyword filter and write what it keeps here")
    parser.add_argument("--processes", type=int, default=0, help="0 (default) means one per core")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds before a video is given up")
    return parser


if __name__ == "__main__":
    sys.exit(main())
