"""Cached contexts for inference: what the model has read so far, as keys and values per layer.

A context is never changed in place: reading something returns a new one. Guidance branches therefore
share what they have in common without copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visdyn.models.bagel.decoder import KeysValues, Room, Streams
from visdyn.models.bagel.embeddings import grid_position_ids, patchify

if TYPE_CHECKING:
    from visdyn.models.bagel.model import Bagel


@dataclass(frozen=True)
class Context:
    """Batch of B equally laid out contexts.

    Attributes:
        layers: keys and values per layer, tokens in sequence order; empty before anything was read.
        position: int64 (B,), the next rotary position.
        visible: bool (B, tokens), false at padding; None when there is none.
    """

    layers: tuple[KeysValues, ...]
    position: Tensor
    visible: Tensor | None = None

    def __len__(self) -> int:
        return self.layers[0].keys.shape[2] if self.layers else 0


def is_text(item) -> bool:
    """Tell a text input (a `str` or token ids) from an image reference."""
    return isinstance(item, str) or (isinstance(item, list | tuple) and all(isinstance(i, int) for i in item))


def new_context(model: Bagel, batch: int = 1) -> Context:
    """Return an empty context at position 0."""
    return Context((), torch.zeros(batch, dtype=torch.int64, device=model.device))


def run_block(
    model: Bagel, context: Context, streams: Streams, positions: Tensor, causal: bool = False
) -> tuple[Streams, list[KeysValues]]:
    """Run tokens that see the whole context and, causally or fully, each other; nothing is kept.

    Args:
        streams: batch of B, or of n x 1 when the context is one that n candidates share.
        positions: int64 (batch or 1, U + G), und tokens first.
    """
    batch, count = streams.und.shape[0], streams.und.shape[1] + streams.gen.shape[1]
    # Candidates that share one context broadcast its (1, kv heads, S, head_dim) without a copy.
    past = [
        KeysValues(layer.keys.expand(batch, -1, -1, -1), layer.values.expand(batch, -1, -1, -1))
        for layer in context.layers
    ]
    mask = _make_mask(context, count, causal)
    return model.language_model.model(streams, positions, mask, past or None)


def _make_mask(context: Context, count: int, causal: bool = False) -> Tensor | None:
    """Return what `count` new tokens see of the context and of each other, bool, true = may attend; None = all."""
    if not causal and context.visible is None:
        return None
    device = context.position.device
    own = torch.ones(count, count, dtype=torch.bool, device=device)  # (query, key) of this block
    own = own.tril() if causal else own
    visible = context.visible
    if visible is None:
        visible = torch.ones(1, len(context), dtype=torch.bool, device=device)
    rows = visible[:, None, None, :].expand(-1, 1, count, -1)  # (B or 1, 1, count, S)
    return torch.cat([rows, own.expand(len(visible), 1, count, count)], dim=-1)  # (B or 1, 1, count, S + count)


def append(context: Context, new: list[KeysValues], position: Tensor, order=None, visible=None) -> Context:
    """Return the context with new keys and values (put in sequence order) at its end."""
    if order is not None:  # the decoder works und-first; the cache keeps the order in which tokens are read
        new = [KeysValues(keys[:, :, order], values[:, :, order]) for keys, values in new]
    if context.layers:
        pairs = zip(context.layers, new, strict=True)
        new = [KeysValues(*(torch.cat(both, dim=2) for both in zip(old, own, strict=True))) for old, own in pairs]
    # A mask of visible tokens exists from the first padded text on, and then for every token, (B, tokens).
    if visible is None and context.visible is not None:
        added = new[0].keys.shape[2] - context.visible.shape[1]
        visible = context.visible.new_ones(len(position), added)
    if visible is not None and len(context):
        before = context.visible
        if before is None:
            before = visible.new_ones(len(position), len(context))
        visible = torch.cat([before, visible], dim=1)
    return Context(tuple(new), position, visible)


def _no_latents(model: Bagel, batch: int) -> Tensor:
    return torch.zeros(batch, 0, model.config.text.hidden_size, dtype=model.dtype, device=model.device)


def mark_text(model: Bagel, ids: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return [bos] ids [eos] as (B, n + 2) and the marked lengths (B,); after a shorter text comes padding."""
    special = model.config.special_tokens
    lengths = torch.full((len(ids),), ids.shape[1], device=ids.device) if lengths is None else lengths.to(ids.device)
    marked = torch.nn.functional.pad(ids, (1, 1), value=special.eos_token_id)  # (B, n + 2)
    marked[:, 0] = special.bos_token_id
    marked.scatter_(1, lengths.unsqueeze(1) + 1, special.eos_token_id)
    return marked, lengths + 2


