"""The chunked cross entropy at its edges: memory, frozen and tied heads, autocast. Values are in test_losses.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from visdyn.training import chunked_cross_entropy
from visdyn.training.losses import IGNORED, weighted_cross_entropy

ROWS, WIDTH, VOCABULARY, CHUNK = 24, 8, 500, 5


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = [item.numel() for item in tree_leaves(result) if isinstance(item, torch.Tensor)]
        self.elements = max([self.elements, *made])
        return result


def _case(dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator).to(dtype)
    head = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype)
    targets = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    targets[3] = targets[-1] = IGNORED
    return hidden, head, targets, torch.rand(ROWS, generator=generator) * 2


def _plain(hidden, head, targets, weights):
    nll = F.cross_entropy(F.linear(hidden, head).float(), targets, ignore_index=IGNORED, reduction="none")
    return (nll * weights).sum() / weights[targets != IGNORED].sum()


def _gradients(function, hidden, head, *rest, frozen: bool = False):
    leaves = hidden.clone().requires_grad_(), head.clone().requires_grad_(not frozen)
    loss = function(*leaves, *rest)
    loss.backward()
    return loss.detach(), leaves[0].grad, leaves[1].grad


def test_no_tensor_is_as_large_as_the_logits_of_two_chunks():
    hidden, head, *rest = _case()
    with Largest() as chunked:
        _gradients(lambda *a: weighted_cross_entropy(*a, CHUNK), hidden, head, *rest)
    with Largest() as plain:
        _gradients(_plain, hidden, head, *rest)
    assert plain.elements == ROWS * VOCABULARY
    assert chunked.elements == max(CHUNK, WIDTH) * VOCABULARY  # the head's own gradient is WIDTH rows


def test_the_default_chunk_follows_the_vocabulary(monkeypatch):
    hidden, head, *rest = _case()
    monkeypatch.setattr(chunked_cross_entropy, "CHUNK_ELEMENTS", 3 * VOCABULARY + 7)
    with Largest() as largest:
        loss = _gradients(weighted_cross_entropy, hidden, head, *rest, frozen=True)[0]
    assert largest.elements == WIDTH * VOCABULARY  # the head itself, cloned as a leaf
    torch.testing.assert_close(loss, _plain(hidden, head, *rest), atol=1e-5, rtol=0)


def test_a_frozen_head_gets_no_gradient_and_costs_none():
    hidden, head, *rest = _case()
    ours = _gradients(lambda *a: weighted_cross_entropy(*a, CHUNK), hidden, head, *rest, frozen=True)
    plain = _gradients(_plain, hidden, head, *rest, frozen=True)
    assert ours[2] is None
    for left, right in zip(ours[:2], plain[:2], strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


def test_a_head_tied_to_the_embeddings_gets_both_gradients():
    _, head, targets, weights = _case()
    ids, gradients = torch.arange(ROWS), []
    for function in (lambda *a: weighted_cross_entropy(*a, CHUNK), _plain):
        table = head.clone().requires_grad_()
        function(F.embedding(ids, table).tanh(), table, targets, weights).backward()
        gradients.append(table.grad)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weights_dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_it_is_the_plain_loss_under_autocast(weights_dtype):
    hidden, head, *rest = _case(weights_dtype)
    with torch.autocast("cpu", torch.bfloat16):
        ours = _gradients(lambda *a: weighted_cross_entropy(*a, CHUNK), hidden, head, *rest)
        plain = _gradients(_plain, hidden, head, *rest)
    torch.testing.assert_close(ours[0], plain[0], atol=1e-5, rtol=0)  # both from logits in bfloat16
    for left, right in zip(ours[1:], plain[1:], strict=True):
        assert left.dtype == weights_dtype
        torch.testing.assert_close(left.float(), right.float(), atol=2e-3, rtol=2e-2)


def test_the_loss_scales_its_gradients_and_computes_none_for_an_evaluation(monkeypatch):
    hidden, head, *rest = _case()
    one = _gradients(lambda *a: weighted_cross_entropy(*a, CHUNK), hidden, head, *rest)
    three = _gradients(lambda *a: 3 * weighted_cross_entropy(*a, CHUNK), hidden, head, *rest)
    for left, right in zip(three, one, strict=True):
        torch.testing.assert_close(left, 3 * right)
    monkeypatch.delattr(chunked_cross_entropy, "_add_product")
    with torch.no_grad():
        loss = weighted_cross_entropy(hidden, head.requires_grad_(), *rest, CHUNK)
    torch.testing.assert_close(loss, one[0])
