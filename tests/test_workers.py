"""Processes that may die: their places, a setup that fails, and the end of the process that asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from visdyn.compute.workers import Lost, Task, WorkerError, each


def take_place(shared, place: int) -> int:
    """Set up as a model on GPU `place` does."""
    if shared == "no weights":
        raise OSError("no model at /weights; download it")
    return place


def place_of(place: int, item: str) -> int:
    """Return where an item was computed; some end or stop their process."""
    if item == "dies":
        os.abort()
    if item == "hangs":
        time.sleep(120)
    time.sleep(0.5)
    return place


def test_the_process_in_place_of_a_dead_one_takes_its_place():
    """A third place would be a GPU that is not there."""
    items = ["works", "dies", "works", "works", "works", "works"]
    found = dict(each(Task(place_of, setup=take_place), items, processes=2))
    assert isinstance(found.pop(1), Lost)
    assert sorted(found) == [0, 2, 3, 4, 5]
    assert set(found.values()) == {0, 1}


def test_a_setup_that_fails_gives_its_reason():
    with pytest.raises(WorkerError, match="no model at /weights; download it"):
        list(each(Task(place_of, "no weights", take_place), ["works"] * 2, processes=2))


def test_no_process_goes_on_when_the_one_that_asked_is_killed(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_workers as t; "
    code += "list(t.each(t.Task(t.note_and_hang, sys.argv[1]), [0, 1], processes=2))"
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    _wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _wait_until(lambda: not any(_is_running(int(path.name)) for path in tmp_path.iterdir()))


def note_and_hang(folder: str, _item: int) -> None:
    """Leave the process's number, and hang."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(120)


def _is_running(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
