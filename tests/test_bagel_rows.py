"""A pack run in rows against the same pack under one dense mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plain_losses import total_loss
from test_bagel_model import picture, small_model
from toy_bagel import batch_of, mixture

from visdyn.models.bagel import edit_sample, pack_samples, rows, text_to_image_sample
from visdyn.training.bagel.mixture import KINDS


def outputs(model, batch, padding: float, monkeypatch, **options):
    monkeypatch.setattr(rows, "MOST_PADDING", padding)
    model.zero_grad(set_to_none=True)
    output = model(batch.pack, noise=batch.noise, posterior_noise=batch.posterior, latents=batch.latents, **options)
    total_loss(output).backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("weights", [dict.fromkeys(KINDS, 1.0), {"edit": 1.0, "undo": 1.0}, {"text_to_image": 1.0}])
def test_rows_equal_one_dense_mask(weights, monkeypatch):
    model, batch = small_model(), batch_of(mixture(weights, 6))
    dense, dense_gradients = outputs(model, batch, 0.0, monkeypatch)
    padded, padded_gradients = outputs(model, batch, 1e9, monkeypatch)
    torch.testing.assert_close(padded.hidden, dense.hidden, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(padded.velocity, dense.velocity, atol=2e-5, rtol=1e-4)
    assert padded_gradients.keys() == dense_gradients.keys()
    for name, gradient in dense_gradients.items():
        torch.testing.assert_close(padded_gradients[name], gradient, atol=2e-4, rtol=2e-3)


def test_a_chain_of_edits_has_targets_that_are_not_last(monkeypatch):
    """The middle image is first a target: the rule that hides it must hold in rows, too."""
    model = small_model()
    images = [picture(24, 16, i) for i in range(3)]
    chain = edit_sample(images, [[7, 8], [9]], model.config)
    single = text_to_image_sample([5, 6, 7], picture(16, 16, 4), model.config)
    pack = pack_samples([single, chain], model.config, timestep_draws=[0.1, -0.2, 0.4])
    noise = torch.randn(len(pack.latent_index), model.config.latent_dim)
    velocities = []
    for padding, targets_only in ((0.0, False), (1e9, False), (1e9, True)):
        monkeypatch.setattr(rows, "MOST_PADDING", padding)
        torch.manual_seed(0)
        velocities.append(model(pack, noise=noise, targets_only=targets_only).velocity)
    torch.testing.assert_close(velocities[1], velocities[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(velocities[2], velocities[0], atol=2e-5, rtol=1e-4)


def test_targets_only_spares_the_last_layer_and_changes_no_gradient(monkeypatch):
    model = small_model(vision=False)
    data = mixture({"edit": 1.0, "undo": 1.0}, 4)
    data.config = model.config
    batch = batch_of(data)
    pack = batch.pack
    bare = replace(batch, pack=replace(pack, ce_index=pack.ce_index[:0], ce_labels=pack.ce_labels[:0]))
    whole, gradients = outputs(model, bare, 1e9, monkeypatch)
    spared, fewer = outputs(model, bare, 1e9, monkeypatch, targets_only=True)
    torch.testing.assert_close(spared.velocity, whole.velocity, atol=2e-5, rtol=1e-4)
    others = torch.ones(len(pack), dtype=torch.bool)
    others[pack.mse_index] = False
    assert whole.hidden[others].any()
    assert not spared.hidden[others].any()
    for name, gradient in gradients.items():
        torch.testing.assert_close(fewer.get(name, torch.zeros_like(gradient)), gradient, atol=2e-4, rtol=2e-3)


def test_what_is_generated_comes_last_in_every_row():
    """Else the last layer would compute the sources, too."""
    model = small_model()
    edit = edit_sample([picture(24, 16), picture(24, 16, 1)], [[7, 8]], model.config)
    pack = pack_samples([edit, text_to_image_sample([5], picture(24, 16, 2), model.config)], model.config)
    assert pack.layout.gen.slots == 2 * pack.layout.noised.slots == len(pack.mse_index)


def test_much_padding_falls_back_to_the_dense_mask():
    model = small_model()
    short = text_to_image_sample([5], picture(16, 16), model.config)
    long = text_to_image_sample(list(range(5, 35)) * 4, picture(16, 16), model.config)
    for samples, expected in (([short] * 4, True), ([short] * 7 + [long], False)):
        pack = pack_samples(samples, model.config)
        assert rows.is_padding_small(pack.layout, len(pack)) is expected
