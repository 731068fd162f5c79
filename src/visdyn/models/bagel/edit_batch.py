"""Batched edits of one layout: the fast path for training and sampling small models.

Every row is [source latents] [ViT of the source, optional] [text] [target latents]. Equal to packing the rows one
by one (a test proves it), but without index tensors: experts work on whole (batch, tokens) blocks, and the mask
is shared by the batch unless texts differ in length or conditions are dropped per row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visdyn.models.bagel import context as contexts
from visdyn.models.bagel import rectified_flow as flow
from visdyn.models.bagel.decoder import Streams
from visdyn.models.bagel.embeddings import patchify, unpatchify
from visdyn.models.bagel.model_outputs import BagelOutput
from visdyn.models.bagel.sampler import Branches, SamplerSettings, sample_latents

if TYPE_CHECKING:
    from visdyn.models.bagel.model import Bagel

SOURCE, VIT, TEXT, TARGET = range(4)


def forward_edit_batch(
    model: Bagel,
    source_latents: Tensor,
    text_ids: Tensor,
    target_latents: Tensor,
    t: Tensor,
    noise: Tensor,
    *,
    text_lengths: Tensor | None = None,
    source_pixels: Tensor | None = None,
    drop_text: Tensor | None = None,
    drop_source: Tensor | None = None,
    drop_vit: Tensor | None = None,
) -> BagelOutput:
    """Training forward over a batch of B edits.

    Args:
        source_latents, target_latents: scaled latents (B, z, h, w), e.g. from `Autoencoder.encode`.
        text_ids: int64 (B, n), without begin and end markers, padded at the end with any id.
        t: float32 (B,), timesteps in (0, 1], already shifted (`flow.training_timesteps`).
        noise: (B, z, h, w).
        text_lengths: int64 (B,), true lengths of padded texts; None when all have n tokens.
        source_pixels: normalised pixels (B, 3, H, W) of the source for the ViT; None leaves the ViT out.
        drop_text, drop_source, drop_vit: bool (B,), conditions to drop for classifier-free guidance.

    Returns:
        Velocities, targets and squared errors (B, h * w, latent_dim); `timesteps` (B, h * w).
    """
    patch = model.config.latent_patch_size
    source, clean = patchify(source_latents, patch).float(), patchify(target_latents, patch).float()
    tokens_noise = patchify(noise, patch).to(clean)
    noised = flow.add_noise(clean, tokens_noise, t)
    _, ids = contexts.latent_grid(model, target_latents)
    _, source_ids = contexts.latent_grid(model, source_latents)
    tokens, marked_lengths = contexts.mark_text(model, text_ids, text_lengths)
    und, und_blocks = _understanding_tokens(model, tokens, source_pixels)
    zero = torch.zeros(1, device=clean.device)
    gen = torch.cat(
        [model.embed_latents(source, zero, source_ids), model.embed_latents(noised, t.unsqueeze(1), ids)], dim=1
    )
    blocks = torch.tensor(und_blocks + [SOURCE] * len(source_ids) + [TARGET] * len(ids), device=clean.device)
    # Uniform texts and no dropout need one row of positions and one mask for the whole batch.
    rows = slice(None) if text_lengths is not None or drop_text is not None else slice(0, 1)
    positions = _positions(blocks, marked_lengths[rows], drop_text)
    hidden_keys = _hidden_keys(blocks, marked_lengths, text_lengths is not None, drop_source, drop_vit, drop_text)
    mask = _mask(blocks, hidden_keys)
    streams, _ = model.language_model.model(Streams(und, gen), positions, mask, outputs=len(ids))
    output = BagelOutput(clean=clean, noised=noised, timesteps=t.unsqueeze(1).expand(clean.shape[:2]))
    output.velocity = model.llm2vae(streams.gen)
    output.velocity_target = flow.velocity_target(clean, tokens_noise)
    output.mse = (output.velocity.float() - output.velocity_target).square()
    return output


def _understanding_tokens(model: Bagel, tokens: Tensor, pixels: Tensor | None) -> tuple[Tensor, list[int]]:
    """Return the und stream (B, U, hidden) and the block of each of its tokens."""
    markers = contexts.embed_markers(model, len(tokens))
    parts, blocks = [markers], [SOURCE] * 2
    if pixels is not None:
        vit = contexts.embed_vit_images(model, pixels)
        parts += [markers, vit]
        blocks += [VIT] * (2 + vit.shape[1])
    parts += [model.language_model.model.embed_tokens(tokens), markers]
    return torch.cat(parts, dim=1), blocks + [TEXT] * tokens.shape[1] + [TARGET] * 2


def _positions(blocks: Tensor, marked_lengths: Tensor, drop_text: Tensor | None) -> Tensor:
    """Return rotary positions (rows, L): one per image, counting up in text; a dropped text takes none."""
    first_text = int((blocks == VIT).any()) + 1
    lengths = marked_lengths if drop_text is None else marked_lengths.masked_fill(drop_text, 0)
    positions = torch.zeros(len(lengths), len(blocks), dtype=torch.int64, device=blocks.device)
    positions[:, blocks == VIT] = 1
    count = int((blocks == TEXT).sum())
    positions[:, blocks == TEXT] = first_text + torch.arange(count, device=blocks.device)
    positions[:, blocks == TARGET] = (first_text + lengths).unsqueeze(1)
    return positions


def _hidden_keys(
    blocks: Tensor,
    marked_lengths: Tensor,
    padded: bool,
    drop_source: Tensor | None,
    drop_vit: Tensor | None,
    drop_text: Tensor | None,
) -> Tensor | None:
    """Return bool (B, L), true where a key must not be seen from other blocks; None when there is none."""
    hidden = torch.zeros(len(marked_lengths), len(blocks), dtype=torch.bool, device=blocks.device)
    for block, drop in ((SOURCE, drop_source), (VIT, drop_vit), (TEXT, drop_text)):
        if drop is not None:
            hidden |= drop.to(blocks.device).unsqueeze(1) & (blocks == block)
    if padded:
        offsets = torch.arange(int((blocks == TEXT).sum()), device=blocks.device)
        hidden[:, blocks == TEXT] |= offsets >= marked_lengths.unsqueeze(1)
    return hidden if padded or any(drop is not None for drop in (drop_source, drop_vit, drop_text)) else None


def _mask(blocks: Tensor, hidden_keys: Tensor | None) -> Tensor:
    """Return bool (L, L), or (B, 1, L, L) where rows differ. Tokens of hidden blocks still see their own block."""
    order = torch.arange(len(blocks), device=blocks.device)
    same = blocks[:, None] == blocks[None, :]
    inside = same & ((blocks[None, :] != TEXT) | (order[None, :] <= order[:, None]))
    earlier = blocks[None, :] < blocks[:, None]
    if hidden_keys is None:
        return inside | earlier
    return (inside | (earlier & ~hidden_keys[:, None, :])).unsqueeze(1)


@torch.no_grad()
def read_edit_batch(
    model: Bagel,
    source_latents: Tensor,
    text_ids: Tensor,
    *,
    text_lengths: Tensor | None = None,
    source_pixels: Tensor | None = None,
) -> Branches:
    """Read a batch of sources and instructions into the three guidance branches; arguments as above."""
    empty = contexts.new_context(model, len(source_latents))
    image = contexts.add_vae_image(model, empty, source_latents)
    if source_pixels is not None:
        image = contexts.add_vit_image(model, image, source_pixels)
    return Branches(
        gen=contexts.add_text(model, image, text_ids, text_lengths),
        cfg_text=image,
        cfg_img=contexts.add_text(model, empty, text_ids, text_lengths),
    )


@torch.no_grad()
def sample_edit_batch(
    model: Bagel,
    source_latents: Tensor,
    text_ids: Tensor,
    noise: Tensor,
    settings: SamplerSettings,
    *,
    text_lengths: Tensor | None = None,
    source_pixels: Tensor | None = None,
) -> Tensor:
    """Return generated latents (B, z, h, w) of a batch of edits.

    Args:
        noise: (B, z, h, w), the state at t = 1. The rest as in `forward_edit_batch`.
    """
    branches = read_edit_batch(model, source_latents, text_ids, text_lengths=text_lengths, source_pixels=source_pixels)
    grid, _ = contexts.latent_grid(model, noise)
    patch = model.config.latent_patch_size
    return unpatchify(sample_latents(model, branches, grid, patchify(noise, patch), settings), grid, patch)
