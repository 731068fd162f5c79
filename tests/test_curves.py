"""Curves of a training: the plain file, what a kill leaves of it, and the trackers of a hardware file."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from toy_training import RECIPE, Killed, ToyModel, toy_data, train_toy

from visdyn.training.engine import launch
from visdyn.training.engine.curves import TRACKERS, count_tokens, find_curves, make_trackers
from visdyn.training.engine.fit import Recipe, fit


@pytest.fixture
def scratch(tmp_path):
    return tmp_path / ".visdyn/scratch/fdm/0123/jobs/supervised-s0/state"


def test_a_run_s_curves_lie_beside_its_scratch_and_nowhere_else(tmp_path, scratch):
    assert find_curves(scratch) == tmp_path / ".visdyn/curves/fdm/supervised-s0"
    assert find_curves(tmp_path / "scratch/state") is None


def test_the_plain_file_has_the_history_with_learning_rate_norm_and_speed(scratch):
    _, history = train_toy(scratch)
    curves = pd.read_csv(find_curves(scratch) / "curves.tsv", sep="\t")
    assert curves["step"].tolist() == history["step"].tolist()
    assert curves["loss"].tolist() == pytest.approx(history["loss"].tolist(), rel=1e-5)
    assert curves["error"].tolist() == pytest.approx(history["error"].tolist(), rel=1e-5)
    assert (curves[["learning_rate", "grad_norm", "examples_per_second"]].iloc[:-1] > 0).all(axis=None)
    assert curves["tokens_per_second"].isna().all()  # a toy without tokens: empty, not 0


def test_the_history_that_dvc_hashes_has_none_of_it(scratch):
    assert list(train_toy(scratch)[1]) == ["step", "loss", "error"]


def test_a_killed_run_keeps_the_rows_up_to_where_it_goes_on(scratch):
    with pytest.raises(Killed):
        train_toy(scratch, kill=lambda step: step == 13, save_every=10)  # its row of step 10 is written
    path = find_curves(scratch) / "curves.tsv"
    rows = path.read_text().splitlines()
    beyond = rows[-1].replace("10", "15", 1)  # a row behind the last checkpoint, and one that a full disk cut short
    path.write_text("\n".join([*rows, beyond, "1"]))
    _, history = train_toy(scratch, save_every=10)
    curves = pd.read_csv(path, sep="\t")
    assert curves["step"].tolist() == [5, 10, 15, 20]
    assert curves["loss"].tolist() == pytest.approx(history["loss"].tolist(), rel=1e-5)


def test_a_folder_outside_of_a_profile_s_scratch_gets_no_curves(tmp_path):
    train_toy(tmp_path / "scratch", steps=5)
    assert list(tmp_path.iterdir()) == []


def test_dvclive_gets_the_curves_and_touches_nothing_else(scratch, tmp_path, monkeypatch):
    pytest.importorskip("dvclive")
    monkeypatch.chdir(tmp_path)
    fit(ToyModel(), toy_data(), Recipe.of(RECIPE), scratch, hardware={"report_to": ("dvclive",)})
    folder = find_curves(scratch)
    losses = next(folder.glob("dvclive/plots/metrics/**/loss.tsv"))
    assert len(pd.read_csv(losses, sep="\t")) == 4
    assert [path.name for path in tmp_path.iterdir()] == [".visdyn"]
    assert sorted(path.name for path in folder.iterdir()) == ["curves.tsv", "dvclive"]


def test_a_tracker_that_is_not_installed_is_named_with_its_command(tmp_path):
    missing = [name for name in TRACKERS if importlib.util.find_spec(name) is None]
    for name in missing:
        with pytest.raises(ImportError, match=f"report_to has {name}.*pip install {name}"):
            make_trackers([name], tmp_path)


def test_other_ranks_than_the_first_track_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert make_trackers(TRACKERS, tmp_path) == []


def test_a_hardware_file_names_known_trackers_only(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "repository_root", lambda: tmp_path)
    monkeypatch.delenv("VISDYN_HARDWARE", raising=False)
    (tmp_path / "hardware").mkdir()
    file = tmp_path / "hardware/own.yaml"
    file.write_text("trainer: {report_to: [dvclive, wandb]}\n")
    assert launch.Hardware.load("own").trainer["report_to"] == ["dvclive", "wandb"]
    file.write_text("trainer: {report_to: [all]}\n")
    with pytest.raises(ValueError, match="report_to"):
        launch.Hardware.load("own")


def test_tokens_of_a_batch_are_counted_with_padding():
    assert count_tokens({"input_ids": torch.zeros(3, 7, dtype=torch.int64)}) == 21
    assert count_tokens({"batch": SimpleNamespace(pack=range(40))}) == 40
    assert count_tokens({"pixels": torch.zeros(2, 3, 8, 8)}) == 0
