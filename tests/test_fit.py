"""The training loop: its history, its recipe, and resuming after a kill at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from toy_training import RECIPE, Killed, ToyModel, toy_data, train_toy

from visdyn.training.engine.fit import COMPLETE, DivergedError, Recipe, ScratchError, fit
from visdyn.training.engine.trainer import RecipeTrainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Weights and history of a run from start to end."""
    return train_toy(tmp_path_factory.mktemp("whole") / "scratch")


def _equal(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def _kill_at(step: int, scratch: Path) -> None:
    with pytest.raises(Killed):
        train_toy(scratch, kill=lambda at: at == step)


def test_history(uninterrupted):
    history = uninterrupted[1]
    assert list(history) == ["step", "loss", "error"]
    assert history["step"].tolist() == [5, 10, 15, 20]
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["error"].tolist() == pytest.approx((2 * history["loss"]).tolist(), abs=1e-3)


def test_scratch_is_removed_at_the_end(tmp_path):
    train_toy(tmp_path / "scratch", steps=5)
    assert not (tmp_path / "scratch").exists()


def test_a_run_shorter_than_a_row_still_has_one(tmp_path):
    recipe = Recipe(steps=3, batch_size=4, learning_rate=0.1)
    history = fit(ToyModel(), toy_data(), recipe, tmp_path / "scratch")
    assert history["step"].tolist() == [3]


def test_the_seed_decides(tmp_path, uninterrupted):
    again, _ = train_toy(tmp_path / "again")
    other, _ = train_toy(tmp_path / "other", seed=1)
    assert _equal(again, uninterrupted[0])
    assert not _equal(other, uninterrupted[0])


@pytest.mark.slow
def test_a_killed_process_is_resumed_exactly(tmp_path, uninterrupted):
    """kill -9 in step 13; checkpoints stand at steps 5 and 10."""
    scratch = tmp_path / "scratch"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-m", "toy_training", str(scratch), "13"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(folder.name for folder in scratch.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-5"]
    steps = []
    weights, history = train_toy(scratch, kill=lambda at: steps.append(at))
    assert steps == list(range(11, 21))
    assert _equal(weights, uninterrupted[0])
    pd.testing.assert_frame_equal(history, uninterrupted[1])


@pytest.mark.parametrize(("killed", "first"), [(3, 1), (8, 6), (19, 16)])
def test_resuming_after_any_step_gives_the_same_weights(tmp_path, uninterrupted, killed, first):
    _kill_at(killed, tmp_path / "scratch")
    steps = []
    weights, history = train_toy(tmp_path / "scratch", kill=lambda at: steps.append(at))
    assert steps[0] == first
    assert _equal(weights, uninterrupted[0])
    pd.testing.assert_frame_equal(history, uninterrupted[1])


@pytest.mark.parametrize("steps", [20, 17, 18])  # after a checkpoint's step, between two, and at the end of an epoch
def test_a_kill_while_the_model_is_saved_costs_no_training(tmp_path, steps):
    def full_disk(_):
        raise OSError("no space left")

    expected = train_toy(tmp_path / "whole", steps=steps)
    with pytest.raises(OSError, match="no space left"):
        train_toy(tmp_path / "scratch", save=full_disk, steps=steps)
    ran, saved = [], []
    weights, history = train_toy(tmp_path / "scratch", kill=ran.append, save=saved.append, steps=steps)
    assert ran == []
    assert _equal(weights, expected[0])
    pd.testing.assert_frame_equal(history, expected[1])
    pd.testing.assert_frame_equal(saved[0], expected[1])
    assert not (tmp_path / "scratch").exists()


def test_a_checkpoint_cut_short_is_discarded(tmp_path, uninterrupted):
    scratch = tmp_path / "scratch"
    _kill_at(13, scratch)
    newest = scratch / "checkpoint-10"
    (newest / COMPLETE).unlink()
    (newest / "model.safetensors").write_bytes(b"half a file")
    steps = []
    weights, _ = train_toy(scratch, kill=lambda at: steps.append(at))
    assert steps[0] == 6
    assert _equal(weights, uninterrupted[0])


def test_state_of_another_recipe_is_refused_in_words(tmp_path):
    scratch = tmp_path / "scratch"
    _kill_at(8, scratch)
    with pytest.raises(ScratchError, match=r"unfinished state of another run \(different learning_rate, seed\)"):
        train_toy(scratch, learning_rate=0.2, seed=3)
    assert (scratch / "checkpoint-5" / COMPLETE).is_file()


def test_state_of_another_world_size_is_refused(tmp_path):
    scratch = tmp_path / "scratch"
    _kill_at(8, scratch)
    claim = json.loads((scratch / "run.json").read_text())
    (scratch / "run.json").write_text(json.dumps({**claim, "world_size": 8}))
    with pytest.raises(ScratchError, match="different world_size"):
        train_toy(scratch)


