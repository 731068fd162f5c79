"""The same functions on a Ray cluster (optional: `pip install 'ray[data]'`).

Ray is started on this machine unless `RAY_ADDRESS` names a cluster. Every node must see the same paths: checkpoints,
videos, the profile with its scratch folders. A node that dies costs nothing but time: Ray computes elsewhere what it
was at, and a call that is made again goes on from what lies in its scratch folder.

- `map_on_ray`: calls that load a model each (a model, a checkpoint, a system an item); Ray's own tasks;
- `each_on_ray`: rows of many small items, through Ray Data; they come back to be kept by the process that asked;
- `LastingOnRay`: a model that keeps answering.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from queue import Queue
from typing import Any

from visdyn.compute.executor import VARIABLE
from visdyn.compute.workers import Task, WorkerError, WorkerLostError, each

RETRIES = 3  # of a call whose node or process dies
# What of this process's environment the workers share, whose nodes were started elsewhere: which kernels compute, with
# how many threads, and the kit's own settings. `visdyn.pipeline.arithmetic` says what these do.
SHARED_VARIABLES = (
    "*_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_*", "DNNL_*", "MKL_*", "NPY_*", "OPENBLAS_*", "OPENCV_*",
    "CUBLAS_*", "FLASH_ATTENTION_*", "GLIBC_TUNABLES", "LC_ALL", "PYTHON*", "TOKENIZERS_PARALLELISM", "HF_*",
    "TRANSFORMERS_*", "VISDYN_*",
)  # fmt: skip
LARGEST_BLOCK = 64  # items that travel and fail together; starting a process that can be killed costs seconds


def count_workers() -> int:
    """Return how many models the cluster answers with side by side: one a GPU, or a core where there is no GPU."""
    resources = _start_ray().cluster_resources()
    return max(1, int(resources.get("GPU", 0)) or int(resources.get("CPU", 1)))


def map_on_ray(function: Callable, items: Sequence, shared: Any = None) -> list:
    """Return `function(shared, item)` of each item, in their order, as `visdyn.compute.gpus.map_gpus` does.

    Raises:
        WorkerError: a call failed; the message holds its traceback.
        RuntimeError: Ray is not installed, or nodes died under one call again and again.
    """
    ray = _start_ray()
    task = ray.remote(max_retries=RETRIES, num_cpus=1, num_gpus=_gpus_each(ray))(_call_function)
    kept = ray.put(pickle.dumps((function, shared)))
    waiting = [task.remote(kept, pickle.dumps(item)) for item in items]
    try:
        return [ray.get(result) for result in waiting]
    except ray.exceptions.RayTaskError as error:
        raise WorkerError(str(error)) from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            f"a call of {function.__name__} came to no end on Ray in {1 + RETRIES} attempts ({error}); run again, what "
            "was finished is kept"
        ) from error
    finally:
        for result in waiting:  # nothing, of one that is finished
            ray.cancel(result, force=True)


def _call_function(kept: bytes, item: bytes) -> Any:
    function, shared = pickle.loads(kept)
    return function(shared, pickle.loads(item))


def each_on_ray(task: Task, items: Sequence, timeout: float = 0.0, gpus: float = 0.0) -> Iterator[tuple[int, Any]]:
    """Yield (index, result) of each item as they are finished, each once.

    Args:
        task: with a `setup`, each Ray actor sets up once and keeps its state; without, stateless Ray tasks run it.
        timeout: as of `visdyn.compute.workers.each`; not with a `setup`.
        gpus: GPUs that each worker asks for.

    Raises:
        RuntimeError: Ray is not installed, or an item never came back.
    """
    ray = _start_ray_data()
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


class LastingOnRay:
    """`visdyn.compute.workers.Lasting` on a cluster: Ray actors that keep the task's state, each one call at a time.

    An actor is started at its first call. Where one dies with its node the others take its calls; only the last one is
    replaced, so that no call waits for a place that is gone.
    """

    def __init__(self, task: Task, count: int) -> None:
        self.ray, self.task, self.count = _start_ray(), task, count
        self.alive, self.lock = count, threading.Lock()
        self.free: Queue[Any] = Queue()
        for _ in range(count):
            self.free.put(None)

    def call(self, item: Any) -> Any:
        """Return the task's function of an item, once an actor is free.

        Raises:
            WorkerError: the function raised.
            WorkerLostError: the actor died, each time.
        """
        errors = self.ray.exceptions
        for _ in range(1 + RETRIES):
            actor = self.free.get()
            try:
                actor = actor or self._start_actor()
                answer = self.ray.get(actor.answer.remote(pickle.dumps(item)))
            except errors.RayActorError as error:
                reason = str(error)
                self._give_up_place()
            except errors.RayTaskError as error:
                self.free.put(actor)
                raise WorkerError(str(error)) from error
            else:
                self.free.put(actor)
                return pickle.loads(answer)
        raise WorkerLostError(f"a Ray actor ended while it was asked, {1 + RETRIES} times: {reason}")

    def end(self) -> None:
        """End the actors; a later call starts them again. No call may be under way."""
        for _ in range(self.alive):
            actor = self.free.get()
            if actor is not None:
                self.ray.kill(actor)
        self.alive = min(self.count, count_workers())
        for _ in range(self.alive):
            self.free.put(None)

    def _start_actor(self) -> Any:
        options = {"num_cpus": 1, "num_gpus": _gpus_each(self.ray)}
        return self.ray.remote(**options)(_Answering).remote(pickle.dumps(self.task))

    def _give_up_place(self) -> None:
        with self.lock:
            if self.alive == 1:
                self.free.put(None)
            else:
                self.alive -= 1


class _Answering:
    def __init__(self, task: bytes) -> None:
        self.task = pickle.loads(task)
        self.state = self.task.state()

    def answer(self, item: bytes) -> bytes:
        return pickle.dumps(self.task.function(self.state, pickle.loads(item)))


def _pack_results(indices, results: list) -> dict:
    import numpy as np

    packed = np.empty(len(results), dtype=object)
    packed[:] = [pickle.dumps(result) for result in results]
    return {"index": np.asarray(indices), "result": packed}


def _gpus_each(ray) -> int:
    return int(ray.cluster_resources().get("GPU", 0) >= 1)


def _shared_environment() -> dict[str, str]:
    """Return what workers get of this environment; what they compute they do not spread again."""
    names = [name for name in os.environ if any(fnmatchcase(name, pattern) for pattern in SHARED_VARIABLES)]
    return {name: os.environ[name] for name in names} | {VARIABLE: "local"}


def _start_ray():
    try:
        import ray
    except ImportError as error:
        raise RuntimeError(
            "executor ray needs Ray; run `pip install 'ray[data]'`, or set runtime.executor: local"
        ) from error
    if not ray.is_initialized():
        shared = {"env_vars": _shared_environment()}
        ray.init(include_dashboard=False, logging_level="ERROR", runtime_env=shared)
    return ray


def _start_ray_data():
    ray = _start_ray()
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    return ray
