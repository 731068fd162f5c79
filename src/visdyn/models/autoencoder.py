"""The continuous autoencoder of the embedded Do-Undo editor: diffusers' `AutoencoderKL` in the layout of FLUX.

Latents are scaled as in FLUX: z = (mean - shift_factor) * scaling_factor. A model whose `in_channels` is 3 * p**2
reads pixels with p x p of them folded into channels (p = 1 for the public FLUX autoencoder): a tiny CPU model is
then spared the full-resolution levels, and its folder needs no file beside the public ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from visdyn.models.vqgan_blocks import fold, unfold


def tiny_autoencoder(latent_channels: int = 16, widths: Sequence[int] = (64,), patch: int = 8, norm_groups: int = 1):
    """Build a small untrained `diffusers.AutoencoderKL` without quant convolutions, as FLUX has it.

    Its latents are (N, latent_channels, H / f, W / f) with f = patch * 2**(len(widths) - 1): 8 by default.

    Args:
        latent_channels: channels of a latent.
        widths: channels of each level; each level after the first halves the sides.
        patch: side of the pixel blocks folded into channels; 1 is the public layout.
        norm_groups: groups of every group normalisation.
    """
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3 * patch**2,
        out_channels=3 * patch**2,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=norm_groups,
        sample_size=64 // patch,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def patch_of(vae) -> int:
    """Return the side p of the pixel blocks that `vae` reads as channels.

    Raises:
        ValueError: `in_channels` is not 3 * p**2.
    """
    channels = vae.config.in_channels
    patch = math.isqrt(channels // 3)
    if 3 * patch**2 != channels:
        raise ValueError(f"an autoencoder of {channels} input channels reads no folded RGB image; expected 3 * p**2")
    return patch


def encode_latents(vae, pixels: Tensor, sample: bool = False) -> Tensor:
    """Encode pixels float (N, 3, H, W) in [-1, 1] to scaled latents (N, C, h, w).

    Args:
        vae: a `diffusers.AutoencoderKL`.
        sample: draw from the posterior (global random state) instead of taking its mean.
    """
    posterior = vae.encode(fold(pixels.to(vae.device, vae.dtype), patch_of(vae))).latent_dist
    latents = posterior.sample() if sample else posterior.mode()
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def decode_latents(vae, latents: Tensor) -> Tensor:
    """Decode scaled latents (N, C, h, w) to pixels (N, 3, H, W), not clamped; differentiable."""
    unscaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return unfold(vae.decode(unscaled).sample, patch_of(vae))


class LatentAutoencoder(nn.Module):
    """An `AutoencoderKL` with the two conversions as methods; its folder is the plain `AutoencoderKL`'s."""

    def __init__(self, vae) -> None:
        super().__init__()
        self.vae = vae

    @torch.no_grad()
    def encode_latents(self, pixels: Tensor, sample: bool = False) -> Tensor:
        """See `encode_latents`; no gradient reaches the weights."""
        return encode_latents(self.vae, pixels, sample)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """See `decode_latents`."""
        return decode_latents(self.vae, latents)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and diffusion_pytorch_model.safetensors."""
        self.vae.save_pretrained(folder)


def load_autoencoder(path: str | Path) -> LatentAutoencoder:
    """Load an `AutoencoderKL` (a folder of `save_pretrained`, or a hub id), frozen and in evaluation mode.

    Raises:
        FileNotFoundError: `path` looks like a folder but holds no autoencoder.
    """
    from diffusers import AutoencoderKL

    local = Path(path).is_absolute() or Path(path).exists()
    if local and not (Path(path) / "config.json").is_file():
        raise FileNotFoundError(f"no autoencoder in {path}: config.json is missing")
    vae = AutoencoderKL.from_pretrained(path, local_files_only=local)
    return LatentAutoencoder(vae.requires_grad_(False).eval())
