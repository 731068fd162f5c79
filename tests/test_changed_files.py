"""The word with which a run ends that has changed files in git: how many, why, how to put them back or keep them."""

from __future__ import annotations

import json
import subprocess

import pytest

from visdyn.pipeline import changed_files
from visdyn.pipeline.changed_files import describe_changes


def machine_file(*families, stages=None):
    """A machine.json of families such as `aaa portable`."""
    machines = {name: {"cpu": "x", "portable": kind == "portable"} for name, kind in map(str.split, families)}
    return json.dumps({"machines": machines, "stages": stages or {}})


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git repository with one commit: a result, a lock, and a machine of family aaa; and its `git`."""
    monkeypatch.setenv("VISDYN_ROOT", str(tmp_path))
    for name in ("PORTABLE", "VISDYN_PORTABLE"):
        monkeypatch.delenv(name, raising=False)

    def git(*arguments):
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    for name, content in {"params.yaml": "", "dvc.lock": "a", "reports/results/x.csv": "1\n",
                          "reports/machine.json": machine_file("aaa native")}.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "x")
    return tmp_path, git


def change(folder, *families, stages=None):
    (folder / "reports/results/x.csv").write_text("2\n")
    (folder / "dvc.lock").write_text("b")
    (folder / "reports/machine.json").write_text(machine_file(*families, stages=stages))


def test_the_same_bytes_are_said(checkout):
    folder, _ = checkout
    (folder / "notes.txt").write_text("no result")
    (folder / "params.yaml").write_text("# no result either")
    assert describe_changes() == ["Every result in git is byte for byte that of the last commit."]


def test_another_family_explains_what_has_changed_and_the_commands_do_what_they_say(checkout):
    folder, git = checkout
    change(folder, "bbb native")
    first, back, keep = describe_changes()
    assert first.startswith(
        "3 files in git (reports, dvc.lock) differ from the last commit's: the committed run was made"
    )
    assert "family of machines aaa (native), this one by bbb (native)" in first
    git(*back.partition("git ")[2].split())
    assert (folder / "reports/results/x.csv").read_text() == "1\n"
    assert describe_changes() == ["Every result in git is byte for byte that of the last commit."]
    change(folder, "bbb native")
    git("commit", "-m", "mine", "--", *keep.rpartition(" -- ")[2].split())
    assert (folder / "reports/results/x.csv").read_text() == "2\n"
    assert describe_changes() == ["Every result in git is byte for byte that of the last commit."]


def test_the_same_family_points_to_the_code(checkout):
    folder, _ = checkout
    change(folder, "aaa native")
    assert "the arithmetic is the same, aaa (native), so code, parameters or data" in describe_changes()[0]


def test_a_portable_reference_can_be_made_here(checkout, monkeypatch):
    folder, git = checkout
    change(folder, "ppp portable")
    git("commit", "-qam", "portable")
    change(folder, "bbb native")
    (folder / "reports/results/x.csv").write_text("3\n")
    assert any(line.endswith("PORTABLE=1 dvc repro --force") for line in describe_changes())
    monkeypatch.setenv("PORTABLE", "1")
    assert not any(line.endswith("PORTABLE=1 dvc repro --force") for line in describe_changes())


def test_stages_made_before_portable_was_asked_for_are_named(checkout, monkeypatch):
    folder, _ = checkout
    change(folder, "bbb native", "ppp portable", stages={"idm": "bbb", "fdm": "ppp"})
    monkeypatch.setenv("PORTABLE", "1")
    assert describe_changes()[0].startswith("PORTABLE is set, but these stages were made without it: idm. ")


def test_no_checkout_no_word(tmp_path, monkeypatch):
    monkeypatch.setenv("VISDYN_ROOT", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "params.yaml").write_text("")
    assert describe_changes() == []
    assert changed_files._git(tmp_path, "status") is None
