"""Work spread over processes: in order, with the shared object, and with errors that reach the caller."""

from __future__ import annotations

import os

import pytest
import toy_jobs

from visdyn.compute.pool import map_processes


@pytest.mark.slow
def test_several_processes_return_what_one_does_in_the_order_of_the_items(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # with a GPU all stays in one process
    items = [3, 1, 2, 0]
    found = map_processes(toy_jobs.square, items, 10, processes=2)
    assert [value for value, _ in found] == [19, 11, 14, 10]
    assert [value for value, _ in map_processes(toy_jobs.square, items, 10, processes=1)] == [19, 11, 14, 10]
    processes = {process for _, process in found}
    assert len(processes) == 2
    assert os.getpid() not in processes


@pytest.mark.slow
def test_an_error_in_a_process_reaches_the_caller():
    with pytest.raises(ValueError, match="item -1 is negative"):
        map_processes(toy_jobs.square, [1, -1], 0, processes=2)


def test_one_item_stays_in_this_process():
    assert map_processes(toy_jobs.square, [2], 1) == [(5, os.getpid())]
    assert map_processes(toy_jobs.square, [], 1) == []
