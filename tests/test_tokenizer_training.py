"""The recipe of the embedded image tokenizer, and the state of its codebook."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from visdyn.images import to_pixels
from visdyn.models.vqgan import VQGAN, VQGANConfig
from visdyn.training.tiny.tokenizer import (
    ImageDataset,
    TokenizerSettings,
    TokenizerTraining,
    rare_colour_weights,
    train_tokenizer,
)

SMALL = {"ch": 16, "num_res_blocks": 1, "z_channels": 8, "embed_dim": 8, "n_embed": 16, "norm_groups": 1}


def _tiles(number: int) -> np.ndarray:
    """Images of 8 x 8 tiles, each in one of six colours: uint8 (number, 64, 64, 3)."""
    generator = np.random.default_rng(0)
    colours = np.uint8([[250, 20, 20], [20, 250, 20], [20, 20, 250], [240, 240, 20], [20, 20, 20], [240, 240, 240]])
    return colours[generator.integers(0, 6, (number, 8, 8))].repeat(8, axis=1).repeat(8, axis=2)


def _training(**settings) -> TokenizerTraining:
    torch.manual_seed(0)
    config = VQGANConfig(ch_mult=(1,), patch=8, resolution=64, **SMALL)
    return TokenizerTraining(VQGAN(config), TokenizerSettings(**settings))


@pytest.fixture(scope="module")
def pixels():
    return to_pixels(_tiles(8))


def test_kmeans_puts_codes_on_the_features(pixels):
    training = _training()
    training.start(_tiles(64))
    rows = training.vqgan.features(pixels).permute(0, 2, 3, 1).flatten(0, 2)
    error = training.vqgan.quantize.distances(rows).min(dim=1).values.mean()
    assert float(error) < 0.2 * float(rows.var(dim=0).sum())


def test_patches_start_reconstructs_before_any_training(pixels):
    """Six tile colours span three components: up to a gain per image, the start loses nothing."""
    training = _training()
    training.start(_tiles(64))
    decoded = training.vqgan.decode(training.vqgan.encode(pixels))
    pairs = torch.stack([decoded.flatten(1), pixels.flatten(1)], dim=1)  # (N, 2, values)
    assert min(float(torch.corrcoef(pair)[0, 1]) for pair in pairs) > 0.98


def test_random_start_is_possible_and_patches_need_one_level(pixels):
    training = _training(start="random")
    training.start(_tiles(8))
    assert float(training(pixels)["used_codes"]) > 1
    deep = TokenizerTraining(VQGAN(VQGANConfig(ch_mult=(1, 2), patch=4, **SMALL)), TokenizerSettings())
    with pytest.raises(ValueError, match="single level"):
        deep.start(_tiles(8))
    narrow = TokenizerTraining(VQGAN(VQGANConfig(ch_mult=(1,), patch=8, **{**SMALL, "ch": 8})), TokenizerSettings())
    with pytest.raises(ValueError, match="need 16 channels, not 8"):
        narrow.start(_tiles(8))


def test_moving_averages_follow_the_features():
    """With decay 0 every used code is the mean of its features (van den Oord et al., 2017, appendix A.1)."""
    training = _training(decay=0.0, revive_below=0.0)
    rows = torch.randn(200, 8)
    table = training.vqgan.quantize.embedding.weight
    table.copy_(torch.randn(16, 8))
    codes = training.vqgan.quantize.distances(rows).argmin(dim=1)
    training._update_by_ema(rows, codes)
    for code in codes.unique().tolist():
        torch.testing.assert_close(table[code], rows[codes == code].mean(dim=0))


def test_dead_codes_come_back():
    training = _training(decay=0.5, revive_below=0.4)
    table = training.vqgan.quantize.embedding.weight
    table.fill_(1000.0)
    table[0] = 0.0
    training.sums.copy_(table)
    rows = torch.randn(100, 8)
    for _ in range(3):
        training._update_by_ema(rows, training.vqgan.quantize.distances(rows).argmin(dim=1))
    assert float(table.abs().max()) < 10
    assert training.vqgan.quantize.distances(rows).argmin(dim=1).unique().numel() > 5


def test_gradients_pass_straight_through_and_spare_the_codebook(pixels):
    training = _training(commitment=0.0)
    training(pixels)["loss"].backward()
    assert float(training.vqgan.encoder.conv_in.weight.grad.abs().sum()) > 0
    assert training.vqgan.quantize.embedding.weight.grad is None


def test_a_checkpoint_holds_all_state(pixels):
    first = _training()
    for _ in range(3):
        first(pixels)
    second = _training()
    second.load_state_dict(first.state_dict())
    for model in (first, second):
        torch.manual_seed(1)
        model(pixels)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_rare_colours_weigh_more():
    pixels = torch.zeros(1, 3, 10, 10)
    pixels[0, 0, :2, :2] = 1.0
    weights = rare_colour_weights(pixels, 8.0)
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights[0, 0, 0, 0]) > 4 * float(weights[0, 0, 9, 9])
    torch.testing.assert_close(rare_colour_weights(pixels, 0.0), torch.ones(1, 1, 10, 10))


def test_recipe_trains_a_tokenizer_that_reconstructs(tmp_path):
    images = _tiles(64)
    np.save(tmp_path / "images.npy", images)
    train_tokenizer(
        images=str(tmp_path / "images.npy"),
        output=str(tmp_path / "vqgan"),
        recipe={"steps": 30, "batch_size": 8, "learning_rate": 2e-3, "log_every": 10},
        scratch=str(tmp_path / "scratch"),
        model={**SMALL, "ch_mult": [1], "patch": 8},
    )
    model, pixels = VQGAN.from_checkpoint(tmp_path / "vqgan"), to_pixels(images[:8])
    decoded = model.decode(model.encode(pixels))
    spread = (pixels - pixels.mean(dim=(2, 3), keepdim=True)).abs().mean()
    assert float((decoded - pixels).abs().mean()) < 0.3 * float(spread)
    history = pd.read_csv(tmp_path / "vqgan" / "training.csv")
    assert history.step.iloc[-1] == 30
    assert history.l1.iloc[-1] < history.l1.iloc[0]
    assert not (tmp_path / "scratch").exists()


def test_images_of_another_layout_are_refused(tmp_path):
    np.save(tmp_path / "floats.npy", np.zeros((2, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="expected uint8"):
        ImageDataset(tmp_path / "floats.npy")
