"""Two checkouts' outputs are compared byte for byte, and what differs is named."""

from __future__ import annotations

import shutil

import pytest
import yaml

from visdyn.pipeline.same import compare, main


@pytest.fixture
def before(tmp_path):
    """A profile whose pipeline has run."""
    root = tmp_path / "before"
    files = {
        "models/idm/model.safetensors": b"\0weights",
        "reports/results/idm/scores.csv": b"system,value\nidm,.5\nbase,.1\n",
        "reports/results/idm/setting.json": b"{}\n",
        "reports/notebooks/03.ipynb": b"import old",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    outs = [{"path": path} for path in ("models/idm", "reports/results/idm", "reports/notebooks/03.ipynb")]
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"idm": {"outs": outs}}}))
    return root


@pytest.fixture
def after(before, tmp_path):
    shutil.copytree(before, tmp_path / "after")
    (tmp_path / "after/reports/notebooks/03.ipynb").write_text("import new")
    return tmp_path / "after"


def test_the_same_bytes_are_the_same_whatever_the_notebooks_import(before, after, capsys):
    assert main([str(before), str(after)]) == 0
    assert "same bytes: 3 files (models/idm 1, reports/results 2)" in capsys.readouterr().out


def test_one_changed_digit_is_named_by_file_and_line(before, after, capsys):
    (after / "reports/results/idm/scores.csv").write_text("system,value\nidm,.5\nbase,.2\n")
    assert main([str(before), str(after)]) == 1
    printed = capsys.readouterr().out
    assert "differs: reports/results/idm/scores.csv: line 3: 'base,.1' became 'base,.2'" in printed
    assert "verdict: NOT the same" in printed


def test_one_changed_weight_is_a_difference(before, after):
    (after / "models/idm/model.safetensors").write_bytes(b"\0weighty")
    assert compare(before, after).differs == ["models/idm/model.safetensors"]


def test_a_lost_or_new_file_is_a_difference(before, after):
    (after / "reports/results/idm/setting.json").rename(after / "reports/results/idm/settings.json")
    result = compare(before, after)
    assert result.only_before == ["reports/results/idm/setting.json"]
    assert result.only_after == ["reports/results/idm/settings.json"]
    assert not result.is_same


def test_a_move_on_purpose_is_followed_and_the_bytes_still_count(before, after, capsys):
    (after / "reports/results/inverse").mkdir()
    (after / "reports/results/idm/scores.csv").rename(after / "reports/results/inverse/scores.csv")
    lock = (after / "dvc.lock").read_text()
    extra = "    - path: reports/results/inverse\n"
    (after / "dvc.lock").write_text(
        lock.replace("    - path: reports/results/idm\n", extra + "    - path: reports/results/idm\n")
    )
    moved = {"reports/results/idm/scores.csv": "reports/results/inverse/scores.csv"}
    assert compare(before, after, moved).is_same
    (after / "reports/results/inverse/scores.csv").write_text("system,value\n")
    assert main([str(before), str(after), "--moved", "=".join(next(iter(moved.items())))]) == 1
    assert "became '(no line)'" in capsys.readouterr().out


def test_nothing_to_compare_is_not_the_same(before, tmp_path, capsys):
    assert main([str(before), str(tmp_path / "nowhere")]) == 2
    assert "has no dvc.lock" in capsys.readouterr().err
    for root in (before, tmp_path / "empty"):
        root.mkdir(exist_ok=True)
        (root / "dvc.lock").write_text("stages: {}\n")
    assert not compare(before, tmp_path / "empty").is_same
