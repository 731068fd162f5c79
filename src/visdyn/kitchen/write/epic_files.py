"""The kitchen as EPIC-KITCHENS-100 (CSV with the 15 public columns, frames) and as the Do-Undo benchmark on top.

Frame numbers count from 1 at 60 frames per second, as the public frames of EPIC-55 videos (`PXX_YY`) do:
frame = max(1, floor(60 * seconds)). Of each segment five frames are written: start, stop and three in between.
A video is one kitchen; between two narrated segments it may have been rearranged.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visdyn.kitchen.motion import render_moment
from visdyn.kitchen.prompts import long_prompt
from visdyn.kitchen.render import ImageSettings, photograph
from visdyn.kitchen.scene import Transition, kinds_cycle, make_scene, random_transition
from visdyn.kitchen.state import NOUNS, inverse
from visdyn.kitchen.text import canonical
from visdyn.kitchen.truth import transition_record
from visdyn.kitchen.write.aurora_files import shoot
from visdyn.kitchen.write.files import write_jpeg, write_json, write_jsonl

COLUMNS = (
    "narration_id",
    "participant_id",
    "video_id",
    "narration_timestamp",
    "start_timestamp",
    "stop_timestamp",
    "start_frame",
    "stop_frame",
    "narration",
    "verb",
    "verb_class",
    "noun",
    "noun_class",
    "all_nouns",
    "all_noun_classes",
)
# The columns that the Do-Undo benchmark keeps.
KEPT = (
    "narration_id",
    "participant_id",
    "video_id",
    "start_frame",
    "stop_frame",
    "narration",
    "verb_class",
    "noun_class",
)
FRAME_RATE = 60
SEGMENTS_PER_VIDEO = 8
PARTICIPANTS = 12
# EPIC-100's verb classes: take, put, open, close, insert, turn-on, turn-off, move, remove, sort. It has no class for
# unstacking; 97, the first free number, is ours.
VERB_CLASSES = {
    "pick-up": 0,
    "put-down": 1,
    "open": 3,
    "close": 4,
    "place-in": 5,
    "turn-on": 6,
    "turn-off": 8,
    "move": 11,
    "remove-from": 12,
    "stack": 40,
    "unstack": 97,
}
# Noun classes are ours: the order of NOUNS, then the basket.
NOUN_CLASSES = {noun: number for number, noun in enumerate((*NOUNS, "basket"))}


@dataclass(frozen=True, slots=True)
class Segment:
    """One narrated action in a video; frames are numbers in the file names."""

    narration_id: str
    participant: str
    video: str
    start_frame: int
    stop_frame: int
    narration_frame: int
    transition: Transition

    def frames(self) -> list[int]:
        """The five frames that are written: start, three in between, stop."""
        return [int(f) for f in np.linspace(self.start_frame, self.stop_frame, 5).round()]

    def frame_path(self, frame: int) -> str:
        """Path below `epic/frames`, in the public layout."""
        return f"{self.participant}/rgb_frames/{self.video}/frame_{frame:010d}.jpg"


def format_timestamp(frame: int, decimals: int) -> str:
    """Return the first time hh:mm:ss.ss (2 or 3 decimals) that falls into a frame."""
    ticks = 10**decimals
    count = 0 if frame <= 1 else -(-frame * ticks // FRAME_RATE)
    seconds, rest = divmod(count, ticks)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:0{decimals}d}"


def make_csv_row(segment: Segment) -> dict[str, str | int]:
    """Return a segment as a row of EPIC's CSV."""
    action = segment.transition.action
    nouns = [action.noun] + ["basket"] * (action.verb in ("place-in", "remove-from"))
    values = (
        segment.narration_id,
        segment.participant,
        segment.video,
        format_timestamp(segment.narration_frame, 3),
        format_timestamp(segment.start_frame, 2),
        format_timestamp(segment.stop_frame, 2),
        segment.start_frame,
        segment.stop_frame,
        canonical(action),
        action.verb,
        VERB_CLASSES[action.verb],
        action.noun,
        NOUN_CLASSES[action.noun],
        str(nouns),
        str([NOUN_CLASSES[noun] for noun in nouns]),
    )
    return dict(zip(COLUMNS, values, strict=True))


def make_segments(count: int, split: str, seed: int, rng: np.random.Generator) -> Iterator[Segment]:
    """Yield segments of a split, video by video, kinds of action in balanced order."""
    first_video = {"train": 1, "validation": 61, "dev": 81}[split]
    kinds = kinds_cycle(rng)
    for index in range(count):
        number, place = divmod(index, SEGMENTS_PER_VIDEO)
        if place == 0:
            scene = make_scene(seed, split, 100_000 + number)
            participant = f"P{number % PARTICIPANTS + 1:02d}"
            video = f"{participant}_{first_video + number // PARTICIPANTS:02d}"
            clock = 1
        start = clock + int(rng.integers(0, 200))
        stop = start + int(rng.integers(50, 260))
        transition = random_transition(rng, scene, next(kinds))
        narration = max(1, start - int(rng.integers(0, 60)))
        yield Segment(f"{video}_{place}", participant, video, start, stop, narration, transition)
        clock = stop + int(rng.integers(5, 240))


def _write_frames(root: Path, segment: Segment, rng: np.random.Generator, settings: ImageSettings) -> None:
    transition = segment.transition
    first, last = shoot(transition, rng, settings)
    middle = []
    for t in (0.27, 0.5, 0.73):
        clean = render_moment(transition.start, transition.scene, transition.action, t, settings.size)
        middle.append(photograph(clean, rng, settings.jitter * settings.size / 64, settings.noise))
    for frame, image in zip(segment.frames(), (first, *middle, last), strict=True):
        write_jpeg(root / segment.frame_path(frame), image, settings.jpeg_quality)


def make_annotation(segment: Segment, rng: np.random.Generator) -> dict[str, str | int]:
    """Return a segment as an item of the Do-Undo benchmark, with long and short prompts in both directions."""
    transition = segment.transition
    undo = inverse(transition.action)
    fields = make_csv_row(segment)
    return {name: fields[name] for name in KEPT} | {
        "forward_prompt": long_prompt(transition.start, transition.action, rng),
        "reverse_prompt": long_prompt(transition.end, undo, rng),
        "forward_short": canonical(transition.action),
        "reverse_short": canonical(undo),
    }


def write_epic(out: Path, split: str, count: int, seed: int, settings: ImageSettings) -> int:
    """Write one split of `epic/` and `doundo/` and its truth file under `out`; return the number of segments.

    Args:
        split: `train` or `validation`, whose annotations bear its name (Do-Undo's: `train`, `test`); or `dev`, whose
            files are called as those of `validation`, so that the same readers find them.
    """
    name, released = ("train", "train") if split == "train" else ("validation", "test")
    rng = np.random.default_rng([seed, 2, ("train", "validation", "dev").index(split)])
    (out / "epic" / "frames").mkdir(parents=True, exist_ok=True)
    segments = list(make_segments(count, split, seed, rng))
    for segment in segments:
        _write_frames(out / "epic" / "frames", segment, rng, settings)
    with (out / "epic" / f"EPIC_100_{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(make_csv_row(segment) for segment in segments)
    write_json(out / "doundo" / f"annotations_{released}.json", [make_annotation(segment, rng) for segment in segments])
    truth = [
        {
            **transition_record(segment.narration_id, segment.transition, candidates=split != "train"),
            "frames": [segment.frame_path(frame) for frame in segment.frames()],
        }
        for segment in segments
    ]
    return write_jsonl(out / "truth" / f"epic_{name}.jsonl", truth)
