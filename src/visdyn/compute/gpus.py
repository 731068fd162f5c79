"""Calls that load a model each, side by side over the GPUs of a machine, or over a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from visdyn.compute.executor import chosen_executor
from visdyn.compute.pool import map_processes
from visdyn.compute.workers import Lasting, Lost, Task, each

_VISIBLE = "CUDA_VISIBLE_DEVICES"
ATTEMPTS = 2  # of a call whose process is killed: by a hand, or because the machine's memory ran out for a moment


def count_gpus() -> int:
    """Return how many GPUs this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def count_places(device: str) -> int:
    """Return how many models may answer side by side: one a GPU, else one; of a Ray cluster one a GPU, else a core."""
    if chosen_executor() == "ray":
        from visdyn.compute.ray import count_workers

        return count_workers()
    return max(1, count_gpus()) if device == "cuda" else 1


def map_gpus(function: Callable, items: Sequence, shared: Any = None, processes: int = 0) -> list:
    """Return `function(shared, item)` of each item, in their order: a process a GPU, which sees no other.

    With one GPU, or none, it is `map_processes`; with executor `ray` each call is a task of the cluster, on a GPU of
    its own where the cluster has some. What a call returns must not depend on the process it runs in. A call whose
    process is killed is made again by another, and one that is resumed so finds by itself what is done.

    Args:
        function: importable (no lambda); it loads what it computes with, on device `cuda`.
        items, shared: hold nothing that lies on a GPU; sent to the processes.
        processes: of this machine, without a GPU, as of `map_processes`.

    Raises:
        WorkerError: a call failed; the message holds its traceback.
        RuntimeError: processes died under one call again and again.
    """
    if items and chosen_executor() == "ray":
        from visdyn.compute.ray import map_on_ray

        return map_on_ray(function, items, shared)
    count = min(count_gpus(), len(items))
    if count <= 1:
        return map_processes(function, items, shared, processes)
    task = Task(_call_function, (function, shared, list_gpus(count)), take_gpu, attempts=ATTEMPTS)
    found = dict(each(task, items, count))
    if lost := [result for result in found.values() if isinstance(result, Lost)]:
        raise RuntimeError(
            f"{len(lost)} of {len(items)} calls of {function.__name__} came to no end in {ATTEMPTS} attempts: the "
            f"first {lost[0].reason}; run again, what was finished is kept (signal 9 may mean that the memory ran out)"
        )
    return [found[place] for place in range(len(items))]


class Processes(Protocol):
    """Processes that keep their state and answer calls from any thread: `workers.Lasting`, `ray.LastingOnRay`."""

    count: int

    def call(self, item: Any) -> Any:
        """Return the function of an item, once a process is free."""

    def end(self) -> None:
        """End the processes; a later call starts them again."""


def open_processes(function: Callable, model: Any, count: int) -> Processes:
    """Return processes that answer with `function(model, item)`, each with a copy of `model` and a GPU of its own.

    Args:
        function: importable (no lambda).
        model: not loaded yet, to be pickled.
        count: of the processes, as `count_places` says.
    """
    if chosen_executor() == "ray":
        from visdyn.compute.ray import LastingOnRay

        return LastingOnRay(Task(function, model), count)
    return Lasting(Task(function, (model, list_gpus(count)), _open_on_gpu, attempts=ATTEMPTS), count)


def _open_on_gpu(shared: tuple, place: int) -> Any:
    (model,) = take_gpu(shared, place)
    return model


def list_gpus(count: int) -> list[str]:
    """Return the names by which `count` processes are given a GPU each; none where there are fewer GPUs."""
    if count_gpus() < count:
        return []
    named = os.environ.get(_VISIBLE)
    return named.split(",") if named else list(map(str, range(count)))


def take_gpu(shared: tuple, place: int) -> tuple:
    """Let this process see one GPU alone, of those that stand last in `shared`; return the rest. A `Task.setup`."""
    *rest, gpus = shared
    if gpus:
        os.environ[_VISIBLE] = gpus[place]  # before anything here asks for a GPU
    return tuple(rest)


def _call_function(state: tuple, item: Any) -> Any:
    function, shared = state
    return function(shared, item)
