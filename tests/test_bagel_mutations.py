"""Break BAGEL on purpose: every mutation must make the comparison with the golden tensors fail."""

from __future__ import annotations

from itertools import permutations

import plain_losses
import pytest
import torch
from test_bagel_recompute import (
    TOLERANCE,
    differences,
    golden_model,
    infer_outputs,
    needs_golden,
    pack_outputs,
    train_forward,
    understand_outputs,
)
from torch import nn

from visdyn.models.bagel import context as contexts
from visdyn.models.bagel import decoder, embeddings, layout, mask, rows, sampler
from visdyn.models.bagel.config import RENORMS

pytestmark = needs_golden


def velocity_gap(case: str = "mixed") -> float:
    """Return how far the training velocity of a golden run is off."""
    with torch.no_grad():
        _, output = train_forward(golden_model(), case)
    return differences({f"train.{case}.velocity_pred": output.velocity})[f"train.{case}.velocity_pred"]


def latent_gap(case: str = "edit_global") -> float:
    name = f"infer.{case}.final_latent"
    return differences({name: infer_outputs(case)[name]})[name]


@pytest.fixture(params=["dense", "rows"])
def path(request, monkeypatch):
    """Both ways to run a pack: one mask over all of it, or a row for each sample."""
    monkeypatch.setattr(rows, "MOST_PADDING", {"dense": 0.0, "rows": 100.0}[request.param])


def test_unbroken_code_passes_the_same_checks(path):
    assert velocity_gap() < TOLERANCE
    assert latent_gap() < TOLERANCE


def test_causal_only_mask(monkeypatch, path):
    def causal(order, split, causal, noise):
        return order[..., None, :] <= order[..., :, None]

    monkeypatch.setattr(mask, "allowed", causal)
    assert differences(pack_outputs("edit"))["pack.edit.attention_mask"] > 0
    assert velocity_gap() > 0.1


def test_noised_image_visible_to_later_splits(monkeypatch, path):
    right = mask.allowed
    # As if every noised image were a full one.
    monkeypatch.setattr(mask, "allowed", lambda *labels: right(*labels[:3], torch.zeros_like(labels[3])))
    assert velocity_gap() > 0.1


def test_swapped_halves_of_the_position_table(monkeypatch):
    right = embeddings.sincos_2d

    def swapped(dim, side):
        return right(dim, side).roll(dim // 2, dims=1)

    monkeypatch.setattr(embeddings, "sincos_2d", swapped)
    model = golden_model()
    table = model.latent_pos_embed.pos_embed
    original = table.detach().clone()
    try:
        model.latent_pos_embed.reset()
        assert velocity_gap() > 0.1
    finally:
        table.data.copy_(original)


def test_markers_sent_to_the_generation_expert(monkeypatch):
    right = layout.expert_index

    def swapped(text_index, vit_index, latent_index):
        und, gen = right(text_index, vit_index, latent_index)
        images = torch.cat([vit_index, latent_index])
        markers = text_index[torch.isin(text_index, torch.cat([images - 1, images + 1]))]
        return und[~torch.isin(und, markers)], torch.cat([gen, markers])

    monkeypatch.setattr(layout, "expert_index", swapped)
    assert velocity_gap("t2i") > 0.01


@pytest.mark.parametrize("name", ["q_norm", "k_norm", "q_norm_moe_gen", "k_norm_moe_gen"])
def test_dropped_query_or_key_norm(monkeypatch, name):
    for layer in golden_model().language_model.model.layers:
        monkeypatch.setitem(layer.self_attn._modules, name, nn.Identity())
    assert velocity_gap() > 0.1
    assert latent_gap() > 0.1


def test_flipped_velocity_sign_in_training(monkeypatch):
    right = plain_losses.rectified_flow_loss

    def gap() -> float:
        with torch.no_grad():
            _, output = train_forward(golden_model(), "edit_pair")
        return differences({"train.edit_pair.mse": plain_losses.flow_loss(output, "none")})["train.edit_pair.mse"]

    assert gap() < TOLERANCE
    monkeypatch.setattr(plain_losses, "rectified_flow_loss", lambda v, clean, noise, how: right(v, noise, clean, how))
    assert gap() > 0.1


def test_flipped_velocity_sign_in_sampling(monkeypatch):
    right = contexts.velocities
    monkeypatch.setattr(contexts, "velocities", lambda *arguments: [-velocity for velocity in right(*arguments)])
    assert latent_gap() > 0.1


def test_timesteps_scaled_by_a_thousand(monkeypatch):
    right = embeddings.timestep_sinusoid
    monkeypatch.setattr(embeddings, "timestep_sinusoid", lambda t, dim=256: right(t * 1000, dim))
    assert velocity_gap() > 0.1


def test_rotary_embedding_left_out(monkeypatch):
    monkeypatch.setattr(decoder, "apply_rotary", lambda x, cos, sin: x)
    assert velocity_gap() > 0.1
    assert differences(understand_outputs("main"))["understand.main.logits"] > 0.1


@pytest.mark.parametrize(("right", "wrong"), list(permutations(RENORMS, 2)))
def test_renormalisations_are_told_apart(monkeypatch, right, wrong):
    guide = sampler.guide
    settings = sampler.SamplerSettings(cfg_renorm_type=wrong)
    monkeypatch.setattr(sampler, "guide", lambda plain, text, img, _: guide(plain, text, img, settings))
    assert latent_gap(f"edit_{right}") > 1e-2


def test_branch_without_text_replaced_by_branch_without_image(monkeypatch):
    guide = sampler.guide
    monkeypatch.setattr(sampler, "guide", lambda plain, text, img, settings: guide(plain, img, text, settings))
    assert latent_gap() > 1e-2
