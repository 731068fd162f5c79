"""Predictions made elsewhere (SmartEdit, GoT, VILA-U, Gemini, ...): a folder of images, matched with the test items.

Three layouts, looked for in this order:

1. an index, `index.csv` in the folder or a CSV given by name, with the columns subset, id, path (relative to the CSV);
2. `<subset>/<id>.png`;
3. `<id>.png`, where every id occurs in one subset only, as AURORA-Bench's do: they are the places in its test.json,
   and the layout is the one that the Bootstrapping authors publish images in.

PNG, JPEG and WebP files are read. Whatever is missing, unreadable or there twice is reported item by item, images of
another size than their source's are counted, and so are files that belong to no item: a metric over the rest is not
a metric over the benchmark, so show `FolderReport.summary` beside it.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from visdyn import images
from visdyn.images import ImageError, ImageRef
from visdyn.paths import printable
from visdyn.readers import read_rows
from visdyn.trajectory import Trajectory

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
INDEX = "index.csv"
FIELDS = ["subset", "id", "status", "path", "width", "height", "expected_width", "expected_height", "reason"]


@dataclass(frozen=True)
class FolderEntry:
    """What the folder holds for one item.

    Attributes:
        subset, id: of the item.
        status: `found`, `missing`, `unreadable` or `ambiguous` (several files).
        path: the file; None where there is none, or several.
        size, expected: width and height in pixels, of the file (None unless found) and of the item's source.
        reason: why it is not found; empty where it is.
    """

    subset: str
    id: str
    status: str
    path: Path | None
    size: tuple[int, int] | None
    expected: tuple[int, int]
    reason: str = ""

    @property
    def wrong_size(self) -> bool:
        """Whether an image was found, of another size than the source's."""
        return self.size is not None and self.size != self.expected

    @property
    def wrong_shape(self) -> bool:
        """Whether its aspect ratio also differs by more than a pixel, so that it was cropped, padded or squeezed."""
        if not self.wrong_size:
            return False
        (width, height), (expected_width, expected_height) = self.size, self.expected
        return abs(width * expected_height / expected_width - height) > 1


