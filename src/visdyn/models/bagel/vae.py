"""The FLUX autoencoder: diffusers' `AutoencoderKL` behind BFL key names and BAGEL's latent scaling."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from visdyn.models.bagel.config import AutoencoderConfig
from visdyn.models.strict_load import load_state
from visdyn.models.vqgan.blocks import fold, unfold
from visdyn.models.weight_files import unwrap_names

_ATTENTION_PARTS = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


class Autoencoder(nn.Module):
    """Encodes normalised pixels to scaled latents and back; latents are scale * (z - shift).

    One that reads 3 * p * p channels (`AutoencoderConfig.fold`) folds p x p pixels into channels first: a tiny model
    on a CPU is then spared the full-resolution levels. The public one reads 3 channels and folds nothing.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.config = config
        levels = len(config.ch_mult)
        self.model = AutoencoderKL(
            in_channels=config.in_channels,
            out_channels=config.out_ch,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(config.ch * factor for factor in config.ch_mult),
            layers_per_block=config.num_res_blocks,
            latent_channels=config.z_channels,
            norm_num_groups=config.norm_groups,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=config.scale_factor,
            shift_factor=config.shift_factor,
        )

    @classmethod
    def of(cls, vae) -> Autoencoder:
        """Take over a `diffusers.AutoencoderKL` without quant convolutions, with its scaling."""
        autoencoder = cls(AutoencoderConfig.of(vae.config))
        weights = {name: value.float().clone() for name, value in vae.state_dict().items()}
        load_state(autoencoder.model, weights, "the autoencoder")
        return autoencoder.requires_grad_(False).eval()

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def moments(self, pixels: Tensor) -> Tensor:
        """Return mean and log-variance, (N, 2 z, H / f, W / f), of pixels (N, 3, H, W) in [-1, 1]."""
        # diffusers' posterior object clamps the log-variance and the reference does not; hence the bare encoder.
        return self.model.encoder(fold(pixels.to(self.dtype), self.config.fold))

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return latents (N, z, H / f, W / f): the posterior's mean, or a sample when `noise` (same shape) is given."""
        return sample_latents(self.moments(pixels), noise, self.config)

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels (N, 3, H, W), nominally in [-1, 1] and not clamped, of scaled latents."""
        z = latents.to(self.dtype) / self.config.scale_factor + self.config.shift_factor
        return unfold(self.model.decoder(z), self.config.fold)

    def load_bfl_state(self, state: dict[str, Tensor], where: str | Path = "the autoencoder") -> None:
        """Load tensors under BFL names (`ae.safetensors`), strictly; float16 storage is widened to float32.

        Args:
            where: their file, for messages.

        Raises:
            CheckpointError: they are not exactly the autoencoder's, or no finite numbers.
        """
        levels = len(self.config.ch_mult)
        expected = self.model.state_dict()
        converted = {}
        for name, plain in unwrap_names(state).items():
            tensor = state[name]
            target = diffusers_name(plain, levels)
            is_projection = target in expected and expected[target].dim() == 2 and tensor.dim() == 4
            converted[target] = (tensor[:, :, 0, 0] if is_projection else tensor).float()
        load_state(self.model, converted, where)
        self.requires_grad_(False).eval()

    def bfl_state(self) -> dict[str, Tensor]:
        """Return the weights under BFL names, attention projections as 1 x 1 convolutions."""
        levels = len(self.config.ch_mult)
        state = {}
        for name, tensor in self.model.state_dict().items():
            theirs = bfl_name(name, levels)
            is_projection = ".attn_1." in theirs and tensor.dim() == 2
            state[theirs] = (tensor[:, :, None, None] if is_projection else tensor).contiguous()
        return state


def sample_latents(moments: Tensor, noise: Tensor | None, config: AutoencoderConfig) -> Tensor:
    """Return scaled latents (..., z, h, w) of posteriors (..., 2 z, h, w): a sample, or the mean without noise."""
    mean, log_variance = moments.chunk(2, dim=-3)
    z = mean if noise is None else mean + torch.exp(log_variance / 2) * noise.to(mean)
    return config.scale_factor * (z - config.shift_factor)


def diffusers_name(name: str, levels: int) -> str:
    """Translate a BFL autoencoder key to diffusers' `AutoencoderKL`; `levels` is the number of resolutions."""
    name = name.replace(".norm_out.", ".conv_norm_out.")
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.block_([12])\.(.+)", name):
        return f"{match[1]}.mid_block.resnets.{int(match[2]) - 1}.{match[3]}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.attn_1\.(\w+)\.(\w+)", name):
        return f"{match[1]}.mid_block.attentions.0.{_ATTENTION_PARTS[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"(encoder|decoder)\.(down|up)\.(\d+)\.(.+)", name):
        # BFL counts decoder levels from the finest, diffusers in the order they run.
        level = int(match[3]) if match[2] == "down" else levels - 1 - int(match[3])
        rest = re.sub(r"^block\.", "resnets.", match[4])
        rest = re.sub(r"^(down|up)sample\.", r"\1samplers.0.", rest).replace("nin_shortcut", "conv_shortcut")
        return f"{match[1]}.{match[2]}_blocks.{level}.{rest}"
    return name


def bfl_name(name: str, levels: int) -> str:
    """Undo `diffusers_name`."""
    name = name.replace(".conv_norm_out.", ".norm_out.")
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.([01])\.(.+)", name):
        return f"{match[1]}.mid.block_{int(match[2]) + 1}.{match[3]}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(\w+)", name):
        part = {theirs: ours for ours, theirs in _ATTENTION_PARTS.items()}[match[2]]
        return f"{match[1]}.mid.attn_1.{part}.{match[3]}"
    if match := re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(.+)", name):
        level = int(match[3]) if match[2] == "down" else levels - 1 - int(match[3])
        rest = re.sub(r"^resnets\.", "block.", match[4])
        rest = re.sub(r"^(down|up)samplers\.0\.", r"\1sample.", rest).replace("conv_shortcut", "nin_shortcut")
        return f"{match[1]}.{match[2]}.{level}.{rest}"
    return name
