"""Two adapters on one resident base answer as two merged models do, in any order of use."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from tiny_tokens import save_adapted, save_adapter

from visdyn.models import load_model
from visdyn.models.adapters import make_portable
from visdyn.models.dynamics_pair import DynamicsPair, load_dynamics, shares_base
from visdyn.models.token.decoding import uniforms

ACTIONS = ["open the cup", "close the red cup", "take lamp"]


@pytest.fixture(scope="module", params=["chameleon", "liquid"])
def folders(request, tiny_folder, tmp_path_factory):
    """A base and two adapters of it, each with prompts of its own."""
    root = save_adapted(tmp_path_factory.mktemp("pair"), request.param, tiny_folder)
    for name in ("fdm", "idm"):
        (root / name / "dynamics.json").write_text('{"fdm_prompt": "take {action}", "idm_prompt": "open"}')
    return root


@pytest.fixture(scope="module")
def pair(folders):
    return DynamicsPair.from_pretrained(folders / "fdm", folders / "idm", batch_size=2)


def _forward(role, scenes):
    return role.log_likelihood(list(scenes[:3]), ACTIONS, list(scenes[3:6]))


def _inverse(role, scenes):
    return role.log_likelihood(list(scenes[:3]), list(scenes[3:6]), ACTIONS)


def test_the_pair_equals_merged_models_whichever_is_asked_next(folders, pair, scenes):
    merged = load_model(folders / "fdm", "fdp"), load_model(folders / "idm", "idp")
    expected = _forward(merged[0], scenes), _inverse(merged[1], scenes)
    for _ in range(2):
        torch.testing.assert_close(_forward(pair.forward_dynamics, scenes), expected[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(_inverse(pair.inverse_dynamics, scenes), expected[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(_inverse(pair.inverse_dynamics, scenes), expected[1], atol=1e-4, rtol=0)


def test_the_adapters_and_the_base_differ(folders, pair, scenes):
    """So that a wrong adapter, or none, would be seen above."""
    base = load_model(folders / "base")
    other = load_model(folders / "idm")
    found = _forward(pair.forward_dynamics, scenes)
    for model in (base, other):
        assert ((_forward(model.forward_dynamics, scenes) - found).abs() > 1e-2).all()


def test_samples_of_the_pair_are_those_of_the_merged_model(folders, pair, scenes, monkeypatch):
    draws = torch.stack([uniforms(3, 16, torch.Generator().manual_seed(row)) for row in range(2)])
    codes = pair.forward.encode(list(scenes[:2]))
    merged = load_model(folders / "fdm", "fdp")
    _inverse(pair.inverse_dynamics, scenes)  # leaves the other adapter on
    for decoding in ("plain", "draft"):
        role, plain = (type(merged)(model, decoding=decoding) for model in (pair.forward, merged.model))
        assert np.array_equal(
            role.sample_codes(codes, ACTIONS[:2], draws), plain.sample_codes(codes, ACTIONS[:2], draws)
        )
    assert pair.inverse_dynamics.predict(list(scenes[:2]), list(scenes[2:4])) == load_model(
        folders / "idm", "idp"
    ).predict(list(scenes[:2]), list(scenes[2:4]))


def test_one_base_is_in_memory_and_each_role_keeps_its_prompts(pair):
    assert pair.forward.lm.model is pair.inverse.lm.model
    assert pair.forward.vqgan is pair.inverse.vqgan
    assert pair.forward.builder.fdm_prompt == "take {action}"
    assert (pair.forward.name, pair.inverse.name) == ("fdm", "idm")
    assert not any(parameter.requires_grad for parameter in pair.forward.lm.parameters())


def test_shared_prefixes_and_half_precision_work_over_the_pair(folders, scenes):
    expected = _inverse(load_model(folders / "idm", "idp"), scenes)
    shared = DynamicsPair.from_pretrained(folders / "fdm", folders / "idm", shared_prefixes=True)
    torch.testing.assert_close(_inverse(shared.inverse_dynamics, scenes), expected, atol=1e-4, rtol=0)
    half = DynamicsPair.from_pretrained(folders / "fdm", folders / "idm", dtype="bfloat16")
    assert {parameter.dtype for parameter in half.inverse.lm.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(_inverse(half.inverse_dynamics, scenes), expected, atol=0.3, rtol=0)


def test_models_that_cannot_share_are_loaded_each_alone(folders, tmp_path):
    assert shares_base(folders / "fdm", folders / "idm")
    forward, inverse = load_dynamics(folders / "fdm", folders / "idm")
    assert forward.model.lm.model is inverse.model.lm.model
    forward, inverse = load_dynamics(folders / "base", folders / "idm")
    assert forward.model.lm is not inverse.model.lm
    model = load_model(folders / "base")
    save_adapter(model.lm, tmp_path / "headed", target_modules=["q_proj", "lm_head"])
    make_portable(tmp_path / "headed", str(folders / "base"))
    assert not shares_base(tmp_path / "headed", folders / "idm")
    shutil.copytree(folders, tmp_path / "elsewhere")
    assert not shares_base(folders / "fdm", tmp_path / "elsewhere/idm")
    with pytest.raises(ValueError, match="are not two adapters of one base's linear maps; load each alone"):
        DynamicsPair.from_pretrained(folders / "base", folders / "idm")
