"""Recipe of the embedded generator's autoencoder: L1 + L2 on pixels and a weak KL term, no discriminator.

BAGEL uses FLUX's autoencoder as it is; only the embedded profiles train one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from visdyn.images import to_pixels
from visdyn.models.autoencoder import patch_of, tiny_autoencoder
from visdyn.models.vqgan.blocks import fold, unfold
from visdyn.training.engine.fit import Recipe, fit, write_history
from visdyn.training.tiny.patch_start import start_from_patches, take_evenly
from visdyn.training.tiny.tokenizer import ImageDataset, rare_colour_weights


class AutoencoderTraining(nn.Module):
    """An `AutoencoderKL` with its loss."""

    def __init__(self, vae, kl_weight: float, rare_colours: float) -> None:
        super().__init__()
        self.vae, self.kl_weight, self.rare_colours = vae, kl_weight, rare_colours

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        folded = fold(pixels, patch_of(self.vae)).contiguous(memory_format=torch.channels_last)
        posterior = self.vae.encode(folded).latent_dist
        decoded = unfold(self.vae.decode(posterior.sample()).sample, patch_of(self.vae)).float()
        error = (decoded - pixels).abs()
        weights = rare_colour_weights(pixels, self.rare_colours)
        kl = posterior.kl().mean() / posterior.mean[0].numel()  # nats per latent value
        return {
            "loss": (weights * (error + error.square())).mean() + self.kl_weight * kl,
            "l1": error.detach().mean(),
            "kl": kl.detach(),
        }


def train_autoencoder(
    *,
    images: str,
    output: str,
    recipe: dict,
    scratch: str,
    latent_channels: int = 16,
    widths: Sequence[int] = (64,),
    patch: int = 8,
    kl_weight: float = 1e-4,
    rare_colours: float = 8.0,
) -> None:
    """Train a small `AutoencoderKL` and write it to `output` (`save_pretrained`), with `training.csv`.

    After training its channels get one standard deviation, and `shift_factor` and `scaling_factor` are measured on the
    images, so that scaled latents have mean 0 and standard deviation 1. A single level (one entry in `widths`) starts
    from `patch_start`.

    Args:
        images: .npy file, uint8 (N, H, W, 3).
        output: folder to write.
        recipe: keys of `visdyn.training.engine.fit.Recipe`.
        scratch: folder for resume state.
        latent_channels, widths, patch: see `tiny_autoencoder`.
        kl_weight: weight of the KL divergence per latent value, in nats.
        rare_colours: see `visdyn.training.tiny.tokenizer.rare_colour_weights`.
    """
    settings = Recipe.of(recipe)
    torch.manual_seed(settings.seed)
    dataset = ImageDataset(images)
    vae = tiny_autoencoder(latent_channels, widths, patch, image_size=dataset.images.shape[1])
    vae.to(memory_format=torch.channels_last)
    start_autoencoder(vae, dataset.images)

    def save(history: pd.DataFrame) -> None:
        equalise_channels(vae.eval(), dataset.images)
        measure_scale(vae, dataset.images)
        vae.save_pretrained(output)
        write_history(history, output)

    fit(AutoencoderTraining(vae, kl_weight, rare_colours), dataset, settings, scratch, save=save)


@torch.no_grad()
def start_autoencoder(vae, images: np.ndarray, log_variance: float = -6.0) -> None:
    """Start from the principal components of `images`' patches, with a small posterior variance; see `patch_start`.

    An autoencoder of several levels is left as it is.
    """
    if len(vae.config.block_out_channels) > 1:
        return
    latent_channels = vae.config.latent_channels
    start_from_patches(vae.encoder, vae.decoder, images, patch_of(vae), latent_channels)
    # The encoder's last convolution gives 2 * latent_channels channels: means, then log-variances.
    vae.encoder.conv_out.bias[latent_channels:] = log_variance


@torch.no_grad()
def equalise_channels(vae, images: np.ndarray, limit: int = 512) -> None:
    """Give every latent channel standard deviation 1 on up to `limit` images, taken evenly, uint8 (N, H, W, 3).

    BAGEL scales latents by one number and its velocity loss weighs channels alike: after principal components a
    channel of small deviation would be all noise. The gain goes into the encoder's last convolution and its inverse
    into the decoder's first, so images are decoded as before.
    """
    deviations = latent_means(vae, images, limit).std(dim=(0, 2, 3)).clamp(min=1e-6)  # (C,)
    out, channels = vae.encoder.conv_out, len(deviations)
    out.weight[:channels] /= deviations.view(-1, 1, 1, 1)
    out.bias[:channels] /= deviations
    # Means are divided by s, so log-variances lose 2 log s.
    out.bias[channels:] -= 2 * deviations.log()
    vae.decoder.conv_in.weight *= deviations.view(1, -1, 1, 1)


@torch.no_grad()
def measure_scale(vae, images: np.ndarray, limit: int = 512) -> None:
    """Set `shift_factor` and `scaling_factor` from up to `limit` images, taken evenly, uint8 (N, H, W, 3)."""
    means = latent_means(vae, images, limit)
    vae.register_to_config(shift_factor=float(means.mean()), scaling_factor=float(1 / means.std()))


def latent_means(vae, images: np.ndarray, limit: int) -> Tensor:
    """Return the posterior means (N, C, h, w) of up to `limit` images, unscaled."""
    chosen = take_evenly(images, limit)
    parts = np.array_split(chosen, max(1, len(chosen) // 64))
    pixels = (fold(to_pixels(part), patch_of(vae)).to(vae.device) for part in parts)
    return torch.cat([vae.encode(part).latent_dist.mode() for part in pixels])
