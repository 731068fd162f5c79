"""What mining writes: key-frame pairs as images with a JSON-lines index, and prompt statistics."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from visdyn.mining.clip_mining import MinedClips
from visdyn.mining.keyframes import KeyframePair
from visdyn.readers import read_records
from visdyn.trajectory import ReversiblePair

INDEX = "keyframe_pairs.jsonl"
LENGTHS = "clips.jsonl"


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


def write_pairs(mined: MinedClips, mode: str, images: str | Path, folder: str | Path) -> list[KeyframePair]:
    """Write the pairs of one mode: `frames/<dataset>/<class>/<video>/<frame>.png`, the index, and the clips' lengths.

    Args:
        images: where `mine_clips` wrote the key-frames. They are linked, not moved: a run that is killed here still
            has them (where links are impossible they are copied).

    Returns:
        The pairs written.
    """
    folder, images = Path(folder), Path(images)
    pairs = [pair for pair in mined.pairs if pair.mode == mode]
    for place in dict.fromkeys(place for pair in pairs for place in _image_places(pair)):
        _hard_link(images / place, folder / "frames" / place)
    rows = [{key: value for key, value in pair.as_dict().items() if key != "mode"} for pair in pairs]
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in ((INDEX, rows), (LENGTHS, mined.lengths.to_dict("records"))):
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return pairs


def _image_places(pair: KeyframePair) -> list[Path]:
    place = Path(pair.dataset, pair.class_name, pair.video)
    return [place / f"{frame}.png" for frame in (pair.frame_a, pair.frame_b)]


def _hard_link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def read_lengths(folder: str | Path) -> pd.DataFrame:
    """Read how long the mined clips are, those without a pair too: dataset, class, video, frames, seconds."""
    rows = read_records(Path(folder) / LENGTHS, advice="run stage mining")
    columns = ["dataset", "class", "video", "frames", "seconds"]
    return pd.DataFrame(rows, columns=columns)


def read_pairs(folder: str | Path) -> list[ImagePair]:
    """Read what `write_pairs` wrote; image paths are joined to `folder`."""
    folder = Path(folder)
    rows = read_records(folder / INDEX, advice="run stage mining")
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
