"""The papers' tables read again, position by position, from their text: every number stands in its own cell."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from visdyn.paths import shared_data
from visdyn.reporting import published

NUMBER = r"(?<![\w.])\d+\.\d+"
# item -> (what the table's first line holds, its lines)
MARKDOWN = {
    "b_table1": ("BS +\\| R-1", 5), "b_table2": ("PixInst \\| GoT", 12), "b_table3": (r"\| ES \(", 9),
    "b_table4": (r"w/o Synth\. \| w/o LW", 8), "b_table5": (r"GoT +\| SE +\| C-FT +\| C-FDM", 8),
    "b_table6": (r"^\| Datasets +\| Metrics", 29), "b_table7": (r"Avg\. Length +\| Total", 5),
}  # fmt: skip
PLAIN = {"d_table1": 5, "d_table2": 5, "d_table3": 5, "d_table4": 4}
SPREAD = {"d_table5": 6, "d_table6": 5}


def paper(name: str) -> list[str]:
    shared = shared_data()
    path = shared / "papers" / name if shared else None
    if path is None or not path.is_file():
        pytest.skip(f"the paper's text {name} is not at hand (VISDYN_SHARED)")
    return path.read_text().splitlines()


def typed(name: str, column: str = "value") -> list[str]:
    return pd.read_csv(published.folder() / f"{name}.csv", dtype=str, keep_default_na=False)[column].tolist()


def cells(lines: list[str]) -> list[str]:
    """Numbers and dashes of a Markdown table, row by row; thousands, units, bold and daggers are taken off."""
    found = []
    for line in lines:
        plain = re.sub(r"<math>.*?</math>|\$.*?\$|</?b>|\*|seconds|hours|,", "", line)
        parts = [part.strip() for part in plain.strip().strip("|").split("|")]
        found += [part for part in parts if re.fullmatch(r"-?\d+(\.\d+)?|–", part)]
    return found


def from_line(lines: list[str], pattern: str, count: int, skip: int = 0) -> list[str]:
    start = next(place for place, line in enumerate(lines) if re.search(pattern, line)) + skip
    return lines[start : start + count]


def test_the_newer_versions_page():
    """Its numbers as the notes on the page give them: system, then the nine columns."""
    shared = shared_data()
    path = shared / "research/doundo_bagel.md" if shared else None
    if path is None or not path.is_file():
        pytest.skip("the notes on the project page are not at hand (VISDYN_SHARED)")
    notes = re.findall(r"(?:\d*\.\d+/){8}\d*\.\d+", path.read_text())
    noted = [[float(number) for number in line.split("/")] for line in notes]
    rows = [[float(value) for value in typed("d_page")[i : i + 9]] for i in range(0, 63, 9)]
    assert rows[3] == [rows[1][1], rows[1][0], *rows[1][2:]]  # the second table exchanges two of BAGEL's
    assert rows[:3] + rows[4:] == noted


@pytest.mark.parametrize("name", MARKDOWN)
def test_bootstrapping_tables(name):
    lines = from_line(paper("bootstrapping-dynamics.txt"), *MARKDOWN[name])
    pairs = zip(typed(name), typed(name, "note"), strict=True)
    assert cells(lines) == [value or "–" for value, note in pairs if not note.startswith("the earlier version")]


def test_bootstrapping_figure2():
    lines = paper("bootstrapping-dynamics.txt")
    panels = [from_line(lines, rf"^\| {task}-dynamics Modelling", 6) for task in ("Forward", "Inverse")]
    assert cells([line for panel in panels for line in panel]) == typed("b_figure2")


@pytest.mark.parametrize("name", PLAIN)
def test_doundo_tables(name):
    lines = from_line(paper("do-undo.txt"), f"^Table {name[-1]}:", PLAIN[name], skip=2)
    assert re.findall(NUMBER, re.sub(r"\[[^\]]*\]", "", "\n".join(lines))) == typed(name)


@pytest.mark.parametrize("name", SPREAD)
def test_doundo_tables_with_spread(name):
    """The text has each such cell twice and glued, `0.8±0.10.8\\pm 0.1`; the second copy is read."""
    found = []
    for line in from_line(paper("do-undo.txt"), f"^Table {name[-1]}:", SPREAD[name], skip=2):
        once = re.sub(r"(\d+\.\d+)±\d+\.\d+?(\1\\pm)", r" \2", line)
        pairs = re.findall(r"(\d+\.\d+)\\pm (\d+\.\d+)", once)
        found += pairs or [(value, "") for value in re.findall(NUMBER, line)]
    assert found == list(zip(typed(name), typed(name, "spread"), strict=True))


def test_doundo_figures_of_single_samples():
    lines = paper("do-undo.txt")
    end = next(place for place, line in enumerate(lines) if line.startswith("Figure 11:"))
    scores = re.findall(r"^(?:IF|IDP|TC|OC): ?(\d+)$", "\n".join(lines[:end]), re.M)
    assert scores == typed("d_figure11")
    metrics = [line for line in lines[end:] if line.startswith("DINO-F:")]
    assert re.findall(r": ?(\d+\.\d+)", "\n".join(metrics)) == typed("d_figure12")
