"""The same per-item functions on a Ray cluster, through Ray Data (optional: `pip install 'ray[data]'`).

Ray is started on this machine unless `RAY_ADDRESS` names a cluster. Every node must see the same paths: the videos,
and the folder that functions write images to. Rows come back to the process that asked, which alone writes the shards;
a node that dies costs nothing but time, since Ray computes its blocks again elsewhere.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from visdyn.compute.workers import Task, each

LARGEST_BLOCK = 64  # items that travel and fail together; starting a process that can be killed costs seconds


def each_on_ray(task: Task, items: Sequence, timeout: float = 0.0, gpus: float = 0.0) -> Iterator[tuple[int, Any]]:
    """Yield (index, result) of each item as they are finished, each once.

    Args:
        task: with a `setup`, each Ray actor sets up once and keeps its state; without, stateless Ray tasks run it.
        timeout: as of `visdyn.compute.workers.each`; not with a `setup`.
        gpus: GPUs that each worker asks for.

    Raises:
        RuntimeError: Ray is not installed, or an item never came back.
    """
    ray = _start_ray()
    cores = ray.cluster_resources().get("CPU", 1)
    block = 1 if task.setup is not None else int(min(LARGEST_BLOCK, max(1, len(items) // (4 * cores))))
    rows = [{"index": index, "item": pickle.dumps(item)} for index, item in enumerate(items)]
    dataset = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // block))
    options = {"batch_size": block, "batch_format": "numpy", "num_gpus": gpus or None}
    if task.setup is None:
        call = {"fn": _Block(task, timeout)}
    else:
        size = max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1) / (gpus or 1)))
        strategy = ray.data.ActorPoolStrategy(min_size=1, max_size=size)
        call = {"fn": _Actor, "fn_constructor_args": (task,), "compute": strategy}
    seen: set[int] = set()
    for row in dataset.map_batches(**call, **options).iter_rows():
        index = int(row["index"])
        if index not in seen:
            seen.add(index)
            yield index, pickle.loads(row["result"])
    if len(seen) != len(items):
        raise RuntimeError(f"{len(items) - len(seen)} of {len(items)} items never came back from Ray; run again")


class _Block:
    """Computes a block in a Ray task; with a timeout, in a process that can be killed."""

    def __init__(self, task: Task, timeout: float) -> None:
        self.task, self.timeout = task, timeout

    def __call__(self, batch: dict) -> dict:
        items = [pickle.loads(item) for item in batch["item"]]
        results = dict(each(self.task, items, 1, self.timeout))
        return _pack_results(batch["index"], [results[place] for place in range(len(items))])


class _Actor:
    """Keeps the state of a task, such as a model, and computes block by block."""

    def __init__(self, task: Task) -> None:
        self.task, self.state = task, task.state()

    def __call__(self, batch: dict) -> dict:
        results = [self.task.function(self.state, pickle.loads(item)) for item in batch["item"]]
        return _pack_results(batch["index"], results)


def _pack_results(indices, results: list) -> dict:
    import numpy as np

    packed = np.empty(len(results), dtype=object)
    packed[:] = [pickle.dumps(result) for result in results]
    return {"index": np.asarray(indices), "result": packed}


def _start_ray():
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RuntimeError("executor ray needs Ray; run `pip install 'ray[data]'`, or set executor: local") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    return ray
