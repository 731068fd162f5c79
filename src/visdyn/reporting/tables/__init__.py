"""One frame, three files: CSV for machines, Markdown for reading, LaTeX (`latex_table.py`) for papers.

A *comparison frame* is tidy: panel, row, column, value, spread, n, chains, published, published_spread, digits,
tolerance, status, note; one row for each cell. `grid` lays it out in the manner of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.evaluation.chains import half_width_over_chains
from visdyn.reporting.tables.comparison import CONTRADICTS, NOT_RUN, earn, tolerance_of
from visdyn.reporting.tables.latex_table import write_latex

CELL = ["panel", "row", "column"]
COLUMNS = [*CELL, "value", "spread", "n", "chains", "published", "published_spread", "digits", "tolerance", "status",
           "note"]  # fmt: skip
_FACTS = ("metric", "instrument", "scale", "drawn", "average")  # what a cell of ours is; see `compare`
DASH = "–"
OURS = "Ours"  # whose values a table holds
EARNED = "earned"  # status of our cells until it is known what they are compared with


@dataclass(frozen=True)
class Cell:
    """One cell as it is printed: our value, the published one, and the status ("" where there is nothing)."""

    ours: str
    published: str
    status: str
    detail: str = ""

    def __str__(self) -> str:
        if not self.published:
            return self.ours or DASH
        mark = " ≠" if self.status == CONTRADICTS else ""
        return f"{self.ours or DASH}{mark} [{self.published}]"


@dataclass(frozen=True)
class Grid:
    """A laid-out table: heads of the label columns, heads of the value columns, and rows of (labels, cells)."""

    labels: list[str]
    columns: list[str]
    rows: list[tuple[tuple[str, ...], list[Cell]]]


def compare(ours: pd.DataFrame, published: pd.DataFrame | None, status: str) -> pd.DataFrame:
    """Lay our values beside the published ones, cell by cell.

    Args:
        ours: panel (optional), row, column, value, and where known spread, n, chains, status, note. Cells that name no
            status but a `metric` earn theirs (`comparison.earn`): `instrument` and `scale` say how they differ from the
            paper's, `drawn` (default true) and `average` (default false) which tolerance they have.
        published: from `published.load`, or None.
        status: status of our cells that name neither; cells without our value are `not run`.

    Returns:
        A comparison frame in the paper's order of rows and columns, ours that the paper lacks after them.

    Raises:
        ValueError: a cell is given twice.
    """
    ours = _fill_columns(ours, status)
    if twice := ours[ours.duplicated(CELL)][CELL].to_numpy().tolist():
        raise ValueError(f"our table gives the cell {twice[0]} twice; average it first")
    if published is None:
        alone = ours.assign(published=float("nan"), published_spread=float("nan"), digits=3)
        return _earn_statuses(alone)[COLUMNS]
    theirs = published.rename(columns={"value": "published", "spread": "published_spread", "note": "published_note"})
    both = theirs.merge(ours, on=CELL, how="outer", sort=False)
    both["note"] = [
        _join_notes(mine, printed) for mine, printed in zip(both["note"], both["published_note"], strict=True)
    ]
    both["status"] = both["status"].where(both["value"].notna(), "not run")
    both["digits"] = both["digits"].fillna(theirs["digits"].max() if len(theirs) else 3).astype(int)
    return _sort_cells(_earn_statuses(both), theirs, ours)[COLUMNS]


def grid(frame: pd.DataFrame) -> Grid:
    """Lay out a comparison frame: panel (if any) and row as labels; columns with our values before those without.

    A column `Copy (kitchen)` stands behind `Copy`. A column that has fewer items than others in each of its rows says
    how many in its head.
    """
    run = frame.groupby("column", sort=False)["value"].count() > 0
    columns = [*run.index[run], *run.index[~run]]
    for column in [name for name in columns if name.partition(" (")[0] in set(columns) - {name}]:
        columns.remove(column)
        columns.insert(columns.index(column.partition(" (")[0]) + 1, column)
    heads = _count_fewer_items(frame)
    with_panel = bool(frame["panel"].astype(bool).any())
    rows = []
    for (panel, row), cells in frame.groupby(["panel", "row"], sort=False):
        found = {entry.column: _make_cell(entry) for entry in cells.itertuples()}
        labels = (panel, row) if with_panel else (row,)
        rows.append((labels, [found.get(column, Cell("", "", "")) for column in columns]))
    return Grid(["", ""] if with_panel else [""], [heads.get(column, column) for column in columns], rows)


def footnote(frame: pd.DataFrame, whose: str = OURS) -> str:
    """Say in one paragraph what stands in the cells: n, chains, spread, statuses, and where published values are.

    Args:
        frame: a comparison frame.
        whose: what its values are, and what must be known of them; those that begin with `OURS` are of a run of this
            kit.
    """
    mine = frame[frame["value"].notna()]
    if mine.empty:
        return "Only published values: ours were not run."
    parts = [
        f"{whose}{_format_range(mine['n'], 'n = ', ' a cell')}{_format_range(mine['chains'], '', ' chains', ' chain')}"
    ]
    if mine["chains"].notna().any():
        spread = mine[mine["spread"].notna()]
        parts.append(describe_spread(spread["chains"]) if len(spread) else "one chain, so no spread")
    if frame["published"].notna().any():
        absent = "was not run by us" if whose.startswith(OURS) else "is not recorded or not printed"
        parts.append(f"published values stand in brackets; {DASH} {absent}")
    if (compared := mine["tolerance"].dropna()).size:
        sizes = f"{compared.min():.4g}" + (f" to {compared.max():.4g}" if compared.nunique() > 1 else "")
        parts.append(f"≠ is further from the published value than the tolerance of its metric (here {sizes})")
    statuses = mine["status"].value_counts()
    parts.append(
        f"status of {'our' if whose.startswith(OURS) else 'the'} cells: "
        + ", ".join(f"{count} {name}" for name, count in sorted(statuses.items()))
    )
    return "; ".join(parts) + "."


def describe_spread(chains: Iterable[float]) -> str:
    """Say what ± is, and how much wider the interval of a mean is, for the numbers of chains that cells have."""
    counts = sorted({int(count) for count in chains if not pd.isna(count)})
    factors = [f"{half_width_over_chains(1, count):.1f} times that for {count} chains" for count in counts if count > 1]
    return f"± is the standard deviation over chains; the 95 % interval of their mean is ± {', '.join(factors)}"


def markdown(frame: pd.DataFrame, whose: str = OURS) -> str:
    """Return the frame as a Markdown table, with a footnote where it is a comparison frame (see `footnote`)."""
    heads, rows = _text_rows(frame)
    escaped = [[str(cell).replace("|", "\\|") for cell in row] for row in [heads, *rows]]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    lines.insert(1, "|" + " --- |" * len(heads))
    note = ["", footnote(frame, whose)] if _is_comparison(frame) else []
    return "\n".join([*lines, *note]) + "\n"


def latex(frame: pd.DataFrame, whose: str = OURS, name: str = "table", title: str = "") -> str:
    """Return the frame as LaTeX that fits a page (`latex_table.write_latex`), published values below ours.

    Args:
        name: file stem, which gives the label: `tab:b-table2`.
        title: what the caption begins with.
    """
    label = f"tab:{name.replace('_', '-')}"
    if not _is_comparison(frame):
        return write_latex(*_text_rows(frame), 0, f"{title}." if title else "", label)
    laid = grid(frame)
    heads = [*laid.labels, *laid.columns]
    ours, theirs = [], []
    for labels, cells in laid.rows:
        marks = [" ≠" if cell.published and cell.status == CONTRADICTS else "" for cell in cells]
        ours.append([*labels, *(f"{cell.ours or DASH}{mark}" for cell, mark in zip(cells, marks, strict=True))])
        theirs.append([*[""] * len(labels), *(f"[{cell.published}]" if cell.published else "" for cell in cells)])
    caption = " ".join(filter(None, [f"{title}." if title else "", footnote(frame, whose)]))
    return write_latex(heads, ours, len(laid.labels), caption, label, theirs)


def write(
    frame: pd.DataFrame,
    name: str,
    folder: str | Path,
    below: pd.DataFrame | None = None,
    whose: str = OURS,
    title: str = "",
) -> list[Path]:
    """Write `<name>.csv`, `<name>.md` and `<name>.tex` from one frame (6 significant digits in the CSV).

    The CSV of a comparison frame also has `low` and `high`: the 95 % t-interval of the value over chains.

    Args:
        frame: a comparison frame, or any plain frame.
        name: file stem, for example `b_table2`.
        folder: created where absent.
        below: a second table for the Markdown file, such as the systems' roster.
        whose: see `footnote`.
        title: what the LaTeX caption begins with.

    Returns:
        The three paths.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("csv", "md", "tex")]
    _add_interval(frame).to_csv(paths[0], index=False, float_format="%.6g", lineterminator="\n")
    paths[1].write_text(markdown(frame, whose) + ("" if below is None else "\n" + markdown(below)))
    paths[2].write_text(latex(frame, whose, name, title))
    return paths


