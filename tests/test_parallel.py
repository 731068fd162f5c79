"""Work spread over processes: in order, with the shared object, and with errors that reach the caller."""

from __future__ import annotations

import math
import os

import pytest
import toy_jobs

from visdyn.compute import pool
from visdyn.compute.gpus import map_gpus
from visdyn.compute.pool import cores, cpu_quota, map_processes


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


@pytest.mark.slow
@pytest.mark.parametrize(("visible", "seen"), [(None, {"0", "1"}), ("3,GPU-5", {"3", "GPU-5"})])
def test_models_are_spread_over_the_gpus_each_of_which_is_one_processs_own(monkeypatch, visible, seen):
    """As if there were two: the calls ask for none."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = map_gpus(toy_jobs.name_gpu, [3, 1, 2, 0, 5, 4], 10)
    assert [value for value, _, _ in found] == [19, 11, 14, 10, 35, 26]
    assert {gpu for _, _, gpu in found} == seen
    assert len({(process, gpu) for _, process, gpu in found}) == 2
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_with_one_gpu_all_stays_in_this_process(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert map_gpus(toy_jobs.square, [2, 3], 1) == [(5, os.getpid()), (10, os.getpid())]


V1 = "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n1:name=systemd:/docker/x\n"


@pytest.mark.parametrize(("groups", "files", "quota"), [
    ("0::/pod/x\n", {"pod/x/cpu.max": "max 100000", "pod/cpu.max": "150000 100000"}, 1.5),  # the pod's limit
    ("0::/pod/x\n", {"pod/x/cpu.max": "200000 100000", "pod/cpu.max": "400000 100000"}, 2.0),
    ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),  # as it looks from inside a container
    ("0::/../../pod\n", {"cpu.max": "300000 100000"}, 3.0),
    (V1, {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "400000", "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000"}, 4.0),
    (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "100000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 1.0),
    (V1, {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "-1", "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000"}, math.inf),
    (V1, {"memory/docker/x/cpu.max": "1 1"}, math.inf),
    ("0::/pod\n", {"pod/cpu.max": "rubbish"}, math.inf),
    ("", {}, math.inf),
    (None, {}, math.inf),
])  # fmt: skip
def test_a_container_s_quota_is_read_from_its_control_groups(tmp_path, groups, files, quota):
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.5, 1), (2.0, 2), (64.0, 8), (math.inf, 8)])
def test_no_more_processes_run_than_the_quota_allows(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(pool, "cpu_quota", lambda: quota)
    assert cores() == expected
