"""Recipes for the launcher's tests: each writes its output folder, without training anything."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path


def write(*, output: str, scratch: str, record: str, name: str, hardware: dict | None = None) -> None:
    """Write a result; `record` gets one line for each time that a job really ran."""
    with open(record, "a") as file:
        file.write(f"{name} {os.environ['OMP_NUM_THREADS']} {hardware}\n")
    Path(output).mkdir(parents=True)
    (Path(output) / "result.txt").write_text(name)


def meet(*, output: str, scratch: str, record: str, name: str, other: str, hardware: dict | None = None) -> None:
    """Finish only if the other job runs at the same time."""
    folder = Path(record).parent
    (folder / f"{name}.here").touch()
    deadline = time.monotonic() + 120
    while not (folder / f"{other}.here").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} never met {other}")
        time.sleep(0.05)
    write(output=output, scratch=scratch, record=record, name=name)


def tell_environment(*, output: str, scratch: str, record: str, name: str, hardware: dict | None = None) -> None:
    """Write the environment that the job has."""
    Path(output).mkdir(parents=True)
    (Path(output) / "environment.json").write_text(json.dumps(dict(os.environ)))


def fail(*, output: str, scratch: str, text: str) -> None:
    """Fail with a message."""
    for number in range(30):
        print(f"line {number}")
    raise RuntimeError(text)


def wait(*, output: str, scratch: str, record: str, name: str, until: str) -> None:
    """Note the own process id, then finish when the file `until` exists."""
    Path(record).with_suffix(".pid").write_text(str(os.getpid()))
    while not Path(until).exists():
        time.sleep(0.05)
    write(output=output, scratch=scratch, record=record, name=name)


def square(shared: int, item: int) -> tuple[int, int]:
    """Return shared + item squared, and the process that computed it; -1 fails."""
    if item < 0:
        raise ValueError(f"item {item} is negative")
    time.sleep(0.2)
    return shared + item**2, os.getpid()


def name_gpu(shared: int, item: int) -> tuple[int, int, str]:
    """Return shared + item squared, the process that computed it, and the GPUs that it sees."""
    value, process = square(shared, item)
    return value, process, os.environ["CUDA_VISIBLE_DEVICES"]


def abort_at_exit(*, output: str) -> None:
    """Join the other rank, and leave behind what aborts the interpreter's shutdown, as a group's thread may."""
    import atexit

    import torch

    torch.distributed.init_process_group("gloo")
    atexit.register(os.abort)
    rank = torch.distributed.get_rank()
    Path(output).mkdir(parents=True, exist_ok=True)
    (Path(output) / f"rank{rank}").touch()


def die_at_three(folder: str, item: int) -> int:
    """Note that the item was begun and return its square; 3 kills its process, the first time, or where `always` is."""
    notes = Path(folder) / "begun"
    first = not notes.is_file() or "3" not in notes.read_text().split()
    with notes.open("a") as file:
        file.write(f"{item}\n")
    if item == 3 and (first or (Path(folder) / "always").exists()):
        os.kill(os.getpid(), signal.SIGKILL)
    return item**2


def take_time(shared: tuple, item) -> object:
    """Call on Ray what `shared` holds first (function, its own shared object, file of notes, seconds), slowly.

    A note says in which process, on which node.
    """
    import ray

    function, own, notes, pause = shared
    with open(notes, "a") as file:
        file.write(f"{os.getpid()}@{ray.get_runtime_context().get_node_id()}\n")
    time.sleep(pause)
    return function(own, item)


class BatchVLM:
    """Answers with the whole batch that it was asked in; asked "die" it does, as `die_at_three` with item 3."""

    name, batch_size = "toy", 2

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def answer_many(self, questions) -> list[str]:
        texts = [text for _, text in questions]
        if "die" in texts:
            die_at_three(self.folder, 3)
        return [f"{text} in {' '.join(texts)}" for text in texts]
