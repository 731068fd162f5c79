"""The campaign of killed runs, on a profile of two stages that are shell scripts."""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import repro_runs
from repro_runs import MARK, PROFILE, draw_moment, find_differences, find_marked, set_back, try_kill
from ruamel.yaml import YAML

from visdyn.training.engine.trainer import COMPLETE

STAGES = "stages:\n  first:\n    cmd: x\n  second:\n    cmd: y\n"
# Stands for `visdyn run`: computes for some seconds, then writes the lock, with the hash of what it is told to make.
RUN = """
import sys, time
while time.process_time() < float(sys.argv[1]):
    pass
lock = "first: {{outs: [{{path: data/a, md5: one}}]}}, second: {{outs: [{{path: models, md5: {md5}}}]}}"
open("profiles/smoke/dvc.lock", "w").write("schema: '2.0'\\nstages: {{" + lock + "}}\\n")
"""


def lock_of(**hashes):
    return {stage: {"outs": [{"path": f"{stage}/x", "md5": digest}]} for stage, digest in hashes.items()}


@pytest.fixture
def folder(tmp_path):
    """A folder of a campaign whose undisturbed run has ended."""
    profile = tmp_path / "undisturbed" / PROFILE
    for name in ("data/a", "data/kept/k", "models/m", ".visdyn/scratch/second/s", "reports/r"):
        (profile / name).parent.mkdir(parents=True, exist_ok=True)
        (profile / name).write_text(name)
    (profile / "dvc.yaml").write_text(STAGES)
    lock = {
        "first": {"outs": [{"path": "data/a", "md5": "one"}]},
        "second": {"outs": [{"path": "models", "md5": "two"}]},
    }
    YAML().dump({"schema": "2.0", "stages": lock}, profile / "dvc.lock")
    return tmp_path


def test_each_second_of_the_run_is_as_likely():
    seconds = {"short": 1.0, "long": 9.0}
    drawn = [draw_moment(random.Random(f"0:{number}"), seconds) for number in range(500)]
    assert all(0 <= second < seconds[stage] for stage, second in drawn)
    assert 20 <= Counter(stage for stage, _ in drawn)["short"] <= 90
    assert draw_moment(random.Random("0:7"), seconds) == drawn[7]


def test_longer_trainings_are_resumable_in_their_middle(tmp_path, monkeypatch):
    training = "idm:\n  training:\n    steps: 6\n    epochs: null\n    precision: fp32  # x\n  flow_steps: 2\n"

    def copy_checkout(checkout):
        (checkout / PROFILE).mkdir(parents=True)
        (checkout / PROFILE / "params.yaml").write_text(training)

    monkeypatch.setattr(repro_runs, "copy_checkout", copy_checkout)
    for longer, wanted in (
        (1, {"steps": 6, "epochs": None, "precision": "fp32"}),
        (5, {"steps": 30, "epochs": None, "precision": "fp32", "log_every": 4, "save_every": 4}),
    ):
        repro_runs.make_copy(tmp_path / str(longer), longer)
        made = YAML(typ="safe").load(tmp_path / str(longer) / PROFILE / "params.yaml")
        assert Path(repro_runs.CHECKPOINTS).name == COMPLETE
        assert made == {"idm": {"training": wanted, "flow_steps": 2}}


def test_other_bytes_and_outputs_too_many_or_too_few_are_differences():
    wanted = lock_of(a="1", b="2")
    assert find_differences(wanted, lock_of(a="1")) == []
    assert find_differences(wanted, lock_of(a="1", b="3")) == ["b: b/x"]
    made = lock_of(a="1")
    made["a"]["outs"].append({"path": "a/y", "md5": "4"})
    assert find_differences(wanted, made) == ["a: a/y"]


def test_a_try_begins_where_its_stage_began(folder):
    set_back(folder / "undisturbed", folder / "killed", "second")
    profile = folder / "killed" / PROFILE
    there = {str(path.relative_to(profile)) for path in profile.rglob("*") if path.is_file()}
    assert there == {"dvc.yaml", "dvc.lock", "data/a", "reports/r"}  # no outputs of it, no scratch, nothing kept
    assert set(repro_runs.read_lock(folder / "killed")) == {"first"}
    assert (folder / "undisturbed" / PROFILE / "models/m").exists()


@pytest.mark.parametrize(("md5", "same"), [("two", "yes"), ("three", "no")])
def test_a_run_that_was_killed_is_run_again_and_compared(folder, monkeypatch, md5, same):
    started = []

    def start(work, stages, **variables):
        started.append(stages)
        command = [sys.executable, "-c", RUN.format(md5=md5), "300" if len(started) == 1 else "0"]
        return subprocess.Popen(command, cwd=work, env=variables)

    monkeypatch.setattr(repro_runs, "start", start)
    monkeypatch.setattr(repro_runs, "SIGNALS", (signal.SIGKILL,))
    monkeypatch.setattr(repro_runs, "TARGETS", ("everything", "the command", "DVC"))
    options = argparse.Namespace(folder=folder, seed=0, to_the_end=False)
    row = try_kill(options, {"second": 0.5}, 1)
    assert (row["same"], row["left"]) == (same, 0)
    assert row["differs"] == ("" if same == "yes" else "second: models")
    assert started == [["second"], ["second"]]


def test_a_run_that_had_ended_is_no_try(folder, monkeypatch):
    monkeypatch.setattr(repro_runs, "start", lambda *_, **__: subprocess.Popen(["true"]))
    assert try_kill(argparse.Namespace(folder=folder, seed=0, to_the_end=True), {"second": 2.0}, 1)["same"] == ""


def test_seconds_are_those_that_were_computed_by_a_run_and_what_it_started():
    child = "import time\nwhile time.process_time() < 0.3: pass"
    code = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {child!r}]); time.sleep(300)"
    run = subprocess.Popen([sys.executable, "-c", code], env={MARK: "counted", "PATH": "/usr/bin:/bin"})
    try:
        while (seconds := repro_runs.count_seconds("counted")) < 0.3:
            assert run.poll() is None
        time.sleep(0.5)  # which is not computing
        assert 0.3 <= seconds <= repro_runs.count_seconds("counted") < 0.8
    finally:
        run.kill()
        run.wait()
    assert repro_runs.count_seconds("counted") == 0


def test_processes_of_a_try_are_found_by_their_mark():
    left = subprocess.Popen(["sleep", "300"], env={MARK: "a-try", "PATH": "/usr/bin:/bin"})
    try:
        while not find_marked("a-try"):
            assert left.poll() is None
        assert find_marked("a-try") == [left.pid]
        assert find_marked("another") == []
    finally:
        left.kill()
        left.wait()
    assert find_marked("a-try") == []
