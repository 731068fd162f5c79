"""LaTeX of a table that fits a page: a float where it is small, over pages where it is long, in parts where it is wide.

Widths are reckoned, not set: characters of Computer Modern at `\\footnotesize`, against the narrowest page that is
common, `\\textwidth` of the class article. A wide table is cut into parts of as many columns as fit, each with the
label columns; a part that is longer than a page goes over pages. Needs the packages booktabs, array and longtable.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

TEXT_WIDTH = 345.0  # points: \textwidth of article at 10 pt on A4 or letter
EM = 8.5  # points of an em of \footnotesize
GAP = 8.0  # points between two columns: \tabcolsep 4pt on either side
ROWS_OF_A_FLOAT = 40  # lines of text, head included; longer ones go over pages
HEAD_CHARACTERS, LABEL_WIDTH = 12, 125.0  # a head is broken there; a column of words is at most so wide (points)
SHORTEST_WORDS = 70.0  # a column of words that is wider than it may be has at least so much (points)


@dataclass(frozen=True)
class Column:
    """A column as it is set: its head's lines, whether its cells are words, and its width in points."""

    head: list[str]
    words: bool
    width: float
    wraps: bool = False


def measure_text(text: str) -> float:
    """Return about how wide a text is set, in points; a little more than it is."""
    widest = sum(character in "WM" for character in text)
    wide = sum(character.isupper() or character in "mw%±−≠↑↓=+<>" for character in text) - widest
    narrow = sum(character in " .,;:'!|ijl()[]" for character in text)
    return EM * (1.05 * widest + 0.85 * wide + 0.36 * narrow + 0.56 * (len(text) - widest - wide - narrow))


def write_latex(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    labels: int,
    caption: str,
    label: str,
    below: Sequence[Sequence[str]] | None = None,
) -> str:
    """Return a table.

    Args:
        heads: of the columns.
        rows: of cells, as many as heads.
        labels: the first columns that name a row; where there are two, the first is a panel, printed once as a line.
        caption, label: of the table.
        below: for each row what stands under its cells, such as published values; "" where nothing does.
    """
    panels = [row[0] for row in rows] if labels == 2 else None
    if panels is not None:
        heads, rows = heads[1:], [row[1:] for row in rows]
        below = None if below is None else [row[1:] for row in below]
    columns = _fit_words([_make_column(head, place, rows, below, labels > 0) for place, head in enumerate(heads)])
    parts = _split_columns(columns, 1 if labels else _count_key_columns(columns, rows))
    written = []
    for number, places in enumerate(parts):
        told = caption if len(parts) == 1 else f"{caption} Part {number + 1} of {len(parts)}.".strip()
        body = _write_rows([columns[place] for place in places], places, rows, below, panels)
        written.append(_write_part([columns[place] for place in places], body, told, label, number > 0))
    return "% \\usepackage{booktabs,array,longtable}\n" + "\n".join(written)


def escape(text: str) -> str:
    """Return plain text for LaTeX."""
    escaped = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
               "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
               "±": r"$\pm$", "−": "$-$", "≠": r"$\neq$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--",
               "×": r"$\times$", "…": r"\ldots{}", "→": r"$\rightarrow$"}  # fmt: skip
    return "".join(escaped.get(character, character) for character in text)


def _make_column(
    head: str, place: int, rows: Sequence[Sequence[str]], below: Sequence[Sequence[str]] | None, labelled: bool
) -> Column:
    cells = [row[place] for part in (rows, below or []) for row in part]
    words = (labelled and place == 0) or any(len(cell) > HEAD_CHARACTERS and cell[:1].isalpha() for cell in cells)
    lines = textwrap.wrap(head, HEAD_CHARACTERS, break_long_words=False) or [""]
    width = max(map(measure_text, [*lines, *cells]))
    return Column(lines, words, width)


