"""What mining writes: key-frame pairs as images with a JSON-lines index, and prompt statistics."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from visdyn.datasets.clips import Clip, frames_at
from visdyn.mining.keyframes import KeyframePair
from visdyn.trajectory import ReversiblePair

INDEX = "keyframe_pairs.jsonl"


@dataclass(frozen=True)
class ImagePair:
    """Two key-frames of one clip as image files, with where they come from."""

    source: str
    target: str
    dataset: str
    class_name: str
    video: str
    frame_a: int
    frame_b: int

    @property
    def id(self) -> str:
        """Unique among all pairs."""
        return f"{self.dataset}/{self.class_name}/{self.video}/{self.frame_a}-{self.frame_b}"

    @property
    def frames(self) -> tuple[tuple[str, str, str], int, int]:
        """The clip's key and the two frame numbers."""
        return (self.dataset, self.class_name, self.video), self.frame_a, self.frame_b


def write_pairs(pairs: Sequence[KeyframePair], clips: Sequence[Clip], folder: str | Path) -> None:
    """Write each key-frame once as PNG, `frames/<dataset>/<class>/<video>/<frame>.png`, and the index of pairs."""
    folder, by_key, wanted = Path(folder), {clip.key: clip for clip in clips}, defaultdict(set)
    for pair in pairs:
        wanted[(pair.dataset, pair.class_name, pair.video)] |= {pair.frame_a, pair.frame_b}
    for key, frames in wanted.items():
        place, numbers = folder / "frames" / Path(*key), sorted(frames)
        place.mkdir(parents=True, exist_ok=True)
        for number, image in zip(numbers, frames_at(by_key[key], numbers), strict=True):
            Image.fromarray(image).save(place / f"{number}.png")
    lines = [json.dumps({key: value for key, value in pair.as_dict().items() if key != "mode"}) for pair in pairs]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text("".join(f"{line}\n" for line in lines))


def read_pairs(folder: str | Path) -> list[ImagePair]:
    """Read what `write_pairs` wrote; image paths are joined to `folder`."""
    folder = Path(folder)
    rows = [json.loads(line) for line in (folder / INDEX).read_text().splitlines()]
    pairs = []
    for row in rows:
        class_name = row.pop("class", None) or row.pop("class_name")
        place = folder / "frames" / row["dataset"] / class_name / row["video"]
        images = {"source": str(place / f"{row['frame_a']}.png"), "target": str(place / f"{row['frame_b']}.png")}
        pairs.append(ImagePair(**images, class_name=class_name, **row))
    return pairs


def prompt_lengths(pairs: Sequence[ReversiblePair], source: str, split: str) -> pd.DataFrame:
    """Count prompts by their number of words: columns source, split, direction, length, num_words, count."""
    rows = [
        {"direction": direction, "length": length, "num_words": len(getattr(pair, f"{direction}_{field}").split())}
        for pair in pairs
        for direction in ("forward", "reverse")
        for length, field in (("long", "prompt"), ("short", "short"))
    ]
    counts = pd.DataFrame(rows).value_counts(sort=False).rename("count").reset_index()
    return counts.assign(source=source, split=split)[["source", "split", "direction", "length", "num_words", "count"]]
