"""A system's images on disk: each is written once, later runs find it again, and one made of something else is redone.

A folder belongs to one system, run (its chain; the seed of an editor) and recipe (model, settings, the code that
samples): its name ends in their digest. Each PNG carries the digest of what it was made of (source pixels and prompt),
so that an item that changed under an old name is not taken for the old one. A file that exists is whole: it gets its
name after it is written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from visdyn.images import ImageRef, load, read_note
from visdyn.models.editors.protocol import Request
from visdyn.paths import repository_root
from visdyn.plugins import file_of

ORIGINS = ("trained", "baseline", "diffusers", "api", "imported")
LARGE_FILE = 64 * 2**20  # bytes; larger files of a model are told apart by size and time
_MADE_OF = "visdyn-made-of"

# One image for each item, None where there is none, by request. Of AURORA-Bench there is only `FORWARD`.
Images = dict[Request, list[ImageRef | None]]
FORWARD = Request()


@dataclass(frozen=True)
class SystemImages:
    """All images of one system and chain on one benchmark.

    Attributes:
        bench: `aurora` or `doundo`.
        name, chain: of the system.
        origin: one of `ORIGINS`.
        model: folder, hub id or endpoint that made them; empty where none did.
        images: lists in the order of the items.
        note: why images are missing, and what else a reader must know; empty otherwise.
    """

    bench: str
    name: str
    chain: int
    origin: str
    model: str
    images: Images = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A trained model that makes images: a system before it has any.

    Attributes:
        name, chain: of the system.
        path: folder or hub id.
        model: the same as the parameters name it, for systems.csv.
        noise_seed: of the noise it samples with.
    """

    name: str
    chain: int
    path: str
    model: str
    noise_seed: int

    def with_images(self, bench: str, images: Images) -> SystemImages:
        """Return the system with its images."""
        return SystemImages(bench, self.name, self.chain, "trained", self.model, images)

    def left_out(self, bench: str, note: str) -> SystemImages:
        """Return the system without images, and why."""
        return SystemImages(bench, self.name, self.chain, "trained", self.model, {}, note)


@dataclass(frozen=True)
class Wanted:
    """One image to be made: its file within the folder, what it starts from, the prompt, and its own seed."""

    file: str
    source: ImageRef
    prompt: str
    seed: int


class OutputFolder:
    """The images of one system and run; see the module.

    Args:
        root: folder of the images, made when needed.
        recipe: plain values that decide the images; written to `system.json` beside them.
    """

    def __init__(self, root: Path, recipe: dict) -> None:
        self.root, self.recipe = root, recipe

    @classmethod
    def named(cls, parent: Path, system: str, run: int, recipe: dict) -> OutputFolder:
        """Return the folder `<parent>/<system>-s<run>-<digest of the recipe>`."""
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:10]
        return cls(parent / f"{file_name(system)}-s{run}-{digest}", {"system": system, "run": run, **recipe})

    def path(self, file: str) -> Path:
        """Return where an image lies; a name that leads out of the folder raises ValueError."""
        path = self.root / file
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ValueError(f"the item name {file!r} leads out of {self.root}; give the item another id")
        return path

    def has(self, wanted: Wanted) -> bool:
        """Tell whether the image is there and was made of the same source and prompt."""
        path = self.path(wanted.file)
        return path.is_file() and read_note(path, _MADE_OF) == made_of(wanted)

    def write(self, wanted: Wanted, image: ImageRef) -> Path:
        """Write one image (uint8 (H, W, 3) or PIL) in one piece."""
        path = self.path(wanted.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (self.root / "system.json").is_file():
            text = json.dumps(self.recipe, indent=1, sort_keys=True, default=str) + "\n"
            (self.root / "system.json").write_text(text, encoding="utf-8")
        about = PngInfo()
        about.add_text(_MADE_OF, made_of(wanted))
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image.convert("RGB")
        picture.save(draft, format="PNG", pnginfo=about, compress_level=1)
        draft.replace(path)
        return path

    def found(self, wanted: Sequence[Wanted]) -> list[Path | None]:
        """Return the path of every image, None where there is none."""
        return [self.path(one.file) if self.has(one) else None for one in wanted]


def produce(
    folder: OutputFolder,
    wanted: Sequence[Wanted],
    make: Callable[[list[Wanted]], Sequence[ImageRef | None]],
    chunk: int,
) -> list[Path | None]:
    """Make the images that are not there yet, `chunk` at a time, and return the path of each (None: none was made).

    Args:
        make: returns one image for each wanted one, or None where the system gave none.
        chunk: images handed to `make` together, and lost at most when the process is killed.
    """
    missing = [one for one in wanted if not folder.has(one)]
    for start in range(0, len(missing), chunk):
        part = missing[start : start + chunk]
        for one, image in zip(part, make(part), strict=True):
            if image is not None:
                folder.write(one, image)
    return folder.found(wanted)


def made_of(wanted: Wanted) -> str:
    """Return the SHA-256 of a source's content, the prompt and the seed."""
    text = json.dumps([_content(wanted.source), wanted.prompt, wanted.seed])
    return hashlib.sha256(text.encode()).hexdigest()


def keep(images: SystemImages, names: dict[Request, Sequence[str]], folder: Path) -> int:
    """Copy a system's images to `<folder>/<bench>/<system>/<name>` (links where the disk can), and return how many.

    Args:
        names: the files' names below the system's folder, as `images.images` has them in order.
    """
    count, place = 0, folder / images.bench / file_name(images.name)
    for key, refs in images.images.items():
        for ref, name in zip(refs, names[key], strict=True):
            if ref is not None and not (place / name).exists():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                _copy(ref, place / name)
                count += 1
    return count


def file_name(system: str) -> str:
    """Return a system's name as a folder's: letters, digits, `._-+` and spaces as underscores."""
    plain = "".join(letter if letter.isalnum() or letter in "._-+" else "_" for letter in system)
    return plain.lstrip(".") or "system"


def model_digest(reference: str) -> str:
    """Return what tells a model from another: the digest of its folder's files, or the hub id as it is.

    Of a plug-in in a file (`my_model.py:MyModel`) it is the name with the digest of the file; what that file loads is
    not followed.
    """
    root = Path(reference)
    if file := file_of(reference):
        return f"{Path(reference).name} {_file_digest(file)}"
    if not root.is_dir():
        return reference
    digest = hashlib.sha256()
    for path in sorted(item for item in root.rglob("*") if item.is_file() and not item.name.startswith(".")):
        digest.update(f"{path.relative_to(root)}\n{_file_digest(path)}\n".encode())
    return digest.hexdigest()


def code_digest(*names: str) -> str:
    """Return the digest of the kit's own files under `src/visdyn/<name>`: packages or modules that make images."""
    source, digest = repository_root() / "src/visdyn", hashlib.sha256()
    for name in names:
        root = source / name
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    stat = path.stat()
    if stat.st_size > LARGE_FILE:
        return f"{stat.st_size} {stat.st_mtime_ns}"
    return _small_digest(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _small_digest(path: str, size: int, modified: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _content(source: ImageRef) -> str:
    if isinstance(source, str | Path):
        return _file_digest(Path(source))
    pixels = np.asarray(source)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _copy(ref: ImageRef, target: Path) -> None:
    try:
        if Path(ref).suffix.lower() != target.suffix:
            raise OSError("another format")
        os.link(ref, target)
    except (OSError, TypeError):
        load(ref).save(target, format="PNG")
