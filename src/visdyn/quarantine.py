"""`Quarantine`: unusable inputs with the reason why, counted and reported; nothing is dropped silently."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from visdyn.paths import printable, without_folders


class SetAsideError(ValueError):
    """So much of a data set was set aside that the rest does not stand for it."""


@dataclass(frozen=True)
class Quarantined:
    """One item that could not be used."""

    item: str
    reason: str
    unfit: bool = False  # read well, and judged not to belong: a choice, not damage


@dataclass
class Quarantine:
    """A list of unusable items, each with its reason.

    Attributes:
        most: share of a data set that may be set aside (`refuse_most`); None leaves that to the caller.
        folders: items and reasons name files from these folders on, so that the list is the same on every machine.
    """

    items: list[Quarantined] = field(default_factory=list)
    most: float | None = None
    folders: tuple[str, ...] = ()

    def add(self, item: str | Path, reason: str, unfit: bool = False) -> None:
        """Set `item` aside because of `reason`; `unfit` where it was read well and judged not to belong."""
        texts = (without_folders(str(text), self.folders) for text in (item, reason))
        self.items.append(Quarantined(*texts, unfit))

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

    def refuse_most(self, origin: str | Path, usable: int, before: int = 0) -> None:
        """Refuse a data set of which everything was set aside, or a larger share than `most`; unfit items do not count.

        Args:
            origin: the data set, as the error names it.
            usable: items of it that could be read.
            before: length of this list when the data set began.

        Raises:
            SetAsideError: that is so; the message has the counts and the first item with its reason.
        """
        unreadable = [entry for entry in self.items[before:] if not entry.unfit]
        aside = len({entry.item for entry in unreadable})
        if self.most is None or not aside or (usable and aside <= self.most * (aside + usable)):
            return
        first = unreadable[0]
        allowed = f"runtime.most_set_aside allows {self.most:.0%}" if usable else "nothing is left"
        raise SetAsideError(
            f"{without_folders(str(origin), self.folders)}: {aside} of {aside + usable} set aside, {allowed}; "
            f"first: {first.item} ({first.reason})"
        )

    def write(self, path: str | Path) -> None:
        """Write the list as CSV with columns item, reason."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # A name of bytes that are no UTF-8 is written as `\\udcff`: the list must never be what fails.
        with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["item", "reason"])
            writer.writerows((entry.item, entry.reason) for entry in sorted(self.items, key=lambda entry: entry.item))
