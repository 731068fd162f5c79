"""No guard of the runner comes late: before its imports, over its scratch folder, and behind the run's own error."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from test_pipeline import CHILD, SLEEPER, gone, start_runner, wait_until
from test_pipeline import toy as toy
from toy import make_repository

from visdyn.pipeline import kernel
from visdyn.pipeline.console import Console, Place
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.guards import hold_stage
from visdyn.pipeline.processes import TOKEN, Interrupted, find_parent
from visdyn.pipeline.run_stages import require_repository
from visdyn.pipeline.runner import main, run_stage

# Stands for imports, or hashes, that take long: the runner's module hangs while it is loaded.
SLOW_RUNNER = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "visdyn.pipeline.runner":
            open("importing.pid", "w").write(str(__import__("os").getpid()))
            time.sleep(300)

sys.meta_path.insert(0, Slow())
"""
# Stands for DVC: notes what it writes and starts the stage, here by a shell that stays between the two.
FAKE_DVC = """
import json, os, pathlib, subprocess, sys
note = {{"pid": os.getpid(), "cmd": "dvc repro"}}
pathlib.Path(".dvc/tmp/rwlock").write_text(json.dumps({{"write": {{os.getcwd() + "/models/fdm": note}}, "read": {{}}}}))
subprocess.run(["/bin/sh", "-c", {command!r}], env={{**os.environ, "DVC_STAGE": "fdm", "DVC_ROOT": os.getcwd()}})
"""
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are followed through Linux's /proc")


@pytest.fixture
def slow(toy, tmp_path, monkeypatch):
    """The toy repository, whose runner never gets past its imports."""
    make_repository(toy)
    (toy / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks/sitecustomize.py").write_text(SLOW_RUNNER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'hooks'}{os.pathsep}{os.environ['PYTHONPATH']}")
    return toy


def read_pid(folder):
    path = folder / "importing.pid"
    wait_until(lambda: path.exists() and path.read_text(), "the runner did not start")
    return int(path.read_text())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_is_one_sentence(slow, signum):
    command = [sys.executable, "-m", "visdyn.pipeline", "fdm"]
    runner = subprocess.Popen(command, cwd=slow, stderr=subprocess.PIPE, text=True)
    read_pid(slow)
    runner.send_signal(signum)
    said = runner.communicate(timeout=30)[1]
    assert said == f"fdm: stopped by {signum.name}; nothing of it is running\n"
    assert runner.returncode == 128 + signum


@linux
@pytest.mark.parametrize("command", ["{} -m visdyn.pipeline fdm", "{} -m visdyn.pipeline fdm; true"])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_runner_ends_with_dvc_while_it_still_imports(slow, command, signum):
    code = FAKE_DVC.format(command=command.format(sys.executable))
    dvc = subprocess.Popen([sys.executable, "-c", code], cwd=slow, stderr=subprocess.DEVNULL)
    pid = read_pid(slow)
    dvc.send_signal(signum)
    dvc.wait()
    wait_until(lambda: gone(pid), "the runner went on without DVC", seconds=20)


@linux
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_dvc_ends_with_the_command_that_started_it(tmp_path, signum):
    """`kill -9` of `visdyn run`: nothing of it goes on."""
    child = "import os, time; open('child.pid', 'w').write(str(os.getpid())); time.sleep(300)"
    code = (
        "import sys; from pathlib import Path; from visdyn.pipeline.run_stages import run_command\n"
        f"run_command([sys.executable, '-c', {child!r}], Path.cwd(), {{}})"
    )
    command = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    wait_until(lambda: (tmp_path / "child.pid").exists() and (tmp_path / "child.pid").read_text(), "it did not start")
    command.send_signal(signum)
    command.wait(timeout=30)
    pid = int((tmp_path / "child.pid").read_text())
    wait_until(lambda: gone(pid), "DVC went on without the command that started it", seconds=20)


def test_an_archive_that_was_unpacked_is_told_what_it_lacks(tmp_path):
    with pytest.raises(StageError, match="is in no git repository, which DVC needs; run `git init` there"):
        require_repository(tmp_path)
    (tmp_path / ".git").write_text("gitdir: elsewhere\n")  # as in a worktree
    require_repository(tmp_path)
    require_repository(tmp_path / "folder")


