"""Independent work in several one-thread processes: at the embedded sizes a second thread only waits for the first."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

# The libraries that are worth importing once. The server that forks the processes computes nothing itself, so that
# they start without its threads; none of the kit's own modules stands here, for every stage that runs in parallel
# would then depend on it.
PRELOADED = (
    "transformers.trainer",
    "transformers.models.chameleon.modeling_chameleon",
    "transformers.models.clip.modeling_clip",
    "peft",
    "pandas",
)
_shared: Any = None


def warm_context() -> multiprocessing.context.BaseContext:
    """Return the context whose processes are forks of one server that has imported the heavy libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def cores() -> int:
    """Return how many cores this process may use: of the machine, its affinity and its container's quota the least."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(count, cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """Return how many cores' time the control groups of this process allow; infinite where none limits it (Linux).

    Args:
        root: where `proc` and `sys` lie.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one tree, version 1 one a controller. Seen from inside a container a path may not be there.
        top = root / "sys/fs/cgroup" / controllers
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            quotas.append(_read_quota(place))
            if place == top:
                break
    return min(quotas)


def _read_quota(folder: Path) -> float:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return math.inf


def map_processes(function: Callable, items: Sequence, shared: Any = None, processes: int = 0) -> list:
    """Return `function(shared, item)` of each item, in their order, computed side by side.

    What a call returns must not depend on the process it runs in: draw random numbers from seeds in `item`. With a GPU
    everything runs in this process.

    Args:
        function: importable (no lambda), as processes are handed its name.
        items: anything that can be pickled.
        shared: sent once to each process; a large object that all calls read.
        processes: 0 means one per core; 1 stays in this process.
    """
    import torch

    count = min(processes or cores(), len(items))
    if count <= 1 or torch.cuda.is_available():
        return [function(shared, item) for item in items]
    with ProcessPoolExecutor(count, warm_context(), _prepare_process, (shared,)) as pool:
        return list(pool.map(_call_shared, [function] * len(items), items))


def end_with_parent() -> None:
    """End this forked process when the process that asked for it is gone (its parent is the server)."""
    end_when(multiprocessing.parent_process().join)


def end_when(gone: Callable[[], None]) -> None:
    """End this process when `gone` returns: an orphan would go on beside the run that resumes its work."""

    def watch() -> None:
        gone()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _prepare_process(shared: Any) -> None:
    global _shared
    import torch

    end_with_parent()
    torch.set_num_threads(1)
    _shared = shared


def _call_shared(function: Callable, item: Any) -> Any:
    return function(_shared, item)
