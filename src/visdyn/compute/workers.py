"""Many items over processes that may die: a file that hangs or crashes its decoder costs that file alone.

`visdyn.compute.pool` serves computations of the kit's own, whose failure should end the stage. Here the items come from
outside: tens of thousands of video files, among which some hang the decoder or bring the process down.

`pebble.ProcessPool` (5.2.3) was tried in place of `_Pool`. It ends an item at its time-out, replaces a dead process and
loses one item with it, too. It knows no place of a process (which GPU is its own; a replacement takes the dead one's),
a setup that fails reaches the caller as `All workers expired` without its reason, and a process goes on when the one
that asked was killed. `tests/test_workers.py` demands these three.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from queue import Queue
from typing import Any

from visdyn.compute.pool import cores, end_with_parent, warm_context


class WorkerError(RuntimeError):
    """The function itself failed on an item; the message holds the traceback of the process that ran it."""


class WorkerLostError(RuntimeError):
    """Processes died under one call again and again: killed, or out of memory."""


@dataclass(frozen=True)
class Task:
    """What is computed of each item.

    Attributes:
        function: (state, item) -> result; importable, its result can be pickled.
        shared: sent once to each process.
        setup: (shared, place) -> state, run once in each process, place counting the processes from 0 (a model is
            loaded on GPU `place`); None: the state is `shared`.
        heavy: the function needs torch and transformers: without a GPU its processes are forked from one that has
            imported them (`visdyn.compute.pool.warm_context`).
        attempts: times an item is begun whose process dies: more than one where it is the process that is to blame, and
            not a file.
    """

    function: Callable[[Any, Any], Any]
    shared: Any = None
    setup: Callable[[Any, int], Any] | None = None
    heavy: bool = False
    attempts: int = 1

    def state(self, place: int = 0) -> Any:
        """Make the state of one process."""
        return self.setup(self.shared, place) if self.setup else self.shared


@dataclass(frozen=True)
class Lost:
    """What stands for the result of an item whose process died or ran out of time."""

    reason: str


def each(task: Task, items: Sequence, processes: int = 0, timeout: float = 0.0) -> Iterator[tuple[int, Any]]:
    """Yield (index, result) of each item as they are finished; a result is `Lost` where the process died.

    Args:
        processes: 0 means one per core; 1 without a timeout stays in this process.
        timeout: seconds for one item, after which its process is killed; 0 waits for ever.

    Raises:
        WorkerError: the function or the setup raised.
    """
    count = min(processes or cores(), len(items))
    if count <= 1 and not timeout:
        state = task.state() if items else None
        for index, item in enumerate(items):
            yield index, task.function(state, item)
        return
    pool = _Pool(task, deque(enumerate(items)), timeout)
    try:
        pool.start(count)
        while pool.busy:
            yield from pool.finished()
    finally:
        pool.end()


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    place: int
    index: int | None = None
    item: Any = None
    deadline: float = float("inf")


class _Pool:
    """Hands items out one by one, and replaces the processes that die."""

    def __init__(self, task: Task, waiting: deque, timeout: float) -> None:
        self.task, self.waiting, self.timeout = task, waiting, timeout
        self.workers: list[_Worker] = []
        self.begun: Counter[int] = Counter()
        self.context = _process_context(task.heavy)

    @property
    def busy(self) -> bool:
        return bool(self.workers)

    def start(self, count: int) -> None:
        for place in range(count):
            self._start_worker(place)

    def _start_worker(self, place: int) -> None:
        self.workers.append(_start_process(self.context, self.task, place))

    def finished(self) -> Iterator[tuple[int, Any]]:
        """Wait for the next replies, deaths or deadlines, and yield what they decide."""
        soonest = min(worker.deadline for worker in self.workers)
        patience = None if soonest == float("inf") else max(0.0, soonest - time.monotonic())
        ready = set(wait([worker.connection for worker in self.workers], patience))
        for worker in list(self.workers):
            if worker.connection in ready:
                yield from self._read_answers(worker)
            elif worker.deadline <= time.monotonic():
                reason = f"took longer than {self.timeout:g} seconds; its process was ended"
                yield from self._replace_worker(worker, reason)

    def _read_answers(self, worker: _Worker) -> Iterator[tuple[int, Any]]:
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            yield from self._replace_worker(worker, f"ended its process ({_explain_exit(worker.process.exitcode)})")
            return
        if kind == "error":
            raise WorkerError(value)
        done, worker.index = worker.index, None
        self._send_next(worker)
        if kind == "done":
            yield done, value

    def _send_next(self, worker: _Worker) -> None:
        if not self.waiting:
            worker.connection.send(None)
            self.workers.remove(worker)
            return
        worker.index, worker.item = self.waiting.popleft()
        self.begun[worker.index] += 1
        worker.deadline = time.monotonic() + self.timeout if self.timeout else float("inf")
        worker.connection.send(("item", worker.item))

    def _replace_worker(self, worker: _Worker, reason: str) -> Iterator[tuple[int, Any]]:
        worker.process.kill()
        worker.process.join()
        self.workers.remove(worker)
        if worker.index is None:
            raise WorkerError(f"a worker process {reason} before it was ready; see its output above")
        again = self.begun[worker.index] < self.task.attempts
        if again:
            self.waiting.appendleft((worker.index, worker.item))
        if self.waiting:
            self._start_worker(worker.place)
        if not again:
            yield worker.index, Lost(reason)

    def end(self) -> None:
        for worker in self.workers:
            worker.process.kill()


class Lasting:
    """Processes that keep their state and answer calls from any thread, each one call at a time.

        with Lasting(Task(answer, model, load), 4) as processes:
            processes.call(question)

    A process is started at its first call. One that dies is replaced, and its call made again (`Task.attempts` times).
    """

    def __init__(self, task: Task, count: int) -> None:
        self.task, self.count, self.context = task, count, _process_context(task.heavy)
        self.free: Queue[tuple[int, _Worker | None]] = Queue()
        for place in range(count):
            self.free.put((place, None))

    def __enter__(self) -> Lasting:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def call(self, item: Any) -> Any:
        """Return the task's function of an item, once a process is free.

        Raises:
            WorkerError: the function or the setup raised; its process has ended.
            WorkerLostError: the process died, each time.
        """
        place, worker = self.free.get()
        try:
            for _ in range(self.task.attempts):
                try:
                    if worker is None:
                        worker = _start_process(self.context, self.task, place)
                        _receive(worker)  # "ready"
                    worker.connection.send(("item", item))
                    return _receive(worker)
                except (EOFError, OSError):
                    worker.process.join()
                    reason, worker = _explain_exit(worker.process.exitcode), None
                except WorkerError:
                    worker = None  # it has ended with its error
                    raise
            raise WorkerLostError(f"a process ended ({reason}) while it was asked, {self.task.attempts} times")
        finally:
            self.free.put((place, worker))

    def end(self) -> None:
        """End the processes; a later call starts them again. No call may be under way."""
        for _ in range(self.count):
            place, worker = self.free.get()
            if worker is not None:
                worker.connection.close()
                worker.process.kill()
                worker.process.join()
            self.free.put((place, None))


def _start_process(context: multiprocessing.context.BaseContext, task: Task, place: int) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_tasks, args=(theirs, task, place), daemon=True)
    process.start()
    theirs.close()  # with our copy open, the end of the worker would never show as EOFError
    return _Worker(process, ours, place)


def _receive(worker: _Worker) -> Any:
    kind, value = worker.connection.recv()
    if kind == "error":
        raise WorkerError(value)
    return value


def _process_context(heavy: bool) -> multiprocessing.context.BaseContext:
    """Return fresh processes, or forks of a warm one: decoders and CUDA do not survive a fork of what has used them."""
    if heavy:
        import torch

        if not torch.cuda.is_available():
            return warm_context()
    return multiprocessing.get_context("spawn")


def _explain_exit(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _serve_tasks(connection: Connection, task: Task, place: int) -> None:
    end_with_parent()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        state = task.state(place)
        connection.send(("ready", None))
        while (message := connection.recv()) is not None:
            connection.send(("done", task.function(state, message[1])))
    except (EOFError, BrokenPipeError):
        return
    except Exception:
        connection.send(("error", traceback.format_exc()))
