"""One line of progress now and then, in the stage's log: times in a notebook's output would change its hash."""

from __future__ import annotations

import os
import time


def say(line: str) -> None:
    """Write a line to the stage's log (`VISDYN_LOG`), or print it where there is none."""
    if log := os.environ.get("VISDYN_LOG"):
        with open(log, "a") as file:
            file.write(f"{line}\n")
    else:
        print(line, flush=True)


class Progress:
    """Counts finished items of `total` and says so at most once in `every` seconds."""

    def __init__(self, title: str, total: int, every: float = 30.0) -> None:
        self.title, self.total, self.every = title, total, every
        self.done, self.began = 0, time.monotonic()
        self.said = self.began

    def add(self, count: int) -> None:
        """Count `count` more finished items."""
        self.done += count
        now = time.monotonic()
        if now - self.said < self.every:
            return
        self.said = now
        left = (self.total - self.done) * (now - self.began) / max(1, self.done)
        say(f"{self.title}: {self.done} of {self.total}, {now - self.began:.0f} s, about {left:.0f} s left")