def add_text(model: Bagel, context: Context, ids: Tensor | Sequence[int], lengths: Tensor | None = None) -> Context:
    """Read text.

    Args:
        ids: int64 (B, n) without markers, or one list of ids.
        lengths: int64 (B,), true lengths of padded rows; None when all have n tokens.
    """
    ids = torch.as_tensor(ids, dtype=torch.int64, device=model.device).reshape(len(context.position), -1)
    tokens, marked_lengths = mark_text(model, ids, lengths)
    und = model.language_model.model.embed_tokens(tokens)
    offsets = torch.arange(tokens.shape[1], device=model.device)  # (n + 2,)
    streams = Streams(und, _no_latents(model, len(und)))
    _, new = run_block(model, context, streams, context.position.unsqueeze(1) + offsets, causal=True)
    visible = None if lengths is None else offsets < marked_lengths.unsqueeze(1)
    return append(context, new, context.position + marked_lengths, visible=visible)


def embed_markers(model: Bagel, batch: int) -> Tensor:
    """Return the embedded start and end marker of an image, (batch, 2, hidden)."""
    special = model.config.special_tokens
    # Filled in on the device: a list would be copied there in each pass.
    ids = [torch.full((1,), i, device=model.device) for i in (special.start_of_image, special.end_of_image)]
    return model.language_model.model.embed_tokens(torch.cat(ids)).expand(batch, 2, -1)


