"""Rows of many items, computed on one machine or on a cluster, kept in shards on disk, and resumed after any kill.

A shard is a file of JSON lines, `shard-00000.jsonl`, written at once when its last item is done. Until then its rows
are appended to `shard-00000.part` as they come, so that a kill loses only the items being worked on. One process
writes; what computes the rows (`visdyn.compute.workers`, `visdyn.compute.ray`) hands them over.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visdyn.compute.workers import Lost, Task, each

EXECUTORS = ("local", "ray")
SHARD_SIZE = 256


@dataclass(frozen=True)
class Execution:
    """Where rows are computed and how that is told; no row depends on it.

    Attributes:
        executor: `local` (processes of this machine) or `ray` (a Ray cluster).
        processes: of executor `local`; 0 means one per core.
        timeout: seconds for one item, after which it is given up; 0 waits for ever.
        gpus: GPUs that each Ray worker asks for.
        log: file that progress lines are appended to; None keeps silent.
        log_seconds: between two lines.
    """

    executor: str = "local"
    processes: int = 0
    timeout: float = 0.0
    gpus: float = 0.0
    log: Path | None = None
    log_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise ValueError(f"unknown executor {self.executor!r}; one of {', '.join(EXECUTORS)}")

    def tell(self, line: str) -> None:
        """Append a line to the log, where there is one."""
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def compute_rows(
    task: Task,
    items: Sequence,
    identities: Sequence[str],
    folder: str | Path,
    settings: Any,
    execution: Execution,
    name: str = "items",
    shard_size: int = SHARD_SIZE,
) -> list[dict]:
    """Return one row of each item, in their order; rows found on the disk are not computed again.

    Args:
        task: its function gives a dict that JSON can hold; `{"error": reason}` marks an unusable item. An item whose
            process died or ran out of time gets such a row too, with `"lost": true`; it is tried again in the next run.
        identities: one text an item, unique, that changes when the item does (see `file_identity`).
        folder: where shards lie, each under the digest of `settings`.
        settings: whatever the rows depend on, JSON-able.
        name: of the items, for the progress lines.
    """
    if len(set(identities)) != len(items):
        raise ValueError(f"{len(items)} {name} have {len(set(identities))} different identities; each needs its own")
    shards = _Shards(Path(folder) / _digest(settings), identities, shard_size)
    waiting = shards.waiting()
    progress = Progress(name, len(items), len(items) - len(waiting), execution.tell, execution.log_seconds)
    for place, result in _computed(task, [items[index] for index in waiting], execution):
        row = {"error": result.reason, "lost": True} if isinstance(result, Lost) else result
        shards.add(waiting[place], row)
        progress.step("error" in row)
    progress.end()
    return shards.rows()


def file_identity(path: str | Path) -> str:
    """Return path, size and time of change of a file or folder: a fetched-again file is another one."""
    path = Path(path)
    try:
        facts = path.stat()
    except OSError:
        return f"{path} missing"
    return f"{path} {facts.st_size} {facts.st_mtime_ns}"


def _computed(task: Task, items: Sequence, execution: Execution) -> Iterator[tuple[int, Any]]:
    if not items:
        return iter(())
    if execution.executor == "local":
        return each(task, items, execution.processes, execution.timeout)
    from visdyn.compute.ray import each_on_ray

    return each_on_ray(task, items, execution.timeout, execution.gpus)


def _digest(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class _Shards:
    """The rows on disk and in memory, by identity."""

    def __init__(self, folder: Path, identities: Sequence[str], size: int) -> None:
        self.folder, self.identities, self.size = folder, identities, size
        self.known: dict[str, dict] = {}
        self.parts: dict[int, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted([*folder.glob("shard-*.jsonl"), *folder.glob("shard-*.part")]):
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(line)
        for number in range(self._count()):
            self._close_if_full(number)

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            return  # the last line of a part, cut by a kill: its item is done again
        if not entry["row"].get("lost"):
            self.known[entry["item"]] = entry["row"]

    def _count(self) -> int:
        return -(-len(self.identities) // self.size)

    def _members(self, number: int) -> Sequence[str]:
        return self.identities[number * self.size : (number + 1) * self.size]

    def waiting(self) -> list[int]:
        return [index for index, identity in enumerate(self.identities) if identity not in self.known]

    def add(self, index: int, row: dict) -> None:
        number, identity = index // self.size, self.identities[index]
        self.known[identity] = row
        if number not in self.parts:
            path = self._path(number, "part")
            cut = path.is_file() and not path.read_bytes().endswith(b"\n")
            self.parts[number] = path.open("a", encoding="utf-8")
            self.parts[number].write("\n" if cut else "")
        self.parts[number].write(_line(identity, row))
        self.parts[number].flush()
        self._close_if_full(number)

    def _close_if_full(self, number: int) -> None:
        members, whole = self._members(number), self._path(number, "jsonl")
        if not all(identity in self.known for identity in members):
            return
        text = "".join(_line(identity, self.known[identity]) for identity in members)
        if not whole.is_file() or whole.read_text(encoding="utf-8") != text:
            _write_at_once(whole, text)
        if number in self.parts:
            self.parts.pop(number).close()
        self._path(number, "part").unlink(missing_ok=True)

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"shard-{number:05d}.{kind}"

    def rows(self) -> list[dict]:
        if lacking := self.waiting():
            raise RuntimeError(f"{len(lacking)} items came back without a row, first: {self.identities[lacking[0]]}")
        return [self.known[identity] for identity in self.identities]


def _line(identity: str, row: dict) -> str:
    return json.dumps({"item": identity, "row": row}, ensure_ascii=False) + "\n"


def _write_at_once(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class Progress:
    """One line every few seconds: how many, how fast, how long yet, how many unusable.

    Args:
        found: items that an earlier run has done.
        tell: gets the lines.
    """

    def __init__(self, name: str, total: int, found: int, tell: Callable[[str], None], seconds: float = 5.0) -> None:
        self.name, self.total, self.found, self.tell, self.seconds = name, total, found, tell, seconds
        self.done = self.bad = 0
        self.began = self.told = time.monotonic()
        if found:
            tell(f"{found} of {total} {name} were done by an earlier run")

    def step(self, bad: bool) -> None:
        """Count one more item."""
        self.done, self.bad = self.done + 1, self.bad + bad
        if time.monotonic() - self.told >= self.seconds:
            self.told = time.monotonic()
            self.tell(self._line())

    def end(self) -> None:
        """Tell the last count, where anything was done."""
        if self.done:
            self.tell(self._line())

    def _line(self) -> str:
        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        done = self.found + self.done
        left = (self.total - done) / rate
        share = 100 * done / self.total
        text = f"{done} of {self.total} {self.name} ({share:.0f}%), {rate:.1f} a second, {_duration(left)} left"
        return f"{text}, {self.bad} unusable"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
