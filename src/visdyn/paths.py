"""Paths of the repository, of a profile in it, and of shared public data beside it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any


def repository_root() -> Path:
    """Return the repository's root: `VISDYN_ROOT`, or the folder above this package that holds params.yaml.

    Raises:
        FileNotFoundError: the package is installed away from a checkout and `VISDYN_ROOT` is unset.
    """
    if root := os.environ.get("VISDYN_ROOT"):
        return Path(root).resolve()
    for folder in Path(__file__).resolve().parents:
        if (folder / "params.yaml").is_file():
            return folder
    raise FileNotFoundError("no params.yaml above the visdyn package; set VISDYN_ROOT to your checkout of the kit")


def profile_root(profile: str = ".") -> Path:
    """Return the folder of a profile (`.`, `profiles/smoke`, ...).

    Raises:
        FileNotFoundError: the folder has no params.yaml.
    """
    folder = (repository_root() / profile).resolve()
    if not (folder / "params.yaml").is_file():
        raise FileNotFoundError(
            f"{folder} is no profile: it has no params.yaml; profiles are '.' and the folders in profiles/"
        )
    return folder


class UnsetVariableError(ValueError):
    """A path of params.yaml holds an environment variable that is unset."""


def expanded(text: str, name: str = "a path in params.yaml") -> str:
    """Expand `~` and environment variables of a path in params.yaml, such as `$VISDYN_DATA/aurora`.

    Args:
        name: what the error calls the path, for example `data.aurora`.

    Raises:
        UnsetVariableError: a variable in it is unset.
    """
    path = os.path.expanduser(os.path.expandvars(text))
    if "$" in path:
        raise UnsetVariableError(f"{name} is {text!r}, but the environment variable in it is unset; export it")
    return path


def without_folders(text: str, folders: Iterable[str | Path]) -> str:
    """Return a text that names files from these folders on: what stands before them differs from machine to machine.

    Args:
        folders: absolute; one that lies in another goes first, the root of the file system is passed by.
    """
    for folder in sorted({str(folder).rstrip("/") for folder in folders} - {""}, key=len, reverse=True):
        if folder in text:
            # Not inside a longer path: /data/epic is no part of /mnt/data/epic, nor of /data/epic-100.
            alone = rf"(?:(?<![\w./-])|(?<=://)){re.escape(folder)}"
            text = re.sub(rf"{alone}/+(?=[^\s'\"<>)])", "", text)
            text = re.sub(rf"{alone}/*(?![\w./-])", ".", text)
    return text


def shared_data() -> Path | None:
    """Return the folder of shared reference data: `VISDYN_SHARED`, else `../shared` beside the checkout, else None."""
    if shared := os.environ.get("VISDYN_SHARED"):
        return Path(shared)
    beside = repository_root().parent / "shared"
    return beside if beside.is_dir() else None


def walk_files(root: str | Path, report: Callable[[Path, str], None]) -> Iterator[Path]:
    """Yield the files below a folder, hidden ones apart, through links to folders; each real folder is read once.

    Args:
        report: takes what is left out, with the reason: links that lead nowhere, or to a folder that is read already
            (a loop, or a second name), what is neither file nor folder, folders that cannot be listed.
    """
    read: dict[tuple[int, int], Path] = {}  # by device and inode
    folders, links = [Path(root)], []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)  # links last: the data's own names come first
        try:
            found = os.stat(folder)
            if (known := read.setdefault((found.st_dev, found.st_ino), folder)) is not folder:
                report(folder, f"leads to {printable(known)}, which is read already; each folder is read once")
                continue
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            report(folder, f"cannot be listed ({error.strerror})")
            continue
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            try:
                mode = os.stat(path).st_mode
            except OSError as error:
                report(
                    path, f"is a link that leads nowhere ({error.strerror})" if path.is_symlink() else error.strerror
                )
                continue
            if stat.S_ISDIR(mode):
                (links if entry.is_symlink() else folders).append(path)
            elif stat.S_ISREG(mode):
                yield path
            else:
                report(path, "is neither a file nor a folder")


def inside(root: str | Path, name: str, links: bool = True) -> Path:
    """Return the path of a file that data names below a root.

    Args:
        name: relative to the root, from a file that may be anybody's.
        links: whether links on the way may lead elsewhere, as data sets are linked into place; False where something
            is written.

    Raises:
        OutsideError: the name is absolute, or leads out of the root.
    """
    path = Path(root) / name
    leaves = os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir or "\0" in name
    if leaves or not (links or path.resolve().is_relative_to(Path(root).resolve())):
        raise OutsideError(f"{printable(name)} leads out of {printable(root)}; name a file below it")
    return path


class OutsideError(ValueError):
    """A path that data names leaves the folder that it belongs to; the message names both."""


def printable(text: str | Path) -> str:
    """Return a name as a line of a log, a report or a CSV can hold it: what cannot be printed is escaped (`\\udcff`).

    File names are bytes: of any that are no UTF-8 Python keeps surrogates, which no text file takes.
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text))


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that a kill or a power cut leaves the old one or the new one; its folder must be there.

    Several processes may write one path: each writes a draft of its own, and the last one stands.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def digest_of(value: Any) -> str:
    """Return the SHA-256 (hex) of a JSON-able value; the order of a dictionary's keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 (hex) of a file's content, read piece by piece."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
