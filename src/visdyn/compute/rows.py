"""Rows of many items, computed on one machine or on a cluster, kept as they come, and resumed after any kill.

A row goes into the store (`visdyn.compute.store`) when its item is done, so that a kill loses only the items being
worked on. One process writes; what computes the rows (`visdyn.compute.workers`, `visdyn.compute.ray`) hands them over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visdyn.compute.executor import checked_executor
from visdyn.compute.progress import Progress
from visdyn.compute.store import Store, import_lines, to_json
from visdyn.compute.workers import Lost, Task, each
from visdyn.paths import digest_of


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
        checked_executor(self.executor)

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
) -> list[dict]:
    """Return one row of each item, in their order; rows found on the disk are not computed again.

    Args:
        task: its function gives a dict that JSON can hold; `{"error": reason}` marks an unusable item. An item whose
            process died or ran out of time gets such a row too, with `"lost": true`; it is not kept, and so tried again
            in the next run.
        identities: one text an item, unique, that changes when the item does (see `file_identity`).
        folder: where the stores lie, one for each digest of `settings`.
        settings: whatever the rows depend on, JSON-able.
        name: of the items, for the progress lines.
    """
    if len(set(identities)) != len(items):
        raise ValueError(f"{len(items)} {name} have {len(set(identities))} different identities; each needs its own")
    store = _open_store(Path(folder), settings)
    rows = {identity: json.loads(row) for identity, row in store.get_many(identities).items()}
    waiting = [index for index, identity in enumerate(identities) if identity not in rows]
    progress = Progress(name, len(items), execution.log_seconds, len(items) - len(waiting), execution.tell)
    for place, result in _compute_items(task, [items[index] for index in waiting], execution):
        identity = identities[waiting[place]]
        if isinstance(result, Lost):
            rows[identity] = {"error": result.reason, "lost": True}
        else:
            value = to_json(result)
            store.put(identity, value)
            rows[identity] = json.loads(value)  # as a run that finds it kept reads it
        progress.add(bad="error" in rows[identity])
    progress.end()
    store.close()
    if lacking := [identity for identity in identities if identity not in rows]:
        raise RuntimeError(f"{len(lacking)} items came back without a row, first: {lacking[0]}")
    return [rows[identity] for identity in identities]


def _open_store(folder: Path, settings: Any) -> Store:
    """Open the store of rows computed with `settings`, and take over the shards of an earlier version of the kit."""
    digest = digest_of(settings)[:16]
    store = Store(folder / f"{digest}.sqlite")
    for shard in sorted([*folder.glob(f"{digest}/shard-*.jsonl"), *folder.glob(f"{digest}/shard-*.part")]):
        import_lines(store, shard, _shard_row)
    return store


def _shard_row(line: dict) -> tuple[str, bytes] | None:
    return None if line["row"].get("lost") else (line["item"], to_json(line["row"]))


def file_identity(path: str | Path) -> str:
    """Return path, size and time of change of a file or folder: a fetched-again file is another one."""
    path = Path(path)
    try:
        facts = path.stat()
    except OSError:
        return f"{path} missing"
    return f"{path} {facts.st_size} {facts.st_mtime_ns}"


def _compute_items(task: Task, items: Sequence, execution: Execution) -> Iterator[tuple[int, Any]]:
    if not items:
        return iter(())
    if execution.executor == "local":
        return each(task, items, execution.processes, execution.timeout)
    from visdyn.compute.ray import each_on_ray

    return each_on_ray(task, items, execution.timeout, execution.gpus)
