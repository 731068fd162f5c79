"""What docs/machines.md promises: Python is looked at first, the locks agree, container and workflow are whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from visdyn import cli
from visdyn.paths import repository_root

ROOT = repository_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def make(*arguments: str) -> str:
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def pins() -> dict[str, str]:
    lines = [line.partition(";")[0].strip() for line in (ROOT / "requirements.lock").read_text().splitlines()]
    found = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {normal(name): version for name, version in found.items()}


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ((2, 7, 18), False),
        ((3, 10, 13), False),
        ((3, 11, 4), False),
        ((3, 11, 5), True),
        ((3, 14, 9), True),
        ((3, 15, 0), False),
    ],
)
def test_python_is_looked_at_before_anything_is_built(tmp_path, version, fits):
    lines = make("environment", "PYTHON=python3", f"VENV={tmp_path}/none").splitlines()
    check = next(at for at, line in enumerate(lines) if "version_info" in line)
    assert check < next(at for at, line in enumerate(lines) if "-m venv" in line)
    said = []
    code = re.search(r"-c 'import sys; (.*)'", lines[check])[1]
    exec(code, {"sys": SimpleNamespace(version_info=(*version, "final", 0), exit=said.append)})
    assert said == [0] if fits else f"Python {version[0]}.{version[1]}" in said[0]


def test_the_makefile_and_the_package_take_the_same_pythons():
    assert PROJECT["project"]["requires-python"] == ">=3.11.5,<3.15"  # as test_python_is_looked_at_... has them
    assert cli.OLDEST <= (3, 11, 5)


def test_the_program_refuses_an_old_python_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    assert cli.main(["run"]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "3.10" in said.err
    assert said.out == ""


@pytest.mark.parametrize(("user", "asked"), [("0", "--allow-root --port 8890"), ("1000", "--port 8890")])
def test_jupyter_starts_as_root_in_a_container_and_takes_options(tmp_path, monkeypatch, user, asked):
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    started = next(line for line in make("lab", "LAB=--port 8890").splitlines() if "jupyter lab" in line)
    assert " ".join(started.split("explore.ipynb")[1].split()) == asked


def test_a_pip_that_installs_for_the_user_is_overruled(monkeypatch):
    monkeypatch.setenv("PIP_USER", "1")
    command = ["make", "--eval", "show: ; @echo user=$$PIP_USER", "show"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "user=0\n"


def test_the_index_of_torch_can_be_chosen(tmp_path):
    built = make("environment", "PYTHON=python3", f"VENV={tmp_path}/none", "TORCH_INDEX=https://example.org/cpu")
    assert re.search(r"pip install --quiet --index-url https://example.org/cpu torch==", built)
    assert "--index-url" not in make("environment", "PYTHON=python3", f"VENV={tmp_path}/none", "TORCH_INDEX=")


def test_both_locks_have_the_same_versions_and_the_second_a_hash_for_each_file():
    lines = (ROOT / "requirements.hashes.lock").read_text().replace("\\\n", " ").splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    locked = {}
    for entry in entries:
        name, version = re.match(r"([\w.-]+)==([\w.]+)", entry).groups()
        assert normal(name) not in locked  # one version for every Python
        locked[normal(name)] = version
        assert re.findall(r"--hash=(\S+)", entry)
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in re.findall(r"--hash=(\S+)", entry))
    shared = pins().keys() & locked.keys()
    assert len(shared) > 150
    assert {name: locked[name] for name in shared} == {name: pins()[name] for name in shared}
    extras = PROJECT["project"]["optional-dependencies"].values()
    needs = [need for group in (PROJECT["project"]["dependencies"], *extras) for need in group]
    assert {normal(re.match(r"[\w.-]+", need)[0]) for need in needs} - {"visdyn"} <= locked.keys()


def test_the_container_builds_from_the_lock_with_a_python_that_fits():
    text = (ROOT / ".devcontainer/Containerfile").read_text()
    assert re.search(r"^ARG PYTHON=3\.1[1-4]$", text, re.MULTILINE)
    for path in re.findall(r"^COPY (\S+)", text, re.MULTILINE):
        assert (ROOT / path).is_file()
    described = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / described["build"]["dockerfile"]).is_file()
    for argument in described["build"]["args"]:
        assert re.search(rf"^ARG {argument}=", text, re.MULTILINE)
    # The stamp that stops `make environment` from building the packages again is the Makefile's.
    stamp = re.search(r"^BUILT := \$\(VENV\)/(\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert stamp in text
    assert stamp in described["postCreateCommand"]


def test_a_fork_s_workflow_runs_what_ci_runs_with_pinned_actions():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert any(step.get("run") == "bash .ci/run" for step in jobs["check"]["steps"])
    for step in steps:
        assert "uses" not in step or re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", step["uses"])
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in (step["run"] for step in steps if step.get("run", "").startswith("make ")):
        assert command.split()[1] in targets
    assert Path(ROOT / ".ci/run").is_file()
