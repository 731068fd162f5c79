"""What a figure, table or report was made from: hashes of its inputs, and the versions of the environment.

The commit is left out on purpose: a figure that carries it changes its bytes with every commit.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "deepspeed",
    "diffusers",
    "numpy",
    "pandas",
    "matplotlib",
    "dvc",
    "papermill",
)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def input_hashes(paths: Iterable[str | Path], *roots: str | Path) -> dict[str, str]:
    """Map each input, named relative to the first of `roots` that it lies under, to its SHA-256, sorted by name.

    A file outside all of them is named by its last three path parts, so that no path of this machine is kept.
    """
    folders = [Path(root).resolve() for root in roots]
    hashes = {}
    for path in (Path(path).resolve() for path in paths):
        root = next((folder for folder in folders if path.is_relative_to(folder)), None)
        name = path.relative_to(root) if root else Path(*path.parts[-3:])
        hashes[name.as_posix()] = sha256(path)
    return dict(sorted(hashes.items()))


def write_sidecar(path: str | Path, inputs: dict[str, str]) -> Path:
    """Write `{"inputs": {name: sha256}}` as JSON, sorted and without a date, and return the path."""
    path = Path(path)
    path.write_text(json.dumps({"inputs": inputs}, indent=2, sort_keys=True) + "\n")
    return path


def read_families(path: str | Path) -> dict[str, str]:
    """Return the families of machines that computed a run's stages: fingerprint -> `portable` or `native`.

    Args:
        path: a profile's machine.json (`visdyn.pipeline.fingerprint`); where there is none, nothing is known.
    """
    path = Path(path)
    return name_families(json.loads(path.read_text())["machines"]) if path.is_file() else {}


def name_families(machines: Mapping[str, Mapping]) -> dict[str, str]:
    """Return `read_families` of the part `machines` of a machine.json."""
    return {name: "portable" if facts.get("portable") else "native" for name, facts in sorted(machines.items())}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on ("not installed" where absent)."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
