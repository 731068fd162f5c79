"""What a stage tells while it runs: one live line in a terminal, a line every few seconds elsewhere.

    stage 9 of 17, fdm, cell 4 of 9 Train the arms | run 5 of 14, supervised-s1: step 160/300 loss 1.9, 0:00:20 left |
    4 min, about 6 min left; 34 min for all stages

It is read from the stage's own log, which training and inference write anyway (`visdyn.compute.progress.say`), so that
nothing that computes knows of it. How long a stage will take is what it took the last time on this machine
(`.visdyn/timings`), else, in the embedded default, the CPU-minutes of the committed run
(`benchmarks/results/stages.csv`) over the cores that the stage can use here, times how much longer than that the stages
before it took here; else nothing is said.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from visdyn.compute.pool import cores
from visdyn.pipeline.guards import BESIDE, read_entries
from visdyn.readers import FileError, read_json, read_rows

PLANNED = "VISDYN_PLANNED"  # the stages of a run, by whoever started it (`visdyn run`); else all of dvc.yaml's
EVERY = 8.0  # seconds between two lines away from a terminal
REDRAW = 0.5  # seconds between two looks of the live line
COSTS = "benchmarks/results/stages.csv"  # of the committed run; benchmarks/stage_minutes.py writes it
LONG_ENOUGH = 60.0  # seconds of stages that ran here, before they say how fast this machine is
TAIL = 8192  # bytes of the log in which the last line is looked for
_RUN = re.compile(r"run (\d+) of (\d+)")
_STEP = re.compile(r"step (\d+)/(\d+)")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]")


@dataclass(frozen=True)
class Place:
    """Where a stage stands in a run.

    Attributes:
        stage, number, total: it is stage `number` of `total` (0 where it stands beside the pipeline).
        seconds: what it takes, as far as that is known; None is unknown.
        later: the same of the stages after it, together.
    """

    stage: str
    number: int = 0
    total: int = 0
    seconds: float | None = None
    later: float | None = None

    @property
    def title(self) -> str:
        """Return `stage 9 of 17, fdm`."""
        return f"stage {self.number} of {self.total}, {self.stage}" if self.total else self.stage


def find_place(root: Path, stage: str, repository: Path) -> Place:
    """Return the place of a stage of the profile folder `root`."""
    entries = read_entries(root)
    planned = [name for name in os.environ.get(PLANNED, "").split() if name in entries] or list(entries)
    if stage in BESIDE or stage not in planned:
        return Place(stage)
    known = expect_seconds(root, planned, reckon_seconds(repository) if root == repository else {})
    later = [known[name] for name in planned[planned.index(stage) + 1 :]]
    return Place(stage, planned.index(stage) + 1, len(planned), known[stage], None if None in later else sum(later))


def expect_seconds(root: Path, stages: Sequence[str], reckoned: Mapping[str, float]) -> dict[str, float | None]:
    """Return what each stage took the last time here, else what is reckoned of it; None where neither is known.

    What is reckoned is scaled by how long the other stages took here: another processor, or a busy one, is seen after
    the first stage of a minute.

    Args:
        root: the profile's folder.
        reckoned: seconds by stage on idle cores of the machine of the committed run.
    """
    took = {name: seconds for name in stages if (seconds := _read_seconds(root, name)) is not None}
    both = [(took[name], reckoned[name]) for name in took if name in reckoned]
    here, there = sum(one for one, _ in both), sum(one for _, one in both)
    slower = here / there if there >= LONG_ENOUGH else 1.0
    return {name: took.get(name, reckoned[name] * slower if name in reckoned else None) for name in stages}


def reckon_seconds(repository: Path) -> dict[str, float]:
    """Return the seconds of each stage of the embedded default on idle cores, from the committed run's CPU-minutes."""
    path, here, found = repository / COSTS, cores(), {}
    for _, row in read_rows(path, ("stage", "cpu_minutes", "processes")) if path.is_file() else ():
        found[row["stage"]] = 60 * float(row["cpu_minutes"]) / min(here, int(row["processes"] or here))
    return found


def _read_seconds(root: Path, stage: str) -> float | None:
    path = root / ".visdyn/timings" / f"{stage}.json"
    with contextlib.suppress(FileError):  # a broken note of the last run is no reason to stop this one
        if path.is_file() and (taken := read_json(path, dict).get("notebook", {}).get("duration")):
            return float(taken)
    return None


