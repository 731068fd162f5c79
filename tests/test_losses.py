"""The weighted cross entropy against its plain form, and the laws of the recognition weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.training import losses
from visdyn.training.losses import normalise_weights, recognition_weights, weighted_cross_entropy


def _case(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(3, 7, 8, generator=generator)
    head = torch.randn(11, 8, generator=generator)
    targets = torch.randint(0, 11, (3, 7), generator=generator)
    targets[0, :3] = targets[2, 4] = losses.IGNORED
    return hidden, head, targets, torch.rand(3, 7, generator=generator) * 3


def _plain(hidden, head, targets, weights):
    """sum(w * nll) / sum(w) over the targets that count, from all logits at once."""
    kept = targets != losses.IGNORED
    nll = -(hidden @ head.T).log_softmax(-1)[kept].gather(1, targets[kept][:, None]).squeeze(1)
    return (nll * weights[kept]).sum() / weights[kept].sum()


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 20, 21, 4096])
@pytest.mark.parametrize("weighted", [True, False])
def test_chunked_loss_equals_the_plain_one(chunk_size, weighted):
    hidden, head, targets, weights = _case()
    weights = weights if weighted else torch.ones_like(weights)
    results = []
    for function in (
        lambda h, w: weighted_cross_entropy(h, w, targets, weights if weighted else None, chunk_size),
        lambda h, w: _plain(h, w, targets, weights),
    ):
        leaves = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = function(*leaves)
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


def test_ignored_targets_do_not_count():
    hidden, head, targets, weights = _case()
    loss = weighted_cross_entropy(hidden, head, targets, weights, 4)
    changed, other = hidden.clone(), weights.clone()
    changed[targets == losses.IGNORED], other[targets == losses.IGNORED] = 100.0, 100.0
    torch.testing.assert_close(weighted_cross_entropy(changed, head, targets, other, 4), loss)
    nothing = torch.full_like(targets, losses.IGNORED)
    assert weighted_cross_entropy(hidden, head, nothing, weights) == 0


def test_the_scale_of_the_weights_does_not_matter():
    hidden, head, targets, weights = _case()
    loss = weighted_cross_entropy(hidden, head, targets, weights)
    torch.testing.assert_close(weighted_cross_entropy(hidden, head, targets, weights * 7), loss)
    alone = torch.zeros_like(weights)
    alone[1, 2] = 0.3
    expected = F.cross_entropy(hidden[1, 2] @ head.T, targets[1, 2])
    torch.testing.assert_close(weighted_cross_entropy(hidden, head, targets, alone), expected)


def test_logits_of_low_precision_are_summed_in_fp32():
    hidden, head, targets, weights = _case()
    loss = weighted_cross_entropy(hidden.bfloat16(), head.bfloat16(), targets, weights, 5)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, _plain(hidden, head, targets, weights), atol=0.05, rtol=0.05)


def test_distances_are_squared_and_summed_over_channels():
    source, target = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 3)
    target[0, :, 1, 0] = torch.tensor([3.0, -4.0])
    assert recognition_weights(source, target, normalization="none").tolist() == [
        [0, 0, 0, 25, 0, 0]
    ]  # row-major: row 1, column 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(1e-3, 1e3))
def test_mean_normalised_weights_average_one(seed, floor, scale):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(3, 4, 2, 5, generator=generator) * scale
    target = torch.randn(3, 4, 2, 5, generator=generator) * scale
    target[2] = source[2]
    weights = recognition_weights(source, target, floor)
    assert weights.shape == (3, 10)
    torch.testing.assert_close(weights.mean(1), torch.ones(3), atol=1e-4, rtol=0)
    assert (weights >= floor - 1e-6).all()
    assert (weights[2] == 1).all()
    torch.testing.assert_close(recognition_weights(target, source, floor), weights)


def test_the_floor_mixes_in_a_uniform_part():
    distances = torch.tensor([[0.0, 1.0, 3.0, 0.0]])
    torch.testing.assert_close(normalise_weights(distances), torch.tensor([[0.0, 1.0, 3.0, 0.0]]))
    torch.testing.assert_close(normalise_weights(distances * 9, 0.5), torch.tensor([[0.5, 1.0, 2.0, 0.5]]))
    assert normalise_weights(distances, 1.0).tolist() == [[1, 1, 1, 1]]


def test_other_normalisations():
    distances = torch.tensor([[0.0, 1.0, 4.0], [0.0, 0.0, 0.0]])
    assert normalise_weights(distances, normalization="max").tolist() == [[0, 0.25, 1], [1, 1, 1]]
    assert torch.equal(normalise_weights(distances, normalization="none"), distances)
    assert normalise_weights(distances, 0.5, "none").tolist() == [[0.5, 1, 2.5], [0.5, 0.5, 0.5]]


@pytest.mark.parametrize("normalization", ["mean", "max", "none"])
def test_recognition_weights_are_distances_normalised(normalization):
    source, target = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    distances = recognition_weights(source, target, normalization="none")
    expected = normalise_weights(distances, 0.3, normalization)
    assert torch.equal(recognition_weights(source, target, 0.3, normalization), expected)


@pytest.mark.parametrize("floor", [-0.1, 1.5, float("nan")])
def test_a_floor_outside_its_range_is_refused(floor):
    with pytest.raises(ValueError, match="floor must be in"):
        recognition_weights(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), floor)


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="one of mean, max, none"):
        normalise_weights(torch.zeros(1, 2), normalization="median")
