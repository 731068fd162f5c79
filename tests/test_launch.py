"""Training jobs in subprocesses: side by side, in order, once, and gone when their parent is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from foreign_environment import FOREIGN
from ranks import run_ranks

from visdyn.paths import repository_root
from visdyn.pipeline.arithmetic import left_out
from visdyn.training.engine import launch
from visdyn.training.engine.launch import Hardware, Job, JobError, check_split, run_jobs

pytestmark = pytest.mark.slow
TWO = Hardware(parallel_jobs=2)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A function that makes a job of `toy_jobs` writing to tmp_path/models/<name>."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "src")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    monkeypatch.delenv("VISDYN_LOG", raising=False)

    def make(name: str, function: str = "write", after: tuple[str, ...] = (), **arguments) -> Job:
        if function != "fail":
            arguments |= {"record": str(tmp_path / "record.txt"), "name": name}
        arguments["output"] = str(tmp_path / "models" / name)
        return Job(name, f"toy_jobs:{function}", arguments, after)

    return make


def _ran(tmp_path) -> list[str]:
    record = tmp_path / "record.txt"
    return [line.split()[0] for line in record.read_text().splitlines()] if record.exists() else []


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _until(condition, seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_two_jobs_run_side_by_side_and_keep_their_order(tmp_path, job):
    """`last` stands first but waits for both; the two others finish only if they meet."""
    jobs = [
        job("last", after=("left", "right")),
        job("left", "meet", other="right"),
        job("right", "meet", other="left"),
    ]
    seconds = run_jobs(jobs, tmp_path / "scratch", Hardware(parallel_jobs=2, threads=1, trainer={"bf16": True}))
    assert set(seconds) == {"left", "right", "last"}
    assert min(seconds.values()) > 0
    assert _ran(tmp_path)[-1] == "last"
    assert (tmp_path / "record.txt").read_text().splitlines()[-1] == "last 1 {'bf16': True}"
    assert (tmp_path / "models/left/result.txt").read_text() == "left"


def test_a_failure_carries_the_end_of_the_log_and_ends_the_others(tmp_path, job):
    jobs = [job("slow", "wait", until=str(tmp_path / "never")), job("bad", "fail", text="the optimiser diverged")]
    with pytest.raises(JobError) as failure:
        run_jobs(jobs, tmp_path / "scratch", TWO)
    assert "training bad failed (exit 1)" in str(failure.value)
    assert str(failure.value).endswith("RuntimeError: the optimiser diverged")
    assert "line 29" in str(failure.value)
    assert "line 3\n" not in str(failure.value)
    pid = tmp_path / "record.pid"
    assert not pid.exists() or not _alive(int(pid.read_text()))
    assert not (tmp_path / "models").exists()


def test_a_finished_job_is_restored_and_trained_again_only_with_other_arguments(tmp_path, job):
    first, scratch = job("one"), tmp_path / "scratch"
    assert set(run_jobs([first], scratch, TWO)) == {"one"}
    shutil.rmtree(tmp_path / "models")  # as DVC does before it runs a stage again
    assert run_jobs([first], scratch, TWO) == {}
    assert (tmp_path / "models/one/result.txt").read_text() == "one"
    (tmp_path / "models/one/stale.txt").touch()
    run_jobs([first], scratch, TWO)
    assert [file.name for file in (tmp_path / "models/one").iterdir()] == ["result.txt"]
    assert _ran(tmp_path) == ["one"]
    # other arguments: trained again, without the old output
    (scratch / "one/output/stale.txt").touch()
    other = job("one", "meet", other="one")
    run_jobs([other], scratch, TWO)
    assert _ran(tmp_path) == ["one", "one"]
    assert [file.name for file in (tmp_path / "models/one").iterdir()] == ["result.txt"]


def test_unfinished_state_of_other_arguments_is_refused(tmp_path, job):
    scratch = tmp_path / "scratch"
    (scratch / "one/state").mkdir(parents=True)
    (scratch / "one/job.json").write_text('{"function": "toy_jobs:write", "arguments": {"name": "other"}}')
    with pytest.raises(JobError, match="unfinished state of a run with other arguments"):
        run_jobs([job("one")], scratch, TWO)
    assert (scratch / "one/state").is_dir()


def test_a_killed_stage_takes_its_jobs_along_and_is_continued(tmp_path, job):
    """kill -9 of the process that runs the jobs, after the first has finished."""
    scratch, go = tmp_path / "scratch", tmp_path / "go"
    jobs = [job("first"), job("second", "wait", until=str(go))]
    script = f"""
        from pathlib import Path
        from visdyn.training.engine.launch import Hardware, Job, run_jobs
        run_jobs({jobs!r}, Path({str(scratch)!r}), Hardware(parallel_jobs=2))
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    pid_file = tmp_path / "record.pid"
    try:
        assert _until(lambda: (tmp_path / "models/first/result.txt").exists() and pid_file.exists())
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    orphan = int(pid_file.read_text())
    assert _until(lambda: not _alive(orphan), 30)
    shutil.rmtree(tmp_path / "models")
    go.touch()
    assert set(run_jobs(jobs, scratch, TWO)) == {"second"}
    assert _ran(tmp_path) == ["first", "second"]
    assert (tmp_path / "models/first/result.txt").read_text() == "first"
    assert (tmp_path / "models/second/result.txt").read_text() == "second"


