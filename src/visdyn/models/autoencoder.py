"""The continuous autoencoder of the embedded BAGEL: diffusers' `AutoencoderKL` in the layout of FLUX.

Latents are scaled as in FLUX, z = (mean - shift_factor) * scaling_factor (`models.bagel.vae`). A model whose
`in_channels` is 3 * p**2 reads pixels with p x p of them folded into channels (p = 1 for the public FLUX autoencoder):
a tiny CPU model is then spared the full-resolution levels, and its folder needs no file beside the public ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from visdyn.models.bagel import Autoencoder
from visdyn.models.strict_load import load_pretrained


def tiny_autoencoder(
    latent_channels: int = 16,
    widths: Sequence[int] = (64,),
    patch: int = 8,
    norm_groups: int = 1,
    image_size: int = 64,
):
    """Build a small untrained `diffusers.AutoencoderKL` without quant convolutions, as FLUX has it.

    Its latents are (N, latent_channels, H / f, W / f) with f = patch * 2**(len(widths) - 1): 8 by default.

    Args:
        latent_channels: channels of a latent.
        widths: channels of each level; each level after the first halves the sides.
        patch: side of the pixel blocks folded into channels; 1 is the public layout.
        norm_groups: groups of every group normalisation.
        image_size: side of the images that it is made for, in pixels.
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
        sample_size=image_size // patch,
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


def load_autoencoder(folder: str | Path) -> Autoencoder:
    """Load a folder of `AutoencoderKL.save_pretrained` as BAGEL's autoencoder, frozen.

    Raises:
        FileNotFoundError: the folder holds no autoencoder.
        CheckpointError: its weights are not exactly the autoencoder's.
    """
    from diffusers import AutoencoderKL

    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"no autoencoder in {folder}: config.json is missing")
    return Autoencoder.of(load_pretrained(AutoencoderKL, Path(folder)))
