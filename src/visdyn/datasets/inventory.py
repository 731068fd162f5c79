"""Hashes and file counts of the public data sets of a profile (a DVC dependency where nothing is rendered).

The real data lie outside the profile, often on another disk and too large to hash. The inventory holds the digest of
every annotation file and the number of files behind it; as `data/kitchen/inventory.json` it stands for the data in
DVC, so that other annotations or more clips run the stages again, and a moved folder does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from visdyn.paths import file_digest, walk_files

FILE = "inventory.json"
# What each data set must have; the rest of its files are counted only.
ANNOTATIONS = {
    "aurora": (
        "test.json",
        "data/magicbrush/train.json",
        "data/ag/train.json",
        "data/something/train.json",
        "data/kubric/train.json",
    ),
    "epic": ("EPIC_100_train.csv", "EPIC_100_validation.csv"),
    "clips": (),
    "doundo": ("annotations_train.json", "annotations_test.json"),
    "captions": (".",),  # these two are files themselves
    "questions": (".",),
}
# Folders whose files are counted: images, frames, videos.
COUNTED = {"aurora": "data", "epic": "frames", "clips": ".", "doundo": "."}


@dataclass(frozen=True)
class Part:
    """One annotation file, or the files of one data set.

    Attributes:
        dataset: name in section `data` of params.yaml.
        part: path inside its root; `<folder>/**` for counted files.
        found: whether it is there.
        size: bytes of an annotation file, number of counted files.
        sha256: of an annotation file; empty for counted files.
    """

    dataset: str
    part: str
    found: bool
    size: int
    sha256: str = ""


def take_inventory(roots: Mapping[str, Path | None]) -> list[Part]:
    """List the parts of every data set; what is missing is listed as not found.

    Args:
        roots: root of each data set in `ANNOTATIONS`; None where the profile names none.
    """
    return [part for name, root in sorted(roots.items()) for part in _list_parts(name, root)]


def write_inventory(folder: str | Path, roots: Mapping[str, Path | None]) -> pd.DataFrame:
    """Write `<folder>/inventory.json` and return the parts as columns dataset, part, found, size, sha256.

    Raises:
        FileExistsError: the folder holds a rendered kitchen or something else; it is not replaced.
    """
    folder = Path(folder)
    if folder.is_dir() and (others := sorted({path.name for path in folder.iterdir()} - {FILE})):
        raise FileExistsError(f"{folder} holds {', '.join(others[:3])}, not an inventory; empty it or set world.kind")
    parts = take_inventory(roots)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps([asdict(part) for part in parts], indent=1) + "\n")
    return pd.DataFrame([asdict(part) for part in parts])


def _list_parts(name: str, root: Path | None) -> list[Part]:
    listed = [_hash_annotation(name, root, file) for file in ANNOTATIONS[name]]
    if name not in COUNTED:
        return listed
    folder = COUNTED[name]
    count = 0 if root is None else _count_files(root / folder)
    return [*listed, Part(name, "**" if folder == "." else f"{folder}/**", count > 0, count)]


def _hash_annotation(name: str, root: Path | None, file: str) -> Part:
    path = None if root is None else root / file
    if path is None or not path.is_file():
        return Part(name, file, False, 0)
    return Part(name, file, True, path.stat().st_size, file_digest(path))


def _count_files(folder: Path) -> int:
    """Count files below a folder, through links to folders (data sets are often linked into place)."""
    return sum(1 for _ in walk_files(folder, lambda path, reason: None)) if folder.is_dir() else 0
