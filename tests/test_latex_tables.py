"""Every LaTeX table fits the page: widths are measured here with Computer Modern's own letters."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from PIL import ImageFont

from visdyn.reporting import tables
from visdyn.reporting.tables.latex_table import TEXT_WIDTH, escape, measure_text, write_latex

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/cmr10.ttf"
EM = 8.5  # of \footnotesize in the class article at 10 pt
TEXT = "IDM log-likelihood (mean nats per token), of the images that the forward model drew from one source"
WORDS = TEXT.split()
PART = r"\\begin\{(?:tabular|longtable)\}\{@\{\}([^\n]*)@\{\}\}\n(.*?)\\end\{(?:tabular|longtable)\}"


@cache
def letters():
    return ImageFont.truetype(str(FONT), 1000)


def measure_set(text):
    """Points of a text as TeX sets it: commands of symbols as wide as a plus sign."""
    text = re.sub(r"\\shortstack\[.\]\{(.*)\}", lambda found: max(found[1].split(r" \\ "), key=len), text)
    text = re.sub(r"\$[^$]*\$", "+", text)
    text = re.sub(r"\\text\w+\{\}|\\ldots\{\}", "mm", text)
    return letters().getlength(text.replace("\\", "")) / 1000 * EM


def measure_parts(latex):
    """Width of each tabular or longtable in points."""
    widths = []
    for spec, body in re.findall(PART, latex, re.S):
        columns = re.findall(r">\{\\raggedright\\arraybackslash\}p\{(\d+)pt\}|([lr])", spec)
        lines = [line for line in body.splitlines() if " & " in line and line.endswith((r"\\", r"\\*"))]
        cells = [re.sub(r" \\\\\*?$", "", line).split(" & ") for line in lines]
        assert {len(row) for row in cells} == {len(columns)}
        own = [float(fixed) if fixed else max(measure_set(row[place]) for row in cells)
               for place, (fixed, _) in enumerate(columns)]  # fmt: skip
        widths.append(sum(own) + 8.0 * (len(columns) - 1))
    return widths


def comparison(columns, rows, panels=("",)):
    ours = pd.DataFrame(
        [(panel, " ".join(WORDS[: 2 + row % 4]), f"C-FDM, best of {column} by IDM", 4.57 + row, 0.34, 200, 3)
         for panel in panels for row in range(rows) for column in range(columns)],
        columns=[*tables.CELL, "value", "spread", "n", "chains"],
    ).drop_duplicates(tables.CELL)  # fmt: skip
    printed = ours[tables.CELL].assign(value=12.34, spread=float("nan"), digits=2, note="")
    return tables.compare(ours, printed, "smaller scale")


@pytest.mark.parametrize("columns", [2, 9, 24])
@pytest.mark.parametrize("panels", [("",), ("Forward-dynamics Prediction (region judge)", "Spatial Reasoning")])
def test_a_wide_table_is_cut_into_parts_that_fit(columns, panels):
    text = tables.latex(comparison(columns, 4, panels), name="b_table2", title="Tab. 2: scores")
    widths = measure_parts(text)
    assert all(width <= TEXT_WIDTH for width in widths)
    assert len(widths) == 1 if columns == 2 else len(widths) > 1
    assert text.count(r"\label{tab:b-table2}") == 1  # one number, whatever the parts
    assert text.count(r"\addtocounter{table}{-1}") == len(widths) - 1
    assert text.count(r"\caption") == len(widths)
    for column in range(columns):
        assert len(re.findall(rf"of {column} by|best of {column}\b", text)) >= 1
    if any(panels):
        assert text.count(r"\textit{Spatial Reasoning}") == len(widths)  # once a part, not in every row


def test_published_values_stand_below_ours():
    lines = tables.latex(comparison(2, 1)).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("IDM log-likelihood"))
    assert lines[place].endswith(r"\\*")  # both lines on one page
    assert lines[place + 1] == r" & [12.34] & [12.34] \\"


def test_a_long_table_goes_over_pages_with_its_head():
    text = tables.latex(pd.DataFrame({"system": [f"system {row}" for row in range(90)], "mean": 0.5}), name="board")
    assert r"\begin{longtable}" in text
    assert r"\begin{table}" not in text
    assert text.index(r"\endfirsthead") < text.index(r"\endhead") < text.index("system 0")


def test_columns_of_words_wrap_and_share_the_width():
    frame = pd.DataFrame({"claim": [" ".join(WORDS)] * 2, "note": [" ".join(reversed(WORDS))] * 2, "n": [200, 150]})
    text = tables.latex(frame)
    assert text.count(r"\raggedright") == 2
    assert all(width <= TEXT_WIDTH for width in measure_parts(text))


def test_what_is_reckoned_is_never_less_than_what_is_set():
    for text in ("0.978 ± 0.004", "C-FDM w/o Synth.", "AURORA-BENCH Avg.", "[12.34]", "WMWM mmww", *WORDS):
        assert measure_text(text) >= measure_set(escape(text)), text


def test_characters_of_latex_are_escaped():
    text = write_latex(["a_b", "c"], [["50 % & {x} ~ ^ \\", "0.5 ± 0.1"]], 0, "100 % of a_b", "tab:x")
    assert r"50 \% \& \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} & 0.5 $\pm$ 0.1 \\" in text
    assert r"\caption{100 \% of a\_b}\label{tab:x}" in text
    assert r"a\_b & c \\" in text


def test_parts_of_a_plain_table_repeat_what_tells_its_rows_apart():
    frame = pd.DataFrame(
        {"metric": ["score"] * 3, "rank": [1, 2, 3], **{f"number {place}": 12345.6 for place in range(12)}}
    )
    parts = tables.latex(frame).split(r"\begin{table}")[1:]
    assert len(parts) > 1
    assert all("score & 2 &" in part for part in parts)
