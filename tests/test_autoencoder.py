"""The autoencoder's folder, its scaling, and its recipe."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.images import to_pixels
from visdyn.models.autoencoder import load_autoencoder, patch_of, tiny_autoencoder
from visdyn.models.bagel import Autoencoder, AutoencoderConfig
from visdyn.models.bagel.config import ConfigError
from visdyn.models.vqgan.blocks import fold, unfold
from visdyn.training.tiny.autoencoder_recipe import equalise_channels, measure_scale, train_autoencoder


def _shapes(number: int, seed: int = 0) -> np.ndarray:
    """Uniform backgrounds with one uniform square each: uint8 (number, 64, 64, 3)."""
    generator = np.random.default_rng(seed)
    images = np.broadcast_to(generator.integers(0, 256, (number, 1, 1, 3)), (number, 64, 64, 3)).astype(np.uint8)
    for image in images:
        y, x = generator.integers(0, 48, 2)
        image[y : y + 16, x : x + 16] = generator.integers(0, 256, 3)
    return images


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return tiny_autoencoder(latent_channels=4, widths=(8, 8), patch=4, norm_groups=4).eval().requires_grad_(False)


def test_latents_have_the_documented_shape_and_scale(vae):
    images = _shapes(12)
    equalise_channels(vae, images)
    measure_scale(vae, images)
    latents = Autoencoder.of(vae).encode(to_pixels(images))
    assert latents.shape == (12, 4, 8, 8)
    assert abs(float(latents.mean())) < 1e-4
    assert float(latents.std()) == pytest.approx(1, abs=1e-3)
    assert Autoencoder.of(vae).decode(latents).shape == (12, 3, 64, 64)


def test_equal_channels_change_no_image(vae):
    pixels = to_pixels(_shapes(24))
    with torch.no_grad():
        vae.encoder.conv_out.weight[:4] *= torch.tensor([0.1, 1.0, 3.0, 10.0]).view(-1, 1, 1, 1)
    before, log_variance = Autoencoder.of(vae), Autoencoder.of(vae).moments(pixels)[:, 4:]
    wanted = before.decode(before.encode(pixels))
    deviations = before.encode(pixels).std((0, 2, 3)) / before.config.scale_factor
    equalise_channels(vae, _shapes(24))
    after = Autoencoder.of(vae)
    moments = after.moments(pixels)
    torch.testing.assert_close(moments[:, :4].std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(after.decode(after.encode(pixels)), wanted, atol=1e-4, rtol=1e-4)
    # The posterior keeps its relative width.
    shrunk = log_variance - 2 * deviations.log().view(1, -1, 1, 1)
    torch.testing.assert_close(moments[:, 4:], shrunk, atol=1e-3, rtol=1e-3)


def test_scaling_is_that_of_flux(vae):
    """z = (mean - shift) * scale, undone before decoding (black-forest-labs/flux, AutoEncoder.encode and decode)."""
    pixels = to_pixels(_shapes(2))
    vae.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    mean = vae.encode(fold(pixels, 4)).latent_dist.mean
    torch.testing.assert_close(Autoencoder.of(vae).encode(pixels), (mean - 0.25) * 0.5)
    torch.testing.assert_close(Autoencoder.of(vae).decode((mean - 0.25) * 0.5), unfold(vae.decode(mean).sample, 4))


def test_a_public_layout_needs_no_folding():
    vae = tiny_autoencoder(latent_channels=4, widths=(8, 8, 8, 8), patch=1, norm_groups=4)
    assert patch_of(vae) == 1
    own = Autoencoder.of(vae)
    assert (own.config.fold, own.config.downsample) == (1, 8)
    assert own.encode(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 2, 2)


def test_folded_weights_survive_the_public_key_names(vae, tmp_path):
    own, again = Autoencoder.of(vae), Autoencoder(AutoencoderConfig.of(vae.config))
    again.load_bfl_state(own.bfl_state())
    pixels = to_pixels(_shapes(2))
    torch.testing.assert_close(again.encode(pixels), own.encode(pixels), atol=0, rtol=0)
    assert own.config.downsample == 8


def test_gradients_reach_latents_through_the_decoder(vae):
    latents = torch.zeros(1, 4, 8, 8, requires_grad=True)
    Autoencoder.of(vae).decode(latents).square().mean().backward()
    assert float(latents.grad.abs().sum()) > 0


def test_folder_is_a_plain_autoencoder_kl(vae, tmp_path):
    from diffusers import AutoencoderKL

    vae.register_to_config(scaling_factor=0.7, shift_factor=-0.1)
    vae.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "AutoencoderKL"
    pixels = to_pixels(_shapes(3))
    again = AutoencoderKL.from_pretrained(tmp_path, local_files_only=True)
    loaded = load_autoencoder(tmp_path)
    torch.testing.assert_close(Autoencoder.of(again).encode(pixels), Autoencoder.of(vae).encode(pixels))
    torch.testing.assert_close(loaded.encode(pixels), Autoencoder.of(vae).encode(pixels))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_bad_folders_and_channels_are_refused(tmp_path):
    from diffusers import AutoencoderKL

    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_autoencoder(tmp_path)
    odd = AutoencoderKL(in_channels=4, block_out_channels=(8,), norm_num_groups=4)
    with pytest.raises(ValueError, match="4 input channels"):
        patch_of(odd)
    with pytest.raises(ConfigError, match="no quant convolutions"):
        Autoencoder.of(odd)
    with pytest.raises(ConfigError, match="expected 3, or 3"):
        _ = AutoencoderConfig(in_channels=4).fold


@settings(max_examples=10, deadline=None)
@given(patch=st.sampled_from([1, 2, 4]), height=st.integers(1, 3), width=st.integers(1, 3))
def test_unfold_undoes_fold(patch, height, width):
    pixels = torch.randn(2, 3, height * patch, width * patch)
    folded = fold(pixels, patch)
    assert folded.shape == (2, 3 * patch**2, height, width)
    assert torch.equal(unfold(folded, patch), pixels)


def test_recipe_lowers_the_loss_and_writes_its_history(tmp_path):
    images = _shapes(64)
    np.save(tmp_path / "images.npy", images)
    recipe = {"steps": 30, "batch_size": 8, "learning_rate": 2e-3, "log_every": 5}
    train_autoencoder(
        images=str(tmp_path / "images.npy"),
        output=str(tmp_path / "model"),
        recipe=recipe,
        scratch=str(tmp_path / "scratch"),
        latent_channels=4,
        widths=[16],
    )
    history = pd.read_csv(tmp_path / "model" / "training.csv")
    assert list(history.columns[:2]) == ["step", "loss"]
    assert history.loss.iloc[-1] < 0.8 * history.loss.iloc[0]
    latents = load_autoencoder(tmp_path / "model").encode(to_pixels(images))
    assert float(latents.std()) == pytest.approx(1, abs=0.05)
