"""The tables of `docs/choices.md`, made from `reports/results/choices`: what was tried on the dev items.

`visdyn choices` rewrites the block after each mark; a test compares the page with the results.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from visdyn.params.choices import Choice, current, read_choices, shown
from visdyn.params.reading import read_values
from visdyn.paths import repository_root
from visdyn.result_tables import read_columns

PAGE = "docs/choices.md"
_BLOCK = re.compile(r"<!-- choice: (\w+) -->\n.*?<!-- end of choice -->", re.S)
METRICS = {
    "exact": "exact match",
    "score": "judge's score",
    "success": "success",
    "joint_long": "both right, long prompts",
    "joint_short": "both right, short prompts",
    "preferred_fdp": "next image preferred",
    "preferred_idp": "action preferred",
    "clean_pairs": "clean pairs",
    "right_labels": "right labels",
}


def block(choice: Choice, chosen: str, table: pd.DataFrame | None) -> str:
    """Return the Markdown of one choice: a row a value, means over chains (n: items of a chain).

    Args:
        chosen: the value that params.yaml has.
        table: of the choice's results; None where nothing was tried.
    """
    if table is None or table.empty:
        return f"`{choice.parameter}`: not tried yet (`visdyn choices {choice.name}`).\n"
    order = {shown(entries): place for place, entries in enumerate(choice.values)}
    values = sorted(table["value"].unique(), key=lambda value: order.get(value, len(order)))
    metrics = [name for name in METRICS if name in set(table["metric"])]
    metrics += sorted(set(table["metric"]) - set(metrics))
    lines = [f"| `{choice.parameter}` | steps | chains | {' | '.join(METRICS.get(name, name) for name in metrics)} |"]
    lines.append("| --- " * (3 + len(metrics)) + "|")
    for value in values:
        rows = table[table["value"] == value]
        steps = "" if rows["steps"].isna().all() else f"{int(rows['steps'].max())}"
        cells = [_cell(rows.loc[rows["metric"] == name]) for name in metrics]
        name = f"**{value}** (chosen)" if value == chosen else value
        chains = ", ".join(map(str, sorted(rows["chain"].unique())))
        lines.append(f"| {' | '.join([name, steps, chains, *cells])} |")
    return "\n".join(lines) + "\n"


def _cell(rows: pd.DataFrame) -> str:
    scores = rows["score"].dropna()
    if scores.empty:
        return ""
    spread = f" ± {scores.std(ddof=1):.2f}" if len(scores) > 1 else ""
    return f"{scores.mean():.2f}{spread} (n = {int(rows['n'].max())})"


def rewritten(text: str, root: Path) -> str:
    """Return the page's text with every block made from the results below `root`.

    Raises:
        ValueError: a mark without an end, a mark of no declared choice, or a declared choice without a mark.
    """
    choices, values = read_choices(root / "data/choices.yaml"), read_values(root)
    named, marks = _BLOCK.findall(text), re.findall(r"<!-- choice: (\w+) -->", text)
    if named != marks or sorted(named) != sorted(choices):
        raise ValueError(
            f"{PAGE} must hold `<!-- choice: NAME -->` and `<!-- end of choice -->` once for each choice of "
            f"data/choices.yaml ({', '.join(choices)}); it has {', '.join(marks)}"
        )

    def fill(match: re.Match) -> str:
        choice = choices[match[1]]
        path = root / "reports/results/choices" / f"{choice.name}.csv"
        table = read_columns(f"choices/{path.name}", path) if path.is_file() else None
        made = block(choice, current(choice, values), table)
        return f"<!-- choice: {choice.name} -->\n\n{made}\n<!-- end of choice -->"

    return _BLOCK.sub(fill, text)


def update_page(root: Path) -> None:
    """Rewrite the blocks of a checkout's `docs/choices.md`."""
    path = root / PAGE
    path.write_text(rewritten(path.read_text(), root))


if __name__ == "__main__":
    update_page(repository_root())