def number(value: float, digits: int) -> str:
    """Return a number with `digits` decimals and a true minus sign, "" for NaN."""
    if pd.isna(value):
        return ""
    text = f"{value:.{digits}f}"
    return f"−{text[1:]}" if text.startswith("-") and float(text) else text.removeprefix("-")


def _fill_columns(ours: pd.DataFrame, status: str) -> pd.DataFrame:
    defaults = {
        "panel": "",
        "spread": float("nan"),
        "n": float("nan"),
        "chains": float("nan"),
        "status": status,
        "note": "",
    }
    defaults |= {
        "metric": "",
        "instrument": "",
        "scale": "",
        "drawn": True,
        "average": False,
        "tolerance": float("nan"),
    }
    missing = {name: value for name, value in defaults.items() if name not in ours.columns}
    earning = "metric" in ours.columns
    ours = ours.assign(**missing)[[*CELL, *list(defaults)[1:], "value"]].copy()
    ours = ours.fillna({name: value for name, value in defaults.items() if name in ("note", "panel", *_FACTS)})
    if "status" in missing and earning:
        ours["status"] = float("nan")
    planned = pd.Series(status, ours.index).mask(ours["metric"] != "", EARNED)
    ours["status"] = ours["status"].astype(object).fillna(planned).where(ours["value"].notna(), NOT_RUN)
    return ours