def embed_vit_images(model: Bagel, pixels: Tensor) -> Tensor:
    """Return ViT tokens (B, n, hidden) of equally sized normalised images (B, 3, H, W).

    Raises:
        ValueError: the model has no ViT, or the size does not fit it.
    """
    vision = model.config.vision
    if vision is None:
        raise ValueError("a ViT image was given to a model without a ViT (config.vision is None)")
    grid = [side // vision.patch_size for side in pixels.shape[-2:]]
    if [side * vision.patch_size for side in grid] != list(pixels.shape[-2:]):
        raise ValueError(f"ViT images of {tuple(pixels.shape[-2:])} pixels are no multiple of {vision.patch_size}")
    ids = grid_position_ids(*grid, model.config.vit_max_num_patch_per_side, model.device)
    patches = patchify(pixels.to(model.device), vision.patch_size).flatten(0, 1)  # (B * n, patch_dim)
    tokens = model.embed_vit(patches, ids.repeat(len(pixels)), [len(ids)] * len(pixels))
    return tokens.unflatten(0, (len(pixels), len(ids)))


def add_vit_image(model: Bagel, context: Context, pixels: Tensor) -> Context:
    """Read equally sized normalised images (B, 3, H, W) through the ViT; they take one rotary position."""
    tokens = embed_vit_images(model, pixels)
    start, end = embed_markers(model, len(tokens)).split(1, dim=1)
    streams = Streams(torch.cat([start, tokens, end], dim=1), _no_latents(model, len(tokens)))
    positions = context.position.unsqueeze(1).expand(-1, streams.und.shape[1])
    _, new = run_block(model, context, streams, positions)
    return append(context, new, context.position + 1)


def latent_grid(model: Bagel, latents: Tensor) -> tuple[tuple[int, int], Tensor]:
    """Return the token grid (h, w) of latents (..., z, H, W) and its position ids."""
    grid = tuple(side // model.config.latent_patch_size for side in latents.shape[-2:])
    return grid, grid_position_ids(*grid, model.config.max_latent_size, model.device)


def add_vae_image(model: Bagel, context: Context, latents: Tensor) -> Context:
    """Read clean latents (B, z, H, W); they take one rotary position."""
    _, ids = latent_grid(model, latents)
    tokens = patchify(latents.to(model.device), model.config.latent_patch_size)  # (B, h * w, latent_dim)
    zero = torch.zeros(1, device=model.device)
    streams = Streams(embed_markers(model, len(tokens)), model.embed_latents(tokens, zero, ids))
    positions = context.position.unsqueeze(1).expand(-1, 2 + len(ids))
    _, new = run_block(model, context, streams, positions)
    order = [0, *range(2, 2 + len(ids)), 1]  # start marker, latents, end marker
    return append(context, new, context.position + 1, order=order)


@dataclass(frozen=True)
class Branch:
    """A context with room behind it for the tokens of one evaluation; every evaluation writes there anew.

    Attributes:
        layers: per layer, see `decoder.Room`.
        position: int64 (B or 1,), the rotary position of all tokens of an evaluation.
    """

    layers: tuple[Room, ...]
    position: Tensor


def make_branch(model: Bagel, context: Context, batch: int, tokens: int) -> Branch:
    """Copy a context, once for all evaluations, to where `tokens` latent tokens and two markers have room behind it.

    Args:
        batch: rows; they may share a context of one.
    """
    text, count, length = model.config.text, 2 + tokens, len(context)
    mask, layers = _make_mask(context, count), []
    like = model.vae2llm.weight
    for index in range(text.num_hidden_layers):
        past = context.layers[index] if context.layers else KeysValues(like, like)
        shape = batch, text.num_key_value_heads, length + count, text.head_dim
        room = Room(past.keys.new_empty(shape), past.values.new_empty(shape), mask)
        if length:
            room.keys[:, :, :length], room.values[:, :, :length] = past
        layers.append(room)
    return Branch(tuple(layers), context.position)


def velocities(model: Bagel, branches: Sequence[Branch], x_t: Tensor, t: Tensor, position_ids: Tensor) -> list[Tensor]:
    """Return each branch's velocity, float32 (B, n, latent_dim), of noised latent tokens x_t of that shape: one pass.

    Args:
        t: scalar or (B, 1) timestep in [0, 1].
        position_ids: int64 (n,), rows of the latent position table.
    """
    timesteps, times = t.to(model.device).reshape(-1, 1), len(branches)
    gen = model.embed_latents(x_t, timesteps, position_ids)  # (B, n, hidden)
    # Branch after branch: the products run over the rows of all, the attention of each over its own.
    streams = Streams(embed_markers(model, times * len(x_t)), gen.repeat(times, 1, 1) if times > 1 else gen)
    positions = branches[0].position  # (B or 1,)
    if times > 1:
        positions = torch.cat([branch.position.expand(len(x_t)) for branch in branches])  # (branches * B,)
    positions = positions.unsqueeze(1).expand(-1, 2 + len(position_ids))
    rooms = list(zip(*(branch.layers for branch in branches), strict=True))  # per layer, of each branch
    streams, _ = model.language_model.model(streams, positions, rooms=rooms)
    return list(model.llm2vae(streams.gen).float().chunk(times))


def velocity(model: Bagel, context: Context, x_t: Tensor, t: Tensor, position_ids: Tensor) -> Tensor:
    """Return the velocity of one context, float32 (B, n, latent_dim); arguments as of `velocities`."""
    branch = make_branch(model, context, len(x_t), len(position_ids))
    return velocities(model, [branch], x_t, t, position_ids)[0]
