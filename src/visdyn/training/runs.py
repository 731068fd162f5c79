"""Folders of trained runs, one for each arm and seed: `<name>-s<seed>`."""

from __future__ import annotations

import re
from pathlib import Path


def run_name(name: str, seed: int) -> str:
    """Return the folder name of a run."""
    return f"{name}-s{seed}"


def requested_runs(params) -> list[tuple[str, int]]:
    """Return (arm, seed) of every run that section `fdm` asks for: all seeds of `arms`, the first of the others."""
    runs = [(name, seed) for seed in params.seeds for name in params.arms]
    return runs + [(name, params.seeds[0]) for name in params.single_seed_arms]


def runs_in(folder: Path) -> list[tuple[str, int, Path]]:
    """List a folder's runs as (name, seed, folder), by name and then by seed; whatever else lies there is left out."""
    found = ((re.fullmatch(r"(.+)-s(\d+)", path.name), path) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted((match[1], int(match[2]), path) for match, path in found if match and path.is_dir())
