"""The bars of docs/performance.md: each count is made by the test of the code that runs, and compared with the page.

`VISDYN_WRITE_BARS=1 pytest` with the tests that the page names writes what they count into it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from visdyn.paths import repository_root

PAGE = repository_root() / "docs/performance.md"
LIBRARIES = ("torch", "transformers")
_ROW = re.compile(
    r"^\| (?P<name>[^|]+) \| (?P<before>[^|]*) \| (?P<bar>[^|]+) \| (?P<now>[^|]*) \| `(?P<test>[^|`]+)` \|$"
)
_COUNTED = re.compile(r"Counted with " + " and ".join(rf"{name} ([\w.+]+\w)" for name in LIBRARIES))


@dataclass(frozen=True)
class Bar:
    """A row of the page; `limit` is None where the page names no number that must hold alone."""

    name: str
    before: str
    bar: str
    now: str
    test: str

    @property
    def limit(self) -> float | None:
        found = re.match(r"at most ([\d,.]*\d)", self.bar)
        return float(found[1].replace(",", "")) if found else None

    @property
    def unit(self) -> str:
        """` %` or ` GiB` after every number of a row that has one."""
        return next((unit for unit in (" %", " GiB") if self.bar.partition(",")[0].endswith(unit)), "")


def read_bars(text: str) -> dict[str, Bar]:
    """Return the rows of the page's table by name."""
    rows = [found.groupdict() for line in text.splitlines() if (found := _ROW.match(line)) and found["name"] != "count"]
    return {row["name"]: Bar(**row) for row in rows}


def check_bar(name: str, value: float, page: Path = PAGE) -> None:
    """Demand that a count is within its bar, and that the page says it.

    With other libraries than the page was counted with, the bar alone is demanded.
    """
    text = page.read_text(encoding="utf-8")
    row = read_bars(text)[name]
    shown = f"{value:,.0f}" if float(value).is_integer() else f"{value:.2f}" if value < 10 else f"{value:.1f}"
    shown += row.unit
    if os.environ.get("VISDYN_WRITE_BARS"):
        old = f"| {row.name} | {row.before} | {row.bar} | {row.now} | `{row.test}` |"
        text = text.replace(old, f"| {row.name} | {row.before} | {row.bar} | {shown} | `{row.test}` |")
        page.write_text(_COUNTED.sub(f"Counted with {_name_versions()}", text), encoding="utf-8")
        return
    assert row.limit is None or value <= row.limit, f"{name}: {shown}, {row.bar}"
    if (counted := _COUNTED.search(text)) and counted[0].endswith(_name_versions()):
        assert shown == row.now, f"{name}: {shown}, and {page.name} says {row.now or 'nothing'}"


def _name_versions() -> str:
    return " and ".join(f"{name} {version(name).partition('+')[0]}" for name in LIBRARIES)