def _earn_statuses(frame: pd.DataFrame) -> pd.DataFrame:
    """Compare the cells whose status is to be earned, and say within which tolerance."""
    for place, cell in frame[frame["status"] == EARNED].iterrows():
        tolerance = float("nan")
        if not (cell["instrument"] or cell["scale"] or pd.isna(cell["published"])):
            tolerance = tolerance_of(cell["metric"], cell["published"], bool(cell["drawn"]), bool(cell["average"]))
            frame.loc[place, "tolerance"] = tolerance
        facts = (cell["instrument"], cell["scale"])
        frame.loc[place, "status"] = earn(cell["value"], cell["published"], *facts, tolerance)
    return frame


def _sort_cells(both: pd.DataFrame, theirs: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    # The paper's order first, then what only the kit has, in the order of its results.
    for name in CELL:
        order = dict.fromkeys([*theirs[name], *ours[name]])
        both[name] = pd.Categorical(both[name], categories=list(order), ordered=True)
    return both.sort_values(CELL, kind="stable").astype(dict.fromkeys(CELL, str)).reset_index(drop=True)


def _count_fewer_items(frame: pd.DataFrame) -> dict[str, str]:
    """Return column -> its head with n, of columns that in each of their rows have fewer items than another column."""
    mine = frame[frame["value"].notna() & frame["n"].notna()]
    most = mine.groupby(["panel", "row"])["n"].transform("max")
    fewer = (mine["n"] < most).groupby(mine["column"]).all()
    sizes = mine.groupby("column")["n"].agg(["min", "max"])
    return {
        name: f"{name}, n = {' to '.join(dict.fromkeys(f'{size:.0f}' for size in sizes.loc[name]))}"
        for name in fewer.index[fewer]
    }


def _join_notes(mine: object, printed: object) -> str:
    texts = [
        mine if isinstance(mine, str) else "",
        f"published: {printed}" if isinstance(printed, str) and printed else "",
    ]
    return "; ".join(text for text in texts if text)


def _make_cell(entry) -> Cell:
    digits = int(entry.digits)
    # A printed 26 hours is no reason to print ours, .43, as 0.
    own = 2 if digits == 0 and abs(entry.value) < 10 and not float(entry.value).is_integer() else digits
    ours = number(entry.value, own)
    if ours and not pd.isna(entry.spread):
        ours += f" ± {number(entry.spread, own)}"
    published = number(entry.published, digits)
    if published and not pd.isna(entry.published_spread):
        published += f" ± {number(entry.published_spread, digits)}"
    counts = [f"n = {int(entry.n)}"] if not pd.isna(entry.n) else []
    counts += [f"{int(entry.chains)} chain{'s' * (entry.chains != 1)}"] if not pd.isna(entry.chains) else []
    if ours and not pd.isna(entry.spread) and not pd.isna(entry.chains):
        half = half_width_over_chains(entry.spread, int(entry.chains))
        ends = (number(entry.value + side * half, digits) for side in (-1, 1))
        counts.append(f"95 % over chains {' to '.join(ends)}")
    return Cell(
        ours, published, entry.status if ours else "", ", ".join([*counts, *([entry.note] if entry.note else [])])
    )


def _format_range(values: pd.Series, before: str, after: str, after_one: str | None = None) -> str:
    values = values.dropna()
    if values.empty:
        return ""
    low, high = int(values.min()), int(values.max())
    after = after_one if after_one and high == 1 else after
    return f", {before}{low}{after}" if low == high else f", {before}{low} to {high}{after}"


def _add_interval(frame: pd.DataFrame) -> pd.DataFrame:
    """Put the interval over chains behind the number of chains; empty where there is one chain, or none."""
    if not _is_comparison(frame):
        return frame
    drawn = zip(frame["spread"], frame["chains"].fillna(0), strict=True)
    halves = np.array([half_width_over_chains(spread, int(chains)) for spread, chains in drawn])
    ends = frame.assign(low=frame["value"] - halves, high=frame["value"] + halves)
    at = COLUMNS.index("chains") + 1
    others = [name for name in frame.columns if name not in COLUMNS]
    return ends[[*COLUMNS[:at], "low", "high", *COLUMNS[at:], *others]]


def _is_comparison(frame: pd.DataFrame) -> bool:
    return set(COLUMNS) <= set(frame.columns)


def _text_rows(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    if _is_comparison(frame):
        laid = grid(frame)
        return [*laid.labels, *laid.columns], [[*labels, *map(str, cells)] for labels, cells in laid.rows]
    return list(map(str, frame.columns)), [
        [_format_value(value) for value in row] for row in frame.itertuples(index=False)
    ]


def _format_value(value: object) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return DASH
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rows(entries: Iterable[Sequence], names: Sequence[str] = (*CELL, "value", "spread", "n", "chains")) -> pd.DataFrame:
    """Return a frame of cells from tuples; a short way for builders."""
    return pd.DataFrame(list(entries), columns=list(names))
