"""The systems that the papers' tables list (`data/published/systems.yaml`), and what became of each in a run.

A table's roster has one row for every system that the paper lists: measured, imported, or not run with what it would
take. `systems.csv` of the paper's evaluation says where a system's images came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from visdyn.reporting import published
from visdyn.reporting.names import CHAMELEON
from visdyn.reporting.results import EVALUATIONS, Results
from visdyn.reporting.tables import comparison
from visdyn.reporting.tables.comparison import DOUNDO, Setting
from visdyn.yaml_files import read_yaml

COLUMNS = ["system", "status", "cells", "how", "needs"]
NOT_RUN = "not run, needs "
_ORIGINS = {
    "trained": "by this kit",
    "baseline": "by this kit",
    "diffusers": "through diffusers",
    "api": "through an API",
    "imported": "images made elsewhere",
}


@dataclass(frozen=True)
class System:
    """A system of a paper: an entry of systems.yaml, whose head explains the fields."""

    paper: str
    spellings: tuple[str, ...]
    kit: tuple[str, ...]
    needs: str
    family: str = CHAMELEON
    bases: tuple[str, ...] = ()


@lru_cache(maxsize=4)
def load(repository: str | Path | None = None) -> tuple[System, ...]:
    """Return the systems of both papers (default: of the checkout that this package runs from)."""
    content = read_yaml(published.folder(repository) / "systems.yaml")
    return tuple(
        System(
            paper=paper,
            spellings=tuple(entry["spellings"]),
            kit=tuple(entry["kit"]),
            needs=entry["needs"],
            family=entry.get("family", CHAMELEON),
            bases=tuple(entry.get("bases", ())),
        )
        for paper, entries in content.items()
        for entry in entries
    )


def named(label: str, paper: str, systems: Sequence[System]) -> System | None:
    """Return the system that a printed label means: its longest spelling that is the label or begins it."""
    found = [
        (len(spelling), system)
        for system in systems
        if system.paper == paper
        for spelling in system.spellings
        if label == spelling or label.startswith(spelling + " ")
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def printed(name: str, paper: str, labels: Iterable[str], fallback: str) -> str:
    """Return how a table that has `labels` prints the system that results call `name`; `fallback` where it does not."""
    labels = set(labels)
    for system in load():
        if system.paper == paper and _normalise_name(name) in map(_normalise_name, system.kit):
            found = next((spelling for spelling in system.spellings if spelling in labels), None)
            if found:
                return found
    return fallback


def read_setting(profile: str | Path, repository: str | Path | None = None) -> Setting:
    """Return what a profile measures on and with; its family is that of the system whose base its parameters name.

    Any other base (the embedded one, a checkpoint of one's own) is taken for Chameleon's.
    """
    bases = {
        base: DOUNDO if system.paper == "D" else system.family for system in load(repository) for base in system.bases
    }
    return comparison.read_setting(profile, bases)


def of_table(
    frame: pd.DataFrame, numbers: pd.DataFrame, axis: str, paper: str, results: Results, systems: Sequence[System]
) -> pd.DataFrame:
    """Return one row for each system that the paper lists in a table.

    Args:
        frame: the comparison frame of the table.
        numbers: its published numbers.
        axis: where the systems stand, `row`, `column` or `panel`.
        systems: from `load`.

    Returns:
        system (as printed), status (measured, imported, not run), cells (ours of those printed, as text), how, needs.
    """
    name = f"{EVALUATIONS[paper]}/systems.csv"
    origins = results.read_or_none(name) if results.may_read(name) else None
    groups: dict[str, tuple[System | None, list[str]]] = {}
    for label in dict.fromkeys(numbers[axis]):
        system = named(label, paper, systems)
        shown = next(name for name in system.spellings if label.startswith(name)) if system else label
        groups.setdefault(shown, (system, []))[1].append(label)
    rows = [_make_row(shown, *group, frame, axis, paper, origins) for shown, group in groups.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def annotated(frame: pd.DataFrame, axis: str, paper: str, systems: Sequence[System]) -> pd.DataFrame:
    """Return the frame with what it would take in the note of every printed cell that was not run."""
    needs = {label: system.needs for label in set(frame[axis]) if (system := named(label, paper, systems))}
    missing = frame["value"].isna() & frame["published"].notna() & frame[axis].isin(needs)
    texts = NOT_RUN + frame[axis].map(needs).fillna("")
    joined = frame["note"].where(frame["note"] == "", frame["note"] + "; ") + texts
    return frame.assign(note=frame["note"].where(~missing, joined))


def _make_row(
    shown: str,
    system: System | None,
    labels: list[str],
    frame: pd.DataFrame,
    axis: str,
    paper: str,
    origins: pd.DataFrame | None,
) -> list[str]:
    cells = frame[frame[axis].isin(labels) & frame["published"].notna()]
    ours = int(cells["value"].notna().sum())
    origin = _find_origin(shown, system, paper, origins)
    how = "" if origin is None else _describe_origin(origin)
    needs = system.needs if system else ""
    if not frame.loc[frame[axis].isin(labels), "value"].notna().any():
        return [shown, "not run", f"0 of {len(cells)}", how, needs]
    status = "imported" if origin is not None and origin["origin"] == "imported" else "measured"
    rest = "" if ours == len(cells) else "; the other cells need what stands above the table"
    return [shown, status, f"{ours} of {len(cells)}", (how or "ours") + rest, ""]


def _find_origin(shown: str, system: System | None, paper: str, origins: pd.DataFrame | None) -> dict | None:
    if origins is None:
        return None
    wanted = {
        _normalise_name(name)
        for name in (shown, *(system.kit if system else ()), *(system.spellings if system else ()))
    }
    for entry in origins.to_dict("records"):
        if {_normalise_name(entry["system"]), _normalise_name(entry["label"])} & wanted:
            return entry
    return None


def _describe_origin(origin: dict) -> str:
    parts = [_ORIGINS.get(origin["origin"], origin["origin"])]
    parts += [f"model {origin['model']}"] if origin["model"] else []
    parts += [f"{origin['found']:.0f} of {origin['expected']:.0f} images"] if origin["missing"] > 0 else []
    return "; ".join([*parts, *filter(None, [origin["note"]])])


def _normalise_name(name: str) -> str:
    # The papers write one system in several ways: "GPT-4o" and "GPT4o".
    return re.sub(r"[^a-z0-9]", "", name.lower())
