"""The dynamics recipes: what is trained on, with which weights, and that it learns."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toy_dynamics import job_arguments, lora_of

from visdyn.images import to_pixels
from visdyn.models import load_model
from visdyn.models.token.sequences import TokenSequence, collate
from visdyn.training.arms import deal_labels
from visdyn.training.dynamics import CompletionLoss, train_dynamics
from visdyn.training.losses import recognition_weights
from visdyn.training.triplets import SequenceDataset, _loss_weights, dynamics_dataset, load_triplets, save_triplets
from visdyn.trajectory import Trajectory

ACTIONS = ["open the red cup", "close the cup", "take lamp", "put the blue drawer on"]


@pytest.fixture(scope="module")
def triplets(tiny, scenes, tmp_path_factory):
    """A triplet file of four items; the fourth target equals its source."""
    path = tmp_path_factory.mktemp("triplets") / "deep" / "train.npz"
    save_triplets(path, tiny, list(scenes[:4]), [*scenes[4:7], scenes[3]], ACTIONS)
    return path


def _train(base, triplets, output, **changes):
    train_dynamics(**job_arguments(base, triplets, output, output=str(output), scratch=f"{output}-scratch", **changes))
    return load_model(output)


def _moved(model, base) -> set[str]:
    before = base.lm.state_dict()
    return {name for name, value in model.lm.state_dict().items() if not torch.equal(value, before[name])}


def test_triplets_hold_codes_distances_and_actions(tiny, scenes, triplets):
    data = load_triplets(triplets)
    assert np.array_equal(data["sources"], tiny.encode(list(scenes[:4])))
    assert np.array_equal(data["targets"][:3], tiny.encode(list(scenes[4:7])))
    assert data["actions"].tolist() == ACTIONS
    features = [tiny.vqgan.features(to_pixels(images)) for images in (scenes[:3], scenes[4:7])]
    expected = (features[1] - features[0]).pow(2).sum(1).flatten(1).numpy()
    np.testing.assert_allclose(data["weights"][:3], expected, rtol=1e-4)
    assert not data["weights"][3].any()
    assert load_triplets(triplets, [2, 0])["actions"].tolist() == [ACTIONS[2], ACTIONS[0]]


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_loss_weights_are_the_recognition_weights(tiny, scenes, triplets, floor):
    data = load_triplets(triplets)
    targets = np.concatenate([scenes[4:7], scenes[3:4]])
    features = [tiny.vqgan.features(to_pixels(images)) for images in (scenes[:4], targets)]
    expected = recognition_weights(*features, floor)
    weights = np.stack(_loss_weights(data["weights"], "recognition", floor))
    np.testing.assert_allclose(weights, expected.numpy(), rtol=1e-3, atol=1e-5)
    assert (weights[3] == 1).all()
    assert _loss_weights(data["weights"], "uniform", floor) == [None] * 4


def check_permuted(distances) -> None:
    """Check that each image keeps its weights, on other places, which depend on the seed and the image alone."""
    weights, moved = (np.stack(_loss_weights(distances, name, 0.25, seed=7)) for name in ("recognition", "permuted"))
    np.testing.assert_array_equal(np.sort(moved), np.sort(weights))
    changed = np.ptp(weights, axis=1) > 0
    assert (moved != weights).any(axis=1)[changed].all()
    orders = np.argsort(np.argsort(moved, kind="stable"), kind="stable")
    assert not np.array_equal(orders[0], orders[1])  # no image has another's places
    again = np.stack(_loss_weights(distances[1:], "permuted", 0.25, seed=7, first=1))
    np.testing.assert_array_equal(again, moved[1:])
    other = np.stack(_loss_weights(distances, "permuted", 0.25, seed=8))
    assert (other != moved).any(axis=1)[changed].all()


def test_permuted_weights_keep_their_values_and_lose_their_places():
    distances = np.random.default_rng(0).exponential(size=(5, 64)).astype(np.float32)
    distances[4] = 0  # an image without change weighs 1 everywhere
    check_permuted(distances)


@pytest.mark.parametrize("broken", [lambda weights, seed, first=0: weights,
                                    lambda weights, seed, first=0: weights[:, torch.randperm(64)],
                                    lambda weights, seed, first=0: weights.flip(0)])  # fmt: skip
def test_a_permutation_that_keeps_the_order_or_moves_all_alike_would_be_seen(monkeypatch, broken):
    monkeypatch.setattr("visdyn.training.triplets.permute_places", broken)
    with pytest.raises(AssertionError):
        test_permuted_weights_keep_their_values_and_lose_their_places()


def test_dealt_labels_are_the_same_labels_on_other_pairs():
    own = [Trajectory(f"{row}.png", f"open cup {row}", f"{row}-t.png", "ucf", str(row)) for row in range(50)]
    dealt = deal_labels(own, 3)
    assert sorted(item.action for item in dealt) == sorted(item.action for item in own)
    assert sum(item.action == mine.action for item, mine in zip(dealt, own, strict=True)) < 5
    assert [replace(item, action="open") for item in dealt] == [replace(item, action="open") for item in own]
    assert dealt == deal_labels(own, 3) != deal_labels(own, 4)
    assert deal_labels([], 3) == []


@torch.inference_mode()
def test_the_completion_loss_is_the_weighted_mean_over_completions(tiny, grids):
    """Against one unpadded forward for each sequence."""
    builder, weights = tiny.builder, np.linspace(0, 2, 16, dtype=np.float32)
    items = [builder.forward(grids[row], action, grids[row + 4], weights) for row, action in enumerate(ACTIONS)]
    items.append(builder.inverse(grids[0], grids[1], "take lamp"))
    total, norm = 0.0, 0.0
    for item in items:
        ids = torch.from_numpy(np.concatenate([item.prompt, item.completion]))[None]
        logits = tiny.lm(input_ids=ids).logits[0, len(item.prompt) - 1 : -1]
        nll = -logits.log_softmax(-1).gather(1, torch.from_numpy(item.completion)[:, None]).squeeze(1)
        total += float((nll * torch.from_numpy(item.weights)).sum())
        norm += float(item.weights.sum())
    loss = CompletionLoss(tiny.lm)(**collate(items, tiny.layout.pad))["loss"]
    assert float(loss) == pytest.approx(total / norm, abs=1e-4)


@pytest.mark.parametrize("task", ["fdm", "idm"])
def test_the_recipe_learns_its_triplets(tiny, tiny_folder, triplets, scenes, tmp_path, task):
    training = {"steps": 60, "learning_rate": 1e-2, "log_every": 10}
    model = _train(tiny_folder, triplets, tmp_path / task, data={"task": task}, training=training)
    history = pd.read_csv(tmp_path / task / "training.csv")
    assert history["step"].tolist() == [10, 20, 30, 40, 50, 60]
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]
    sources, targets = list(scenes[:3]), list(scenes[4:7])
    if task == "idm":
        assert model.inverse_dynamics.predict(sources, targets) == ACTIONS[:3]
    else:
        arguments = (sources, ACTIONS[:3], targets)
        before = tiny.forward_dynamics.log_likelihood(*arguments)
        assert (model.forward_dynamics.log_likelihood(*arguments) > before + 0.5).all()
    assert not (tmp_path / f"{task}-scratch").exists()


def test_weighting_changes_what_is_learnt(tiny_folder, triplets, tmp_path):
    uniform = _train(tiny_folder, triplets, tmp_path / "uniform")
    full = _train(tiny_folder, triplets, tmp_path / "floor-1", data={"weighting": "recognition", "floor": 1.0})
    weighted = _train(tiny_folder, triplets, tmp_path / "weighted", data={"weighting": "recognition", "floor": 0.0})
    assert not _moved(full, uniform)
    assert _moved(weighted, uniform)
    permuted = _train(tiny_folder, triplets, tmp_path / "permuted", data={"weighting": "permuted", "floor": 0.0})
    assert _moved(permuted, weighted)


def test_files_are_concatenated(tiny, triplets):
    seen = dynamics_dataset([str(triplets)] * 2, tiny.builder, "idm")
    assert len(seen) == 8
    assert seen[0].prompt.tolist() == seen[4].prompt.tolist() != seen[1].prompt.tolist()


def test_an_adapter_is_trained_and_read_back(tiny, tiny_folder, triplets, tmp_path):
    lora = lora_of(modules_to_save=("lm_head",))
    model = _train(tiny_folder, triplets, tmp_path / "lora", lora=lora, training={"steps": 5})
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert settings["r"] == 2
    assert not (tmp_path / "lora" / "model.safetensors").exists()
    moved = _moved(model, tiny)
    assert {name.rpartition(".layers.")[2].split(".")[2] for name in moved if ".layers." in name} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert "lm_head.weight" in moved
    assert "model.embed_tokens.weight" not in moved


def test_an_adapter_finds_its_base_after_both_were_moved(tiny_folder, triplets, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(tiny_folder, project / "models/base")
    folder = project / "models/fdm/arm-s0"
    _train(project / "models/base", triplets, folder, lora=lora_of(), training={"steps": 1})
    assert str(tmp_path) not in (folder / "adapter_config.json").read_text()
    project.rename(tmp_path / "clone")
    load_model(tmp_path / "clone/models/fdm/arm-s0")
    shutil.rmtree(tmp_path / "clone/models/base")
    with pytest.raises(FileNotFoundError, match="adapts base, which is no folder beside or above it"):
        load_model(tmp_path / "clone/models/fdm/arm-s0")


def test_gradient_checkpointing_reaches_the_language_model(tiny_folder, triplets, tmp_path):
    plain = _train(tiny_folder, triplets, tmp_path / "plain")
    again = _train(tiny_folder, triplets, tmp_path / "again", hardware={"activation_checkpointing": True})
    for name, value in plain.lm.state_dict().items():
        torch.testing.assert_close(again.lm.state_dict()[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"task": "sideways"}, "unknown task 'sideways'; one of idm, fdm"),
        ({"task": "idm", "weighting": "recognition"}, "an IDM's actions are weighted uniformly"),
        ({"weighting": "loud"}, "unknown weighting 'loud'; one of uniform, recognition"),
        ({"weighting": "recognition", "floor": 2.0}, "floor must be in"),
    ],
)
def test_unknown_settings_are_refused(tiny_folder, triplets, tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        _train(tiny_folder, triplets, tmp_path / "output", data=data)


def test_batches_of_like_length_are_for_mixtures_alone():
    """Grouped by length, an IDM's batches would each hold actions of one length, and give it away."""
    sequences = [TokenSequence(np.arange(3), np.arange(length), np.ones(length)) for length in (2, 5)]
    assert not hasattr(SequenceDataset(sequences), "lengths")
    assert SequenceDataset(sequences, grouped=True).lengths == [5, 8]