def format_span(seconds: float) -> str:
    """Return a length of time in words: `40 s`, `6 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass
class Console:
    """Tells of one stage; a context manager.

    Attributes:
        place: of the stage in its run.
        log: the stage's log, from which the last line is shown.
        cells: code cells of the notebook.
        stream: where it is told.
        every: seconds between two lines away from a terminal.
    """

    place: Place
    log: Path
    cells: int = 0
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    every: float = EVERY

    def __post_init__(self) -> None:
        self._cell, self._name, self._live = 0, "", self.stream.isatty()
        self._began = self._told = time.monotonic()
        self._lock, self._end = threading.Lock(), threading.Event()

    def __enter__(self) -> Console:
        self.tell(f"{self.place.title}: log in {self.log}{self._all_left(self.place.seconds)}")
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if self._live:
            self._draw("")

    def start_cell(self, number: int, name: str) -> None:
        """Say which code cell begins, counted from 1."""
        self._cell, self._name = number, name

    def end_cell(self, seconds: float) -> None:
        """Say that the cell has ended; in a terminal the live line goes on."""
        if not self._live:
            self.tell(f"{self.place.stage}: cell {self._cell} of {self.cells} {seconds:6.1f} s  {self._name}")

    def tell(self, line: str) -> None:
        """Print a line that stays."""
        with self._lock:
            self._told = time.monotonic()
            clear = "\r\x1b[2K" if self._live else ""
            self.stream.write(f"{clear}{line}\n")
            self.stream.flush()

    def line(self) -> str:
        """Return the line of now."""
        said = last_line(self.log)
        parts = [self.place.title]
        if self._cell:
            parts[0] += f", cell {self._cell} of {self.cells} {self._name}".rstrip()
        if said:
            parts.append(said)
        elapsed = time.monotonic() - self._began
        left = self._stage_left(said, elapsed)
        span = format_span(elapsed)
        if left is not None:
            span += f", about {format_span(left)} left"
        return " | ".join([*parts, span + self._all_left(left)])

    def _stage_left(self, said: str, elapsed: float) -> float | None:
        """Return the seconds that the stage has left: by its runs where it trains, else by what it took before."""
        done = trained_share(said)
        if done is not None and done > 0.02:
            return elapsed / done * (1 - done)
        if self.place.seconds is None or elapsed > self.place.seconds:
            return None
        return self.place.seconds - elapsed

    def _all_left(self, left: float | None) -> str:
        if left is None or self.place.later is None or not self.place.total:
            return ""
        return f"; {format_span(left + self.place.later)} for all stages"  # those that are up to date take none

    def _follow(self) -> None:
        while not self._end.wait(REDRAW):
            if self._live:
                self._draw(self.line())
            elif time.monotonic() - self._told >= self.every:
                self.tell(self.line())

    def _draw(self, line: str) -> None:
        with self._lock:
            width = _width_of(self.stream)
            self.stream.write(f"\r\x1b[2K{fit(line, width - 1)}")
            self.stream.flush()


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty, without colours; empty where there is none."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = (_ESCAPE.sub("", line).strip() for line in reversed(text.splitlines()))
    return next((line for line in lines if line), "")


def trained_share(said: str) -> float | None:
    """Return the share of a stage's training that is done, from a line such as `run 5 of 14, a: step 3/9 ... | ...`.

    Runs count alike; those of a line are under way, and the ones before them have ended.
    """
    runs = list(_read_runs(said))
    if not runs:
        return None
    total = runs[0][1]
    ended = max(number for number, _, _ in runs) - len(runs)
    return (ended + sum(share for _, _, share in runs)) / total


def _read_runs(said: str) -> Iterator[tuple[int, int, float]]:
    for part in said.split(" | "):
        if run := _RUN.search(part):
            step = _STEP.search(part)
            ended = "trained" in part
            share = 1.0 if ended else int(step[1]) / int(step[2]) if step else 0.0
            yield int(run[1]), int(run[2]), share


def fit(line: str, width: int) -> str:
    """Cut a line to a width: the time of the whole run goes first, then the middle, as the stage's time stands last."""
    if len(line) <= width:
        return line
    head, _, tail = line.rpartition(" | ")
    tail = tail.partition("; ")[0]
    if head and len(shorter := f"{head} | {tail}") <= width:
        return shorter
    room = width - len(tail) - 4
    return f"{head[:room]}… | {tail}" if room > 20 else f"{line[: max(width - 1, 0)]}…"


def _width_of(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80  # a pseudo-terminal may say 0
    except OSError:
        return shutil.get_terminal_size().columns


def name_cell(cells: Sequence, index: int) -> str:
    """Name a code cell: by its opening comment, else by the markdown before it, else by its first line."""
    first = cells[index].source.strip().partition("\n")[0]
    above = cells[index - 1] if index > 1 else None  # the title speaks for the whole notebook
    if not first.startswith("#") and above is not None and above.cell_type == "markdown":
        first = above.source.strip().partition("\n")[0]
    return first.lstrip("# ")[:70]