def test_an_unknown_recipe_key_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown recipe key\(s\) \['epochs'\]; known: .*'batch_size'.*'steps'"):
        Recipe.of({**RECIPE, "epochs": 3})


def test_a_checkpoint_between_two_rows_is_refused():
    with pytest.raises(ValueError, match=r"save_every \(5\) must be a multiple of log_every \(2\)"):
        Recipe.of({**RECIPE, "log_every": 2})


def test_a_batch_that_cannot_be_split_is_refused(tmp_path, monkeypatch):
    hardware = {"gradient_accumulation_steps": 3}
    with pytest.raises(ValueError, match="batch_size 4 cannot be split over 1 ranks x 3 accumulation steps"):
        fit(ToyModel(), toy_data(), Recipe.of(RECIPE), tmp_path / "scratch", hardware=hardware)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ValueError, match="over 8 ranks"):
        fit(ToyModel(), toy_data(), Recipe.of(RECIPE), tmp_path / "scratch")


def test_accumulated_batches_train_like_whole_ones(tmp_path):
    """The same four examples a step in one forward or in two."""
    histories = []
    for accumulation in (1, 2):
        torch.manual_seed(0)
        model, hardware = ToyModel(dropout=0.0), {"gradient_accumulation_steps": accumulation}
        recipe = Recipe.of({**RECIPE, "steps": 10})
        histories.append(fit(model, toy_data(), recipe, tmp_path / str(accumulation), hardware=hardware))
    pd.testing.assert_frame_equal(*histories, atol=1e-3)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"learning_rate": float("inf")}, "at step 2: the loss is (nan|inf)"),
        ({"weight_decay": float("nan")}, "at step 2: the loss is nan"),
        ({"learning_rate": float("inf"), "steps": 1, "warmup_steps": 0}, "by step 1: linear.weight, linear.bias hold"),
    ],
)
def test_a_training_that_diverges_ends_in_words_and_saves_nothing(tmp_path, recipe, message):
    """The library writes the mean of the steps before in place of such a loss, and goes on to the end."""
    saved = []
    with pytest.raises(DivergedError, match=message):
        train_toy(tmp_path / "scratch", save=saved.append, **{"warmup_steps": 0, **recipe})
    assert saved == []
    assert list((tmp_path / "scratch").glob(f"checkpoint-*/{COMPLETE}")) == []


class Spoiled(ToyModel):
    """From a step on, its loss or its gradients are no numbers."""

    def __init__(self, what: str, value: float, at: int = 7) -> None:
        super().__init__()
        self.what, self.value, self.at = what, value, at

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = super().forward(inputs, labels)
        if int(self.step) == self.at and self.what == "loss":
            outputs["loss"] = outputs["loss"] * self.value
        elif int(self.step) == self.at:
            outputs["loss"].register_hook(lambda gradient: gradient * self.value)
        return outputs


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("what", "words"), [("loss", "loss"), ("gradients", "norm of the gradients")])
def test_the_first_loss_or_gradient_that_is_no_number_ends_a_training(tmp_path, what, words, value):
    torch.manual_seed(0)
    model, recipe = Spoiled(what, value), Recipe.of(RECIPE)
    with pytest.raises(DivergedError, match=f"diverged at step 7: the {words} is (nan|inf); lower the learning rate"):
        fit(model, toy_data(), recipe, tmp_path / "scratch")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())  # the step was not taken
    assert [folder.name for folder in (tmp_path / "scratch").glob("checkpoint-*")] == ["checkpoint-5"]


class Lost(ToyModel):
    """A weight that no loss and no gradient shows is lost at a step."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = torch.nn.Parameter(torch.zeros(3))

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = super().forward(inputs, labels)
        if int(self.step) == 7:
            self.spare.data[1] = float("inf")
        return outputs


@pytest.mark.parametrize(("save_every", "kept"), [(5, ["checkpoint-5"]), (100, [])])
def test_no_checkpoint_holds_weights_that_are_no_numbers(tmp_path, save_every, kept):
    """Between two checkpoints; and at the end, where there is none after the first steps."""
    torch.manual_seed(0)
    saved, recipe = [], Recipe.of({**RECIPE, "save_every": save_every})
    with pytest.raises(DivergedError, match="spare hold NaN or infinity and are not saved"):
        fit(Lost(), toy_data(), recipe, tmp_path / "scratch", save=saved.append)
    assert sorted(folder.parent.name for folder in (tmp_path / "scratch").glob(f"checkpoint-*/{COMPLETE}")) == kept
    assert saved == []


def test_weights_that_are_lost_after_the_last_checkpoint_are_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(RecipeTrainer, "train", lambda self, **_: self.model.spare.data.fill_(float("nan")))
    saved = []
    with pytest.raises(DivergedError, match="spare hold NaN or infinity and are not saved"):
        fit(Lost(), toy_data(), Recipe.of(RECIPE), tmp_path / "scratch", save=saved.append)
    assert saved == []
