"""`Quarantine`: unusable inputs with the reason why, counted and reported; nothing is dropped silently."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from visdyn.paths import printable


@dataclass(frozen=True)
class Quarantined:
    """One item that could not be used."""

    item: str
    reason: str


@dataclass
class Quarantine:
    """A list of unusable items, each with its reason."""

    items: list[Quarantined] = field(default_factory=list)

    def add(self, item: str | Path, reason: str) -> None:
        """Set `item` aside because of `reason`."""
        self.items.append(Quarantined(str(item), reason))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self):
        return iter(self.items)

    def summary(self) -> str:
        """Return one line that says how many items were set aside, and the first of them."""
        if not self.items:
            return "nothing quarantined"
        first = self.items[0]
        return f"{len(self.items)} quarantined, first: {printable(first.item)} ({printable(first.reason)})"

    def write(self, path: str | Path) -> None:
        """Write the list as CSV with columns item, reason."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # A name of bytes that are no UTF-8 is written as `\\udcff`: the list must never be what fails.
        with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["item", "reason"])
            writer.writerows((entry.item, entry.reason) for entry in sorted(self.items, key=lambda entry: entry.item))
