"""One line of progress now and then, in the stage's log: times in a notebook's output would change its hash."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def say(line: str) -> None:
    """Write a line to the stage's log (`VISDYN_LOG`), or print it where there is none."""
    if log := os.environ.get("VISDYN_LOG"):
        with open(log, "a") as file:
            file.write(f"{line}\n")
    else:
        print(line, flush=True)


class Interval:
    """Says at most once in `seconds` that a line is due; the first time after as long."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def is_due(self) -> bool:
        """Return whether the time is over, and begin anew if so."""
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


class Progress:
    """Counts finished items and tells how many, how fast, how long yet, how many unusable.

    Args:
        title: what the lines begin with.
        total: of all items.
        every: seconds between two lines.
        found: items that an earlier run has done.
        tell: gets the lines.
    """

    def __init__(
        self, title: str, total: int, every: float = 30.0, found: int = 0, tell: Callable[[str], object] = say
    ) -> None:
        self.title, self.total, self.found, self.tell = title, total, found, tell
        self.done = self.bad = 0
        self.began, self.interval = time.monotonic(), Interval(every)

    def add(self, count: int = 1, bad: int = 0) -> None:
        """Count `count` more finished items, of which `bad` are unusable."""
        self.done, self.bad = self.done + count, self.bad + bad
        if self.interval.is_due():
            self.tell(self.line())

    def end(self) -> None:
        """Tell the last count, where anything was done."""
        if self.done:
            self.tell(self.line())

    @property
    def seconds_left(self) -> float:
        """What the rest takes at the speed so far; 0 where nothing is left or nothing was done yet."""
        left = self.total - self.found - self.done
        return (time.monotonic() - self.began) / self.done * left if self.done else 0.0

    def line(self) -> str:
        """Return the line of now."""
        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        line = f"{self.title}: {self.found + self.done} of {self.total}"
        line += f" ({self.found} from an earlier run)" if self.found else ""
        line += f", {rate:.1f} a second, {format_duration(self.seconds_left)} left"
        return line + (f", {self.bad} unusable" if self.bad else "")


def format_duration(seconds: float) -> str:
    """Return seconds as `h:mm:ss`."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
