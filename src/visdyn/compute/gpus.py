"""Calls that load a model each, side by side over the GPUs of a machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from visdyn.compute.pool import end_with_parent, map_processes

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_shared: Any = None


def map_gpus(function: Callable, items: Sequence, shared: Any = None) -> list:
    """Return `function(shared, item)` of each item, in their order: a process a GPU, which sees no other.

    With one GPU, or none, it is `map_processes`. What a call returns must not depend on the process it runs in, and a
    call that is resumed after a kill finds by itself what is done.

    Args:
        function: importable (no lambda); it loads what it computes with, on device `cuda`.
        items, shared: hold nothing that lies on a GPU; sent to the processes.
    """
    import torch

    count = min(torch.cuda.device_count() if torch.cuda.is_available() else 0, len(items))
    if count <= 1:
        return map_processes(function, items, shared)
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork of a process that has used it
    named = os.environ.get(_VISIBLE)
    places = context.SimpleQueue()
    for gpu in (named.split(",") if named else list(map(str, range(count))))[:count]:
        places.put(gpu)
    with ProcessPoolExecutor(count, context, _prepare_process, (shared, places)) as pool:
        return list(pool.map(_call_shared, [function] * len(items), items))


def _prepare_process(shared: Any, places) -> None:
    global _shared
    os.environ[_VISIBLE] = places.get()  # before anything here asks for a GPU
    end_with_parent()
    _shared = shared


def _call_shared(function: Callable, item: Any) -> Any:
    return function(_shared, item)
