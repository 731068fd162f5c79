"""Folders of runs, one for each chain: `<folder>/s<chain>`, or `<folder>-s<chain>` where a name tells runs apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from visdyn.params import Fdm


def run_name(name: str, chain: int) -> str:
    """Return what a run is called among others: `<name>-s<chain>`."""
    return f"{name}-s{chain}"


def member(folder: Path, chain: int) -> Path:
    """Return where chain `chain` writes its member of a folder of runs: `<folder>/s<chain>`."""
    return folder / f"s{chain}"


def of_chain(path: Path, chain: int) -> Path | None:
    """Return chain `chain`'s run of what lies at `path`: `<path>/s<chain>`, or `<path>-s<chain>` where `path` is none.

    Returns:
        None where no chain has a run: what is there (a public checkpoint, a `reference.json`) serves every chain.

    Raises:
        FileNotFoundError: other chains have a run, this one has none.
    """
    inside = path.is_dir()
    own = member(path, chain) if inside else path.with_name(run_name(path.name, chain))
    found = _folders(path, r"s\d+") if inside else _folders(path.parent, rf"{re.escape(path.name)}-s\d+")
    if found and own.name not in found:
        raise FileNotFoundError(f"chain {chain} has no {own}, only {', '.join(found)} are there; train it first")
    return own if found else None


def runs_in(folder: Path) -> list[tuple[str, int, Path]]:
    """List a folder's runs `<name>-s<chain>` as (name, chain, folder), by name and then by chain."""
    matches = [re.fullmatch(r"(.+)-s(\d+)", name) for name in _folders(folder, r".+-s\d+")]
    return sorted((match[1], int(match[2]), folder / match[0]) for match in matches)


def members_in(folder: Path) -> list[tuple[int, Path]]:
    """List a folder's members `s<chain>` as (chain, folder), by chain."""
    return sorted((int(name[1:]), folder / name) for name in _folders(folder, r"s\d+"))


def requested_runs(params: Fdm, chains: Sequence[int]) -> list[tuple[str, int]]:
    """Return (arm, chain) of every FDM that section `fdm` asks for: `arms` in all chains, the others in the first."""
    runs = [(name, chain) for chain in chains for name in params.arms]
    return runs + [(name, chains[0]) for name in params.first_chain_arms]


def _folders(folder: Path, pattern: str) -> list[str]:
    """Return the sorted names of a folder's folders that are like `pattern`; none where there is no folder."""
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted(path.name for path in there if re.fullmatch(pattern, path.name) and path.is_dir())
