"""Decoder layers compiled one by one: the same step, few graphs for many lengths, fewer activations kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch._dynamo
import torch._functorch.config
from conftest import WORDS
from performance_bars import check_bar
from tiny_tokens import save_trained_families
from torch._dynamo.utils import counters
from toy_dynamics import job_arguments, lora_of

from visdyn.models.token.chameleon import ChameleonLM, tiny_config
from visdyn.models.token.sequences import TokenSequence, collate
from visdyn.models.token.tokens import TokenLayout
from visdyn.models.token.unified import UnifiedModel
from visdyn.training.dynamics import CompletionLoss, add_adapter, train_dynamics
from visdyn.training.engine import compiled
from visdyn.training.engine.compiled import compile_layers
from visdyn.training.engine.sharding import widen_trained

LAYOUT = TokenLayout(0, 1, 2, 4, 5, 6, 20, 16)
LENGTHS = [*range(24, 60, 2), 61, 64]
WIDTH, LAYERS_7B, LENGTH_7B = 4096, 32, 2060


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """A compiler without C++: its graphs are what is counted. It forgets what other tests compiled."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager_decomp_partition")
    torch._dynamo.reset()
    counters.clear()
    with torch._functorch.config.patch(ban_recompute_materialized_backward=True):  # set back at the end
        yield
    torch._dynamo.reset()


def _loss(width: int = 32, layers: int = 4, rank: int = 2, dtype=torch.float32) -> CompletionLoss:
    """A random Chameleon of the 7B's proportions, with adapters that do something; its base is frozen."""
    torch.manual_seed(0)
    config = tiny_config(36, LAYOUT, 7, width, width * 43 // 16, layers, max(2, width // 128))
    lm = ChameleonLM._from_config(config, attn_implementation="sdpa", dtype=dtype)
    model = UnifiedModel(lm, None, None)
    add_adapter(model, "random", lora_of(rank=rank))
    widen_trained(model.lm)
    for name, parameter in model.lm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)
    return CompletionLoss(model.lm).train()


def _batch(length: int, size: int = 2) -> dict[str, torch.Tensor]:
    """Sequences of unequal lengths, of which the longest has `length` tokens."""
    draw = np.random.default_rng(length)
    rows = [
        TokenSequence(draw.integers(7, 36, length - 10 - 3 * row), draw.integers(7, 36, 10), np.ones(10, np.float32))
        for row in range(size)
    ]
    return collate(rows, LAYOUT.pad)


def _gradients(loss: CompletionLoss, batch: dict) -> dict[str, torch.Tensor]:
    loss.zero_grad()
    value = loss(**batch)["loss"]
    value.backward()
    found = {name: one.grad.clone() for name, one in loss.named_parameters() if one.grad is not None}
    return found | {"loss": value.detach()}


def test_twenty_lengths_take_four_graphs_at_most_without_a_break_and_give_the_same_step():
    plain, fast = _loss(), _loss()
    names = list(fast.state_dict())
    assert compile_layers(fast) == 4
    for length in LENGTHS:
        wanted, found = (_gradients(model, _batch(length)) for model in (plain, fast))
        scale = max(float(value.abs().max()) for value in wanted.values())
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name] / scale, value / scale, atol=1e-5, rtol=0, msg=name)
    assert len(LENGTHS) == 20
    assert counters["stats"]["unique_graphs"] >= 1
    check_bar("graphs of compiled layers over 20 lengths", counters["stats"]["unique_graphs"])
    check_bar("breaks of compiled layers over 20 lengths", sum(counters["graph_break"].values()))
    assert list(fast.state_dict()) == names


def test_what_is_not_traced_would_be_seen(monkeypatch):
    """Lengths that are taken as they come make a graph each, until torch gives up."""
    fast, compile_one = _loss(layers=1), torch.nn.Module.compile

    def compile_each(self, **options):
        compile_one(self, **options | {"dynamic": False})

    monkeypatch.setattr(torch.nn.Module, "compile", compile_each)
    compile_layers(fast)
    for length in LENGTHS[:6]:
        _gradients(fast, _batch(length))
    assert counters["stats"]["unique_graphs"] > 4


def _kept_gib(fast: bool) -> float:
    """GiB of activations that a sequence of 2,060 tokens keeps in 32 layers, from two layers of an eighth the width."""
    loss, length = _loss(WIDTH // 8, 2, 2, torch.bfloat16), 128
    if fast:
        compile_layers(loss)
    own = {one.untyped_storage()._cdata for one in loss.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    batch, sizes = _batch(length, 1), []
    decoder = loss.lm.get_base_model().model
    # From the first layer's input to the last one's output: hooks of the layers themselves would be traced.
    decoder.embed_tokens.register_forward_hook(lambda *_: kept.clear())
    decoder.norm.register_forward_pre_hook(
        lambda *_: sizes.append(sum(one.untyped_storage().nbytes() for one in kept.values()))
    )
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(**batch)["loss"]
    return sizes[0] / 2 / length * 8 * LENGTH_7B * LAYERS_7B / 2**30


def test_a_sequence_of_7b_keeps_seven_gib_of_activations():
    """Without dropout, whose masks Inductor draws again from a seed; uncompiled they make it 16 GiB."""
    plain, fast = _kept_gib(fast=False), _kept_gib(fast=True)
    assert plain > 10
    assert 3 < fast < plain
    check_bar("activations kept of a sequence of 7B, compiled layers", fast)


@pytest.mark.parametrize("family", ["chameleon", "liquid"])
def test_a_training_is_asked_for_it_by_its_hardware(tiny_folder, tmp_path, family, capsys):
    (tmp_path / "world").mkdir()
    base, triplets = save_trained_families(tmp_path / "world", tiny_folder, WORDS)[family]
    losses = []
    for name, hardware in (("plain", None), ("fast", {"compile_layers": True, "activation_checkpointing": True})):
        arguments = job_arguments(base, triplets, tmp_path / name, lora=lora_of(), hardware=hardware)
        train_dynamics(**arguments)
        losses.append(pd.read_csv(tmp_path / name / "out/training.csv")["loss"])
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-5)
    assert "2 decoder layers are compiled at the first step" in capsys.readouterr().out
    assert counters["stats"]["unique_graphs"] >= 1