@linux
def test_a_runner_whose_dvc_is_gone_before_its_first_instruction_does_not_start(slow):
    ended = subprocess.Popen(["true"])
    ended.wait()
    note = {"write": {str(slow / "models/fdm"): {"pid": ended.pid, "cmd": "dvc repro"}}, "read": {}}
    (slow / ".dvc/tmp/rwlock").write_text(json.dumps(note))
    environment = {**os.environ, "DVC_STAGE": "fdm", "DVC_ROOT": str(slow)}
    command = [sys.executable, "-m", "visdyn.pipeline", "fdm"]
    run = subprocess.run(command, cwd=slow, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    assert not (slow / "importing.pid").exists()


@linux
@pytest.mark.parametrize("note", [None, "", "{", "[]", '{"write": []}', '{"write": {"/elsewhere": {"pid": 1}}}'])
def test_without_dvc_s_note_the_parent_is_followed(tmp_path, note):
    if note is not None:
        (tmp_path / "rwlock").write_text(note)
    assert find_parent(tmp_path / "rwlock", tmp_path) == os.getppid()


def test_what_is_imported_before_the_guard_is_small():
    code = "import sys, visdyn.pipeline.processes; print({'pandas', 'numpy', 'torch', 'yaml'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_a_run_under_nohup_outlives_its_terminal():
    code = (
        "import signal, time; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from visdyn.pipeline.processes import guard_start, supervised; guard_start()\n"
        "with supervised('nohup-test'): print('ready', flush=True); time.sleep(300)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=30)
        assert run.returncode != 0
    finally:
        run.kill()
        run.communicate()


def test_a_stage_is_run_by_one_runner_at_a_time(toy, tmp_path, capsys):
    make_repository(toy)
    with hold_stage(toy / ".visdyn/locks/fdm.lock", "fdm", "token"):
        assert main(["fdm", "--profile", "."]) == 1
        said = capsys.readouterr().err
        assert f"stage fdm of this profile is being run already, by process {os.getpid()}" in said
        assert not (toy / ".visdyn/logs/fdm.log").exists()  # the other one's log is left alone
    run_stage("fdm")


def test_what_a_killed_run_has_left_is_ended_before_the_stage_runs_again(tmp_path):
    path = tmp_path / "locks/fdm.lock"
    left = subprocess.Popen(["sleep", "300"], env={**os.environ, TOKEN: "of-the-killed-run"})
    path.parent.mkdir()
    path.write_text("1 of-the-killed-run\n")
    wait_until(lambda: TOKEN.encode() in Path(f"/proc/{left.pid}/environ").read_bytes(), "it did not start")
    with hold_stage(path, "fdm", "mine"):
        assert left.poll() is not None
        assert path.read_text() == f"{os.getpid()} mine\n"
    assert path.read_text() == ""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found through Linux's /proc")
def test_a_killed_runner_leaves_no_folder_in_the_temporary_folder(toy, monkeypatch):
    make_repository(toy, CHILD.format(code=SLEEPER) + "time.sleep(300)")
    with tempfile.TemporaryDirectory(prefix="v-") as short:  # the path of a socket must be
        monkeypatch.setenv("TMPDIR", short)
        runner, pid = start_runner(toy)
        assert list(Path(short).glob("visdyn-*"))
        runner.kill()
        runner.communicate(timeout=60)
        wait_until(lambda: gone(pid), "the child outlived its runner")
        wait_until(lambda: not list(Path(short).glob("visdyn-*")), "the kernel's folder was left behind")


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def kernel_of(folder):
    return kernel.Kernel(folder / "a.ipynb", folder / "out/a.ipynb", {}, folder / "log", folder / "timings.json")


@pytest.mark.parametrize("error", ["cell 3 failed with OSError: No space left on device", ""])
def test_a_record_that_cannot_be_written_does_not_hide_the_run_s_own_error(tmp_path, monkeypatch, error):
    def fill_disk(run, console):
        run.output.write_text('{"cells": [')
        return error

    monkeypatch.setattr(kernel, "_execute_cells", fill_disk)
    said = kernel.execute(kernel_of(tmp_path), Console(Place("a"), tmp_path / "log"))
    assert said.startswith(error or "the executed notebook could not be kept")
    assert "the executed notebook could not be kept (NotJSONError" in said
    assert "\n" not in said


def test_an_interrupt_is_not_replaced_by_a_record_that_cannot_be_written(tmp_path, monkeypatch):
    def interrupt(run, console):
        run.output.write_text("")
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(kernel, "_execute_cells", interrupt)
    with pytest.raises(Interrupted):
        kernel.execute(kernel_of(tmp_path), Console(Place("a"), tmp_path / "log"))


def test_a_record_is_whole_or_the_old_one(tmp_path, monkeypatch):
    import nbformat

    from visdyn import paths
    from visdyn.pipeline.executed import write_record

    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1", id="x")]), path)
    before = path.read_bytes()

    def fail(descriptor):
        raise FULL

    monkeypatch.setattr(paths.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_record(path, tmp_path / "timings.json", {})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.ipynb"]


@pytest.mark.parametrize("place", ["write_record", "first_error"])
def test_a_full_disk_is_named_whatever_fails_on_it(toy, capsys, monkeypatch, place):
    make_repository(toy, "raise OSError(28, 'No space left on device')")

    def fail(*arguments):
        raise ValueError("Notebook does not appear to be JSON: ''")

    monkeypatch.setattr(kernel, place, fail)
    assert main(["fdm", "--profile", "."]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_disk_that_is_full_before_the_notebook_runs_is_one_sentence(toy, capsys, monkeypatch):
    from visdyn.pipeline import runner

    def fail(*arguments):
        raise FULL

    make_repository(toy)
    monkeypatch.setattr(runner, "_fresh_log", fail)
    assert main(["fdm", "--profile", "."]) == 1
    assert capsys.readouterr().err == "fdm: [Errno 28] No space left on device\n"


def test_processes_that_cannot_be_ended_are_named(monkeypatch, capsys):
    from visdyn.pipeline import processes

    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    monkeypatch.setattr(processes, "marked", lambda token: [2**22 + 1])
    assert processes.end_marked("x", grace=0.1) == 1
    assert "could not be ended" in capsys.readouterr().err
