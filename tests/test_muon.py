"""Muon: orthogonal steps of the layers' matrices, AdamW's of all else, in one optimiser that resumes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_training import Killed, toy_data

from visdyn.training.engine.fit import Recipe, fit
from visdyn.training.engine.muon import make_muon, orthogonalise

RECIPE = Recipe(
    steps=12, batch_size=4, learning_rate=0.05, weight_decay=0.1, optimizer="muon", log_every=4, save_every=4
)


class Network(nn.Module):
    """An embedding-like map, two layers, a head and a frozen matrix among the layers."""

    def __init__(self, kill_at: int | None = None) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 1)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)])
        self.layers[2].requires_grad_(False)
        self.steps, self.kill_at = 0, kill_at

    def forward(self, inputs, labels):
        self.steps += 1
        if self.steps == self.kill_at:
            raise Killed
        values = self.first(inputs)
        for layer in self.layers:
            values = values + torch.tanh(layer(values))
        return {"loss": (self.head(values).squeeze(1) - labels).pow(2).mean()}


def _make_network(**arguments) -> Network:
    torch.manual_seed(0)
    return Network(**arguments)


def _take_gradients(network: Network, scale: float = 1.0) -> None:
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    (scale * network(inputs, torch.ones(4))["loss"]).backward()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 12, 40), (2, 40, 12), (1, 1, 8)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ orthogonalise(matrices) @ right.mT  # diagonal where the singular vectors are the same
    lifted = torch.diagonal(turned, dim1=-2, dim2=-1)
    large = values > 0.05 * values.norm(dim=-1, keepdim=True)
    assert ((lifted[large] > 0.65) & (lifted[large] < 1.25)).all()
    assert (turned - torch.diag_embed(lifted)).abs().max() < 1e-9


def test_a_matrix_steps_as_in_torch_up_to_its_bfloat16():
    ours, theirs = _make_network(), _make_network()
    for network in (ours, theirs):
        for layer in network.layers[:2]:  # well conditioned: rounding to bfloat16 is as large as a small singular value
            layer.weight.grad = torch.eye(8) + 0.1 * torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    make_muon(ours, 0.1, lr=0.02).step()
    matrices = [layer.weight for layer in theirs.layers[:2]]
    torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
    for mine, matrix, start in zip(ours.layers[:2], matrices, _make_network().layers[:2], strict=True):
        step, expected = mine.weight - start.weight, matrix - start.weight
        assert (step - expected).norm() < 0.02 * expected.norm()


def test_all_else_steps_by_adamw_and_what_is_frozen_stays():
    ours, theirs, start = _make_network(), _make_network(), _make_network()
    optimizer = make_muon(ours, 0.1, lr=0.02)
    others = {name: value for name, value in theirs.named_parameters() if value.requires_grad and "layers" not in name}
    biases = [layer.bias for layer in theirs.layers[:2]]
    decayed = [value for value in others.values() if value.ndim == 2]
    flat = [value for value in others.values() if value.ndim < 2] + biases
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}], lr=0.02
    )
    _take_gradients(ours), _take_gradients(theirs)
    optimizer.step(), adamw.step()
    for (name, value), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if name not in ("layers.0.weight", "layers.1.weight"):
            assert torch.equal(value, expected), name
    assert torch.equal(ours.layers[2].weight, start.layers[2].weight)


def test_the_size_of_a_gradient_does_not_matter_to_a_matrix():
    small, large = _make_network(), _make_network()
    for network, scale in ((small, 1.0), (large, 100.0)):
        optimizer = make_muon(network, 0.1, lr=0.02)
        _take_gradients(network, scale)
        optimizer.step()
    assert torch.allclose(small.layers[0].weight, large.layers[0].weight, atol=1e-6)


def test_steps_point_along_recent_gradients():
    """A gradient that turns round at every step cancels in the mean; what is left is what the last one says."""
    network = _make_network()
    optimizer, weight = make_muon(network, 0.0, lr=0.02), network.layers[0].weight
    gradient = torch.randn(8, 8, generator=torch.Generator().manual_seed(2))
    moved = []
    for sign in (1, 1, -1):
        before, weight.grad = weight.detach().clone(), sign * gradient
        optimizer.step()
        moved.append(torch.sum((weight - before) * gradient).item())
    assert max(moved[:2]) < 0 < moved[2]


def test_a_killed_run_goes_on_exactly(tmp_path):
    whole, killed = _make_network(), _make_network(kill_at=7)
    history = fit(whole, toy_data(), RECIPE, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(killed, toy_data(), RECIPE, tmp_path / "killed")
    again = _make_network()
    assert fit(again, toy_data(), RECIPE, tmp_path / "killed").equals(history)
    assert again.steps == 8  # from the checkpoint of step 4
    for value, expected in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(value, expected)
    other = _make_network()
    fit(other, toy_data(), Recipe(**{**RECIPE.__dict__, "optimizer": "adamw"}), tmp_path / "other")
    assert not torch.equal(other.layers[0].weight, whole.layers[0].weight)


def test_deepspeed_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="optimizer muon takes whole matrices, which DeepSpeed cuts apart"):
        fit(_make_network(), toy_data(), RECIPE, tmp_path / "scratch", hardware={"deepspeed": "hardware/zero2.json"})