def test_a_job_of_its_own_is_no_rank_of_another_job_whatever_the_shell_says(tmp_path, job):
    """In a process of its own: the server that jobs are forked from keeps the environment that it was started in."""
    script = f"""
        from pathlib import Path
        from visdyn.training.engine.launch import Hardware, Job, run_jobs
        hardware = Hardware(parallel_jobs=1, environment={{"CUDA_VISIBLE_DEVICES": "3"}})
        run_jobs([{job("one", "tell_environment")!r}], Path({str(tmp_path / "scratch")!r}), hardware)
    """
    ranks = {name: value for name, value in FOREIGN.items() if name in left_out(FOREIGN)}
    assert {"RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "OMPI_COMM_WORLD_SIZE"} <= ranks.keys()
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=os.environ | ranks, check=True)
    found = json.loads((tmp_path / "models/one/environment.json").read_text())
    assert not found.keys() & ranks.keys()
    assert found["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([Job("a", "m:f", {}), Job("a", "m:f", {})], "names of their own; repeated: a"),
        ([Job("a", "m:f", {}, ("b",))], "wait for b, which is no job"),
        ([Job("a", "m:f", {}, ("b",)), Job("b", "m:f", {}, ("a",))], "wait for each other: a, b"),
    ],
)
def test_impossible_orders_are_refused(tmp_path, jobs, message):
    with pytest.raises(ValueError, match=message):
        run_jobs(jobs, tmp_path, TWO)


def test_hardware_files(monkeypatch):
    monkeypatch.delenv("VISDYN_HARDWARE", raising=False)
    cpu = Hardware.load()
    assert (cpu.launcher, cpu.threads) == ("python", 1)
    assert cpu.slots >= 1
    assert Hardware(parallel_jobs=3).slots == 3
    assert all(Hardware.load(path.stem) for path in (repository_root() / "hardware").glob("*.yaml"))
    monkeypatch.setenv("VISDYN_HARDWARE", "toaster")
    with pytest.raises(FileNotFoundError, match=r"VISDYN_HARDWARE is one of .*cpu"):
        Hardware.load()


def test_a_batch_that_the_ranks_cannot_share_is_refused_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.delenv("VISDYN_HARDWARE", raising=False)
    (tmp_path / "hosts").write_text("a slots=3\n# b slots=8\nc slots=2\n")
    ranks = {
        "python": Hardware(),
        "gpus": Hardware(launcher="deepspeed", launcher_options=["--num_gpus", "4", "--num_nodes", 2]),
        "hosts": Hardware(launcher="deepspeed", launcher_options=["--hostfile", str(tmp_path / "hosts")]),
        "all": Hardware(launcher="deepspeed", trainer={"gradient_accumulation_steps": 3}),
    }
    monkeypatch.setattr(launch, "_count_accelerators", lambda: 7)
    assert {name: hardware.ranks for name, hardware in ranks.items()} == {"python": 1, "gpus": 8, "hosts": 5, "all": 7}
    monkeypatch.setattr(Hardware, "load", classmethod(lambda cls, name: ranks[name]))
    check_split("hosts", 65)
    check_split("all", 42)
    with pytest.raises(
        ValueError, match=r"batch_size 64 cannot be split over 5 ranks x 1 acc.*; change the batch size"
    ):
        check_split("hosts", 64)
    with pytest.raises(ValueError, match="over 7 ranks x 3 accumulation steps"):
        check_split("all", 28)
    monkeypatch.setattr(launch, "_count_accelerators", lambda: 0)
    check_split("all", 28)  # what the launcher will find is not known here


def test_a_rank_whose_work_is_done_ends_well_whatever_its_threads_do(tmp_path):
    arguments = {"output": str(tmp_path / "out")}
    (tmp_path / "job.json").write_text(json.dumps({"function": "toy_jobs:abort_at_exit", "arguments": arguments}))
    run_ranks("visdyn.training.engine.worker", str(tmp_path / "job.json"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rank0", "rank1"]