@dataclass(frozen=True)
class FolderReport:
    """Entries in the order of the items, and the image files that belong to none of them."""

    name: str
    entries: list[FolderEntry]
    unused: list[Path]

    @property
    def found(self) -> list[FolderEntry]:
        """The entries with a usable image."""
        return [entry for entry in self.entries if entry.status == "found"]

    def images(self, resize: bool = False) -> list[ImageRef | None]:
        """Return one image for each item, None where there is none.

        Args:
            resize: bring images to their source's size (PIL's bicubic filter, shape not kept). Off by default: the
                metrics have their own rules for sizes.
        """
        if resize:
            return [_resized(entry) if entry.status == "found" else None for entry in self.entries]
        return [entry.path if entry.status == "found" else None for entry in self.entries]

    def summary(self) -> str:
        """Return one line: how many items have an image, and what is wrong with the others and with sizes and files."""
        counts = Counter(entry.status for entry in self.entries)
        parts = [f"{self.name}: {counts['found']} of {len(self.entries)} items have an image"]
        parts += [f"{counts[status]} {status}" for status in ("missing", "unreadable", "ambiguous") if counts[status]]
        if other := [entry for entry in self.entries if entry.status != "found"]:
            parts.append(f"first: {other[0].subset}/{other[0].id} ({other[0].reason})")
        if wrong := [entry for entry in self.entries if entry.wrong_size]:
            shape = sum(entry.wrong_shape for entry in wrong)
            first = f"first: {wrong[0].path.name} is {_by(wrong[0].size)}, its source {_by(wrong[0].expected)}"
            parts.append(f"{len(wrong)} of another size than their source ({shape} also of another shape), {first}")
        if self.unused:
            parts.append(f"{len(self.unused)} files belong to no item, first: {self.unused[0].name}")
        return "; ".join(parts)

    def write(self, path: str | Path) -> None:
        """Write the entries as CSV with the columns `FIELDS`; paths keep their file name only."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(FIELDS)
            for entry in self.entries:
                name = "" if entry.path is None else entry.path.name
                sizes = [*(entry.size or ("", "")), *entry.expected]
                writer.writerow([entry.subset, entry.id, entry.status, name, *sizes, entry.reason])


class ImageFolder:
    """A system whose predictions are files.

    Args:
        root: the folder.
        name: of the system; None takes the folder's name.
        index: CSV with the columns subset, id, path; None takes `index.csv` where the folder has one.

    Raises:
        FileNotFoundError: no such folder or index.
        ValueError: the index lacks a column, names an item twice, or names a file outside its folder.
    """

    def __init__(self, root: str | Path, name: str | None = None, index: str | Path | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{root} is no folder; give the folder that holds the system's images")
        self.name = name or self.root.name
        default = self.root / INDEX
        self.index = Path(index) if index else default if default.is_file() else None
        self._listed = None if self.index is None else _read_index(self.index)

    def find(self, items: Sequence[Trajectory]) -> FolderReport:
        """Look for every item's image; every image found is decoded once, so that a damaged one is known here.

        Raises:
            ValueError: two items have the same subset and id.
        """
        keys = [(item.subset, item.id) for item in items]
        if twice := [key for key, count in Counter(keys).items() if count > 1]:
            raise ValueError(f"item {'/'.join(twice[0])} occurs twice; images are matched by subset and id")
        ids = Counter(item.id for item in items)
        candidates = [self._candidates(item.subset, item.id, ids[item.id] == 1) for item in items]
        used = {path.resolve() for paths in candidates for path in paths}
        entries = [_entry(item, paths, self.root) for item, paths in zip(items, candidates, strict=True)]
        return FolderReport(self.name, entries, [path for path in _files(self.root) if path.resolve() not in used])

    def _candidates(self, subset: str, name: str, flat: bool) -> list[Path]:
        if self._listed is not None:
            return [self._listed[subset, name]] if (subset, name) in self._listed else []
        places = [self.root / subset, *([self.root] if flat else [])]
        for place in places:
            paths = [_inside(self.root, place / f"{name}{extension}") for extension in EXTENSIONS]
            if found := [path for path in paths if path.is_file()]:
                return found
        return []


def _entry(item: Trajectory, paths: list[Path], root: Path) -> FolderEntry:
    expected = images.load(item.source).size
    if len(paths) > 1:
        names = " and ".join(path.name for path in paths)
        return FolderEntry(item.subset, item.id, "ambiguous", None, None, expected, f"{names} both exist; keep one")
    if not paths or not paths[0].is_file():
        reason = f"no file {paths[0].name}" if paths else f"no image of this item in {root.name}"
        return FolderEntry(item.subset, item.id, "missing", None, None, expected, reason)
    try:
        size = images.load(paths[0]).size
    except ImageError as error:
        return FolderEntry(item.subset, item.id, "unreadable", paths[0], None, expected, str(error))
    return FolderEntry(item.subset, item.id, "found", paths[0], size, expected)


def _resized(entry: FolderEntry) -> Image.Image:
    image = images.load(entry.path)
    return image.resize(entry.expected, Image.Resampling.BICUBIC) if entry.wrong_size else image


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())


def _read_index(path: Path) -> dict[tuple[str, str], Path]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a CSV with the columns subset, id, path")
    listed: dict[tuple[str, str], Path | None] = {}  # no path: the system gave no image
    for line, row in read_rows(path, ("subset", "id", "path"), ValueError):
        key = (row["subset"], row["id"])
        if key in listed:
            raise ValueError(f"{path} line {line} names item {'/'.join(key)} again; keep one line")
        listed[key] = _inside(path.parent, path.parent / row["path"]) if row["path"] else None
    return {key: place for key, place in listed.items() if place is not None}


def _inside(root: Path, path: Path) -> Path:
    # A name such as "../secret" must not reach files that are no predictions.
    if "\0" in str(path) or not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{printable(path)} lies outside {root}; predictions must be inside their folder")
    return path


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
