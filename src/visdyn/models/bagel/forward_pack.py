"""Training forward over a pack: any mixture of edit, text-to-image and understanding samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from visdyn.models.bagel import rectified_flow as flow
from visdyn.models.bagel import rows
from visdyn.models.bagel.embeddings import patchify
from visdyn.models.bagel.model_outputs import BagelOutput
from visdyn.models.bagel.packing import Pack

if TYPE_CHECKING:
    from visdyn.models.bagel.model import Bagel


def forward_pack(
    model: Bagel,
    pack: Pack,
    *,
    noise: Tensor | None = None,
    posterior_noise: Tensor | None = None,
    latents: Tensor | None = None,
    timestep_shift: float | None = None,
    generator: torch.Generator | None = None,
    targets_only: bool = False,
) -> BagelOutput:
    """Return what a pack's velocity and text losses are made of.

    Args:
        noise: flow noise, one row per latent token of the pack, clean ones included (they use none of it).
        posterior_noise: noise of the VAE posterior, in the shape of the padded latents. Both are drawn from
            `generator` when not given.
        latents: padded latents (m, z, h, w) computed before; the VAE then does not run.
        timestep_shift: shift of the drawn timesteps; the model's own by default.
        targets_only: where nothing is answered in text, spare the last layer all but the noised tokens; `hidden` is
            then zero elsewhere.
    """
    pack, latent = pack.to(model.device), None
    if pack.images is not None:
        if latents is None:
            latents = encode_images(model, pack.images, posterior_noise, generator)
        latent = NoisedLatents(model, pack, latents, noise, timestep_shift, generator)
    targets_only = targets_only and not len(pack.ce_index) and len(pack.mse_index) > 0
    hidden = _run_decoder(model, pack, latent, targets_only)
    output = BagelOutput(hidden=hidden)
    if len(pack.mse_index):
        _add_velocity(model, pack, latent, output)
    if len(pack.ce_index):
        output.ce_logits = model.language_model.lm_head(hidden[pack.ce_index]).float()
        output.ce = F.cross_entropy(output.ce_logits, pack.ce_labels, reduction="none")
        output.ce_weights = pack.ce_weights
    return output


def encode_images(
    model: Bagel, images: Tensor, posterior_noise: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """Return sampled latents of a padded image batch; the VAE is frozen."""
    vae = model.require_vae()
    if posterior_noise is None:
        size = [side // vae.config.downsample for side in images.shape[-2:]]
        # Drawn on the CPU so that a seed means the same on every device.
        posterior_noise = torch.randn(len(images), vae.config.z_channels, *size, generator=generator)
    with torch.no_grad():
        return vae.encode(images, posterior_noise.to(images.device))


class NoisedLatents:
    """The latent tokens of a pack with their timesteps: clean, noise, noised, all (k, channels)."""

    def __init__(self, model: Bagel, pack: Pack, latents: Tensor, noise, shift, generator) -> None:
        patch = model.config.latent_patch_size
        # A padded image's latents are cut back to its own (h, w) tokens.
        crops = [
            patchify(latent[:, : h * patch, : w * patch], patch)
            for latent, (h, w) in zip(latents, pack.latent_shapes, strict=True)
        ]
        self.clean = torch.cat(crops).float()  # (k, channels)
        if noise is None:
            noise = torch.randn(self.clean.shape, generator=generator)
        if noise.shape != self.clean.shape:
            raise ValueError(f"noise is {tuple(noise.shape)}; the pack's latent tokens are {tuple(self.clean.shape)}")
        self.noise = noise.to(self.clean)
        shift = model.config.timestep_shift if shift is None else shift
        # (k,): 0 at clean images, whose raw timestep is -inf
        self.timesteps = flow.training_timesteps(pack.raw_timesteps, shift)
        self.noised = flow.add_noise(self.clean, self.noise, self.timesteps)


def _run_decoder(model: Bagel, pack: Pack, latent: NoisedLatents | None, targets_only: bool) -> Tensor:
    """Embed all tokens, run the decoder and return its output (L, hidden) in sequence order."""
    parts = [(pack.text_index, model.language_model.model.embed_tokens(pack.text_ids))]
    if pack.vit_lengths:
        parts.append((pack.vit_index, model.embed_vit(pack.vit_tokens, pack.vit_position_ids, pack.vit_lengths)))
    if latent is not None:
        embedded = model.embed_latents(latent.noised, latent.timesteps, pack.latent_position_ids)
        parts.append((pack.latent_index, embedded))
    tokens = torch.cat([tokens for _, tokens in parts])  # (L, hidden), grouped by kind
    # Back in the order of the sequence: the indices of all parts together are a permutation of 0 .. L - 1.
    sequence = torch.empty_like(tokens).index_copy(0, torch.cat([index for index, _ in parts]), tokens)
    return rows.run_pack(model.language_model.model, sequence, pack, targets_only)


def _add_velocity(model: Bagel, pack: Pack, latent: NoisedLatents, output: BagelOutput) -> None:
    noised = pack.layout.noised_latents  # (n,)
    output.timesteps, output.noised = latent.timesteps[noised], latent.noised[noised]
    output.clean, output.noise = latent.clean[noised], latent.noise[noised]
    output.velocity = model.llm2vae(output.hidden[pack.mse_index])  # (n, channels)
