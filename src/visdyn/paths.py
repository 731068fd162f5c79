"""Paths of the repository, of a profile in it, and of shared public data beside it."""

from __future__ import annotations

import hashlib
import json
import os
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


def shared_data() -> Path | None:
    """Return the folder of shared reference data: `VISDYN_SHARED`, else `../shared` beside the checkout, else None."""
    if shared := os.environ.get("VISDYN_SHARED"):
        return Path(shared)
    beside = repository_root().parent / "shared"
    return beside if beside.is_dir() else None


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
