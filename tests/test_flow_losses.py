"""Rectified flow and the consistency loss, against their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.models.bagel.rectified_flow import add_noise, training_timesteps
from visdyn.params import ParamsError, from_mapping
from visdyn.params.doundo import Consistency
from visdyn.training.losses import consistency_loss, predict_clean, rectified_flow_loss


def draw(n: int = 5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    clean, noise, velocity = (torch.randn(n, 4, 3, 3, generator=generator) for _ in range(3))
    return clean, noise, velocity, torch.rand(n, generator=generator)


def test_true_velocity_leads_back_to_the_data_and_costs_nothing():
    clean, noise, _, t = draw()
    noisy = add_noise(clean, noise, t)
    torch.testing.assert_close(predict_clean(noisy, noise - clean, t), clean)
    assert rectified_flow_loss(noise - clean, clean, noise) == 0
    assert rectified_flow_loss(clean - noise, clean, noise) > 1


def test_flow_loss_is_the_mean_square_in_every_reduction():
    clean, noise, velocity, _ = draw()
    expected = torch.nn.functional.mse_loss(velocity, noise - clean)
    torch.testing.assert_close(rectified_flow_loss(velocity, clean, noise), expected)
    torch.testing.assert_close(rectified_flow_loss(velocity, clean, noise, "sum"), 5 * expected)
    each = rectified_flow_loss(velocity, clean, noise, "none")
    torch.testing.assert_close(each, (velocity - noise + clean) ** 2)


def test_flow_loss_refuses_broadcasting_and_unknown_reductions():
    clean, noise, velocity, _ = draw()
    with pytest.raises(ValueError, match="must agree"):
        rectified_flow_loss(velocity[:1], clean, noise)
    with pytest.raises(ValueError, match="unknown reduction 'max'"):
        rectified_flow_loss(velocity, clean, noise, "max")


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 6), seed=st.integers(0, 1000))
def test_latent_consistency_is_a_time_weighted_velocity_loss(n, seed):
    clean, noise, velocity, t = draw(n, seed)
    loss = consistency_loss(add_noise(clean, noise, t), velocity, t, clean)
    identity = (t.view(-1, 1, 1, 1) * (velocity - (noise - clean)).abs()).mean()
    torch.testing.assert_close(loss, identity)


@pytest.mark.parametrize(("shift", "share"), [(1.0, 0.50), (3.0, 0.86), (4.0, 0.92)])
def test_timesteps_are_logit_normal_with_shift(shift, share):
    t = training_timesteps(torch.randn(20000, generator=torch.Generator().manual_seed(0)), shift)
    assert t.min() > 0
    assert t.max() < 1
    assert abs((t > 0.5).float().mean().item() - share) < 0.01


@pytest.mark.parametrize("wrong", [{"condition": "chained"}, {"space": "fourier"}, {"weight": -1.0}])
def test_consistency_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ParamsError, match=f"'doundo.consistency.{next(iter(wrong))}' must be"):
        from_mapping(Consistency, wrong, "params.yaml", "doundo.consistency")


def test_gate_averages_over_the_samples_that_pass():
    clean, noise, velocity, _ = draw(4)
    t = torch.tensor([0.1, 0.3, 0.6, 0.9])
    noisy = add_noise(clean, noise, t)
    gated = consistency_loss(noisy, velocity, t, clean, t_gate=0.5)
    torch.testing.assert_close(gated, consistency_loss(noisy[:2], velocity[:2], t[:2], clean[:2]))
    assert consistency_loss(noisy, velocity, t, clean, t_gate=0.05) == 0
    each = consistency_loss(noisy, velocity, t, clean, t_gate=0.5, reduction="none")
    assert len(each) == 2
    torch.testing.assert_close(each.mean(), gated)
    with pytest.raises(ValueError, match="unknown reduction 'sum'"):
        consistency_loss(noisy, velocity, t, clean, reduction="sum")


def test_gated_samples_are_not_decoded():
    clean, noise, velocity, _ = draw(4)
    t, seen = torch.tensor([0.1, 0.3, 0.6, 0.9]), []
    options = {"space": "pixel", "decode": lambda z: seen.append(len(z)) or 2 * z}
    pixels = torch.zeros_like(clean)
    consistency_loss(add_noise(clean, noise, t), velocity, t, clean, **options, target_pixels=pixels, t_gate=0.5)
    assert seen == [2]


def test_weight_functions_multiply_each_sample():
    clean, noise, velocity, t = draw(1)
    noisy = add_noise(clean, noise, t)
    plain = consistency_loss(noisy, velocity, t, clean)
    torch.testing.assert_close(
        consistency_loss(noisy, velocity, t, clean, weight_function="one_minus_t"), plain * (1 - t[0])
    )
    torch.testing.assert_close(
        consistency_loss(noisy, velocity, t, clean, weight_function=lambda t: t**2), plain * t[0] ** 2
    )
    with pytest.raises(ValueError, match="one_minus_t"):
        consistency_loss(noisy, velocity, t, clean, weight_function="nope")


def test_pixel_space_decodes_both_sides_unless_pixels_are_given():
    clean, noise, velocity, t = draw()
    noisy = add_noise(clean, noise, t)
    options = {"space": "pixel", "decode": lambda z: 3 * z + 1}
    plain = consistency_loss(noisy, velocity, t, clean)
    torch.testing.assert_close(consistency_loss(noisy, velocity, t, clean, **options), 3 * plain)
    own = consistency_loss(noisy, velocity, t, clean, **options, target_pixels=torch.zeros_like(clean))
    torch.testing.assert_close(own, (3 * predict_clean(noisy, velocity, t) + 1).abs().mean())
    with pytest.raises(ValueError, match="decoder"):
        consistency_loss(noisy, velocity, t, clean, space="pixel")
    with pytest.raises(ValueError, match="latent, pixel"):
        consistency_loss(noisy, velocity, t, clean, space="fourier")
