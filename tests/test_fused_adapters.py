"""Unmerged adapters in groups: what peft computes, in a quarter of its launches, and nothing else of it changed."""

from __future__ import annotations
import __future__

import inspect
import textwrap

import numpy as np
import pytest
import torch
from kernel_counts import LAYERS, LAYOUT_7B, Kernels, chameleon_7b, meta_bfloat16
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from performance_bars import check_bar
from tiny_tokens import tiny_decoder

from visdyn.models import fused_adapters
from visdyn.models.dynamics_pair import AdaptedLM
from visdyn.models.fused_adapters import fuse_adapters
from visdyn.models.token.image_decoder import ImageDecoder
from visdyn.models.token.tokens import TokenLayout
from visdyn.training.dynamics import LORA_TARGETS

LAYOUT = TokenLayout(0, 1, 2, 4, 5, 6, 20, 16)
IDS = torch.from_numpy(np.random.default_rng(0).integers(7, 36, (3, 9)))
# Of another rank, scale and choice of maps each, so that no two groups have the same members.
ADAPTERS = {
    "fdp": {"target_modules": list(LORA_TARGETS), "r": 4, "lora_alpha": 12},
    "idp": {"target_modules": ["q_proj", "v_proj", "down_proj"], "r": 2, "lora_alpha": 2},
}


@pytest.fixture(params=["chameleon", "liquid"])
def adapted(request):
    """A random decoder of either family with two random adapters; Gemma's has fewer heads of keys than of queries."""
    model = lm = tiny_decoder(request.param, LAYOUT, key_heads=1)
    for name, options in ADAPTERS.items():
        config = LoraConfig(lora_dropout=0.1, task_type="CAUSAL_LM", **options)
        if model is lm:
            model = get_peft_model(lm, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)
    return model.eval()


@torch.inference_mode()
def _states(adapted, ids=IDS) -> dict[str, torch.Tensor]:
    """The last states of each adapter, asked in turns."""
    found = {}
    for name in ("fdp", "idp", "fdp"):
        adapted.set_adapter(name)
        found[name] = adapted.get_base_model().model(input_ids=ids, use_cache=False).last_hidden_state
    return found


def _check(adapted) -> None:
    wanted, disorder, number = _states(adapted), _ask_in_disorder(adapted), fuse_adapters(adapted)
    assert number == 2 * len(LORA_TARGETS)
    torch.testing.assert_close(_ask_in_disorder(adapted), disorder, atol=1e-5, rtol=1e-5)
    for ids in (IDS, IDS[:1], IDS):
        found = _states(adapted, ids)
        for name, states in wanted.items():
            torch.testing.assert_close(found[name], states[: len(ids)], atol=1e-5, rtol=1e-5)


def test_the_states_are_pefts_whichever_adapter_is_on(adapted):
    _check(adapted)
    with adapted.disable_adapter(), torch.inference_mode():
        bare = adapted.get_base_model().model(input_ids=IDS, use_cache=False).last_hidden_state
    assert all((states - bare).abs().max() > 0.1 for states in _states(adapted).values())


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [
        (fused_adapters._Factors.of.__func__, " * maps[number].scaling[name]", ""),
        (fused_adapters._Factors.of.__func__, "slice(end, end + len(block))", "slice(0, len(block))"),
        (fused_adapters._AdapterGroup.apply, "self.waiting.pop(number)", "self.waiting[number]"),
        (fused_adapters._AdapterGroup.apply, "self.read is not states or ", ""),
        (fused_adapters._AdapterGroup.apply, "number not in factors.places", "False"),
        (fused_adapters._AdapterGroup.apply, "layer.base_layer.weight.t()", "layer.base_layer.weight.t() * 1.01"),
    ],
)
def test_a_wrong_factor_place_or_turn_would_be_seen(adapted, monkeypatch, function, old, new):
    source = textwrap.dedent(inspect.getsource(function)).removeprefix("@classmethod\n")
    assert source.count(old) == 1
    made: dict = {}
    code = compile(source.replace(old, new), function.__name__, "exec", __future__.annotations.compiler_flag)
    exec(code, function.__globals__, made)
    monkeypatch.setattr(function, "__code__", made[function.__name__].__code__)
    with pytest.raises((AssertionError, KeyError)):
        _check(adapted)


@torch.inference_mode()
def _ask_in_disorder(adapted) -> list[torch.Tensor]:
    """One map twice, and the next of its group about other states, as no decoder does."""
    layer = adapted.get_base_model().model.layers[0].self_attn
    one, other = torch.randn(2, 2, 3, 32, generator=torch.Generator().manual_seed(0))
    return [layer.q_proj(one), layer.q_proj(one), layer.v_proj(other), layer.k_proj(one)]


def test_in_bfloat16_the_error_is_no_larger_than_pefts(adapted):
    exact = _states(adapted)
    adapted.to(torch.bfloat16)
    before = _states(adapted)
    fuse_adapters(adapted)
    after = _states(adapted)
    for name, states in exact.items():
        errors = [(found[name].float() - states).square().mean().sqrt() for found in (before, after)]
        assert 0 < errors[1] < 1.25 * errors[0]


def test_training_and_what_is_saved_are_pefts(adapted):
    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        adapted.set_adapter("fdp")
        adapted.zero_grad()
        states = adapted.train().get_base_model().model(input_ids=IDS, use_cache=False).last_hidden_state
        states.square().sum().backward()
        return {name: value.grad.clone() for name, value in adapted.named_parameters() if value.grad is not None}

    wanted, saved = gradients(), get_peft_model_state_dict(adapted, adapter_name="idp")
    names = list(adapted.state_dict())
    fuse_adapters(adapted)
    found = gradients()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())
    assert list(adapted.state_dict()) == names
    again = get_peft_model_state_dict(adapted, adapter_name="idp")
    assert all(torch.equal(value, again[name]) for name, value in saved.items())


def test_other_adapters_than_plain_ones_stay_pefts(adapted):
    options = {"target_modules": ["q_proj", "up_proj"], "r": 2, "use_dora": True, "task_type": "CAUSAL_LM"}
    adapted.add_adapter("dora", LoraConfig(**options))
    wanted = _states(adapted)
    assert fuse_adapters(adapted) == 2 * (len(LORA_TARGETS) - 2)
    for name, states in _states(adapted).items():
        torch.testing.assert_close(states, wanted[name], atol=1e-5, rtol=1e-5)


def _kernels_a_token(lm) -> int:
    """Kernels of a code in the middle of an image of Chameleon-7B's."""
    decoder = ImageDecoder(lm, LAYOUT_7B, 1.0, 1.0, staged=True)
    draws = torch.empty(1, 1, 1024, dtype=torch.float64)
    decoder._start(torch.empty(1, 1032, dtype=torch.int64), draws, None)
    with Kernels() as kernels:
        decoder._step(decoder.stages[1])
    return kernels.count


@torch.inference_mode()
def test_a_decoded_token_launches_eight_kernels_more_a_layer_not_28():
    lm = chameleon_7b()
    plain = _kernels_a_token(lm)
    with meta_bfloat16():
        config = LoraConfig(target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM", init_lora_weights=False)
        adapted = get_peft_model(lm, config, adapter_name="fdp", autocast_adapter_dtype=False).eval()
        alone = _kernels_a_token(AdaptedLM(adapted, "fdp"))
        fuse_adapters(adapted)
        fused = _kernels_a_token(AdaptedLM(adapted, "fdp"))
    assert plain > 1000
    assert alone - plain == 28 * LAYERS  # so that the counter counts
    check_bar("kernels that unmerged adapters add to a code", fused - plain)
