"""Folders of trained runs, one for each arm and seed: `<name>-s<seed>`."""

from __future__ import annotations

import re
from pathlib import Path


def run_name(name: str, seed: int) -> str:
    """Return the folder name of a run."""
    return f"{name}-s{seed}"


def runs_in(folder: Path) -> list[tuple[str, int, Path]]:
    """List a folder's runs as (name, seed, folder), by name and then by seed; whatever else lies there is left out."""
    found = ((re.fullmatch(r"(.+)-s(\d+)", path.name), path) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted((match[1], int(match[2]), path) for match, path in found if match and path.is_dir())