def _fit_words(columns: list[Column]) -> list[Column]:
    """Let columns of words wrap where they are wider than what numbers leave them."""
    numbers = sum(column.width + GAP for column in columns if not column.words)
    wide = [column for column in columns if column.words]
    left = TEXT_WIDTH - numbers - GAP * len(wide)
    most = max(SHORTEST_WORDS, left / len(wide)) if wide else 0.0
    if len(wide) > 1 and sum(column.width for column in wide) > left:
        short = sum(column.width for column in wide if column.width <= most)
        long = sum(column.width > most for column in wide)
        most = max(SHORTEST_WORDS, (left - short) / long) if long else most
    most = min(most, TEXT_WIDTH - GAP) if len(columns) <= len(wide) + 8 else min(most, LABEL_WIDTH)
    return [
        Column(column.head, True, most, wraps=True) if column.words and column.width > most else column
        for column in columns
    ]


def _count_key_columns(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> int:
    """Return how many of the first columns tell the rows apart; 1 where those would take most of the page."""
    for count in range(1, len(columns)):
        if sum(column.width + GAP for column in columns[:count]) > 0.7 * TEXT_WIDTH:
            return 1
        if len({tuple(row[:count]) for row in rows}) == len(rows):
            return count
    return 1


def _split_columns(columns: Sequence[Column], kept: int) -> list[list[int]]:
    """Return which columns stand in each part: the first `kept` in all of them."""
    # No gap stands before the first column.
    room = TEXT_WIDTH + GAP + 0.01 - sum(column.width + GAP for column in columns[:kept])
    parts, left = [list(range(kept))], room
    for place, column in enumerate(columns[kept:], kept):
        if column.width + GAP > left and len(parts[-1]) > kept:
            parts.append(list(range(kept)))
            left = room
        parts[-1].append(place)
        left -= column.width + GAP
    return parts


def _write_rows(
    columns: Sequence[Column],
    places: Sequence[int],
    rows: Sequence[Sequence[str]],
    below: Sequence[Sequence[str]] | None,
    panels: Sequence[str] | None,
) -> list[str]:
    """Return the lines of the body; a row and what stands under it stay on one page."""
    lines, across = [], rf"\multicolumn{{{len(columns)}}}{{@{{}}l}}"
    for number, row in enumerate(rows):
        if panels is not None and (number == 0 or panels[number] != panels[number - 1]):
            space = [r"\addlinespace"] if number else []
            lines += [*space, rf"{across}{{\textit{{{escape(panels[number])}}}}} \\*"]
        under = [below[number][place] for place in places] if below is not None else []
        end = r" \\*" if any(under) else r" \\"
        lines.append(" & ".join(escape(row[place]) for place in places) + end)
        if any(under):
            lines.append(" & ".join(map(escape, under)) + r" \\")
    return lines


def _write_part(columns: Sequence[Column], body: Sequence[str], caption: str, label: str, again: bool) -> str:
    spec = "".join(_column_spec(column) for column in columns)
    heads = " & ".join(map(_write_head, columns)) + r" \\"
    told = rf"\caption[]{{{escape(caption)}}}" if again else rf"\caption{{{escape(caption)}}}\label{{{label}}}"
    size, number = r"\footnotesize\setlength{\tabcolsep}{4pt}", [r"\addtocounter{table}{-1}"] if again else []
    rule, between, ends = r"\toprule", r"\midrule", r"\bottomrule"
    if len(body) + max(len(column.head) for column in columns) <= ROWS_OF_A_FLOAT:
        begin = [r"\begin{table}[tp]", *number, r"\centering", told, size, rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}"]
        lines = [*begin, rule, heads, between, *body, ends, r"\end{tabular}", r"\end{table}"]
    else:
        begin = [r"\begingroup", *number, size, rf"\begin{{longtable}}{{@{{}}{spec}@{{}}}}", rf"{told} \\"]
        repeated = [rule, heads, between, r"\endfirsthead", rule, heads, between, r"\endhead", ends, r"\endfoot"]
        lines = [*begin, *repeated, *body, r"\end{longtable}", r"\endgroup"]
    return "\n".join(lines) + "\n"


def _column_spec(column: Column) -> str:
    if column.wraps:
        return rf">{{\raggedright\arraybackslash}}p{{{column.width:.0f}pt}}"
    return "l" if column.words else "r"


def _write_head(column: Column) -> str:
    lines = [escape(line) for line in column.head]
    if len(lines) == 1 or column.wraps:
        return " ".join(lines)
    broken, side = r" \\ ".join(lines), "l" if column.words else "r"
    return rf"\shortstack[{side}]{{{broken}}}"
