"""The papers' printed numbers, as typed into `data/published/`: one CSV for each table or figure that prints numbers.

Columns: `panel` (group of rows or section, may be empty), `row` and `column` (names as printed), `value`
(as printed, empty where the paper prints a dash), `spread` (as printed), `note` (contradictions, remarks).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from visdyn.paths import repository_root
from visdyn.readers import read_frame

COLUMNS = ["panel", "row", "column", "value", "spread", "note"]


def folder(repository: str | Path | None = None) -> Path:
    """Return the folder of published numbers of a checkout (default: the one this package runs from)."""
    return Path(repository or repository_root()) / "data" / "published"


def load(name: str, repository: str | Path | None = None) -> pd.DataFrame:
    """Return a published item (for example `b_table2`) with float `value` and `spread`, and `digits` printed.

    Columns: panel, row, column, note (str), value, spread (float, NaN = not printed), digits (int, decimals printed).

    Raises:
        FileNotFoundError: no such item.
        ValueError: wrong columns, a value that is no number, or a cell given twice.
    """
    path = folder(repository) / f"{Path(name).stem}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no published numbers {path.name}; {path.parent.name}/ holds one CSV for each item")
    frame = read_frame(path, dtype=str, keep_default_na=False)
    if list(frame.columns) != COLUMNS:
        raise ValueError(f"{path.name} has columns {list(frame.columns)}; expected {COLUMNS}")
    twice = frame[frame.duplicated(["panel", "row", "column"])]
    if len(twice):
        raise ValueError(f"{path.name} gives {twice.iloc[0][['panel', 'row', 'column']].tolist()} twice; keep one")
    frame["digits"] = frame["value"].str.partition(".")[2].str.len().astype(int)
    for column in ("value", "spread"):
        frame[column] = _parse_numbers(frame[column], path.name, column)
    return frame


def names(repository: str | Path | None = None) -> list[str]:
    """Return the names of all published items, sorted."""
    return sorted(path.stem for path in folder(repository).glob("*.csv"))


def _parse_numbers(strings: pd.Series, name: str, column: str) -> pd.Series:
    try:
        return pd.to_numeric(strings.where(strings != "")).astype(float)
    except ValueError as error:
        raise ValueError(f"{name}, column {column}: {error}; write plain decimals, empty for a dash") from error
