"""Packing: several samples of any kind become one sequence of tokens with index tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visdyn.models.bagel import layout as layouts
from visdyn.models.bagel import mask as masks
from visdyn.models.bagel.config import BagelConfig
from visdyn.models.bagel.embeddings import grid_position_ids, patchify
from visdyn.models.bagel.layout import Layout, move
from visdyn.models.bagel.samples import TEXT, VAE, VIT, Part, Sample


@dataclass(frozen=True)
class Dropout:
    """Probabilities of dropping a condition, for classifier-free guidance (upstream's training code: 0.1, 0.3, 0.3)."""

    text: float = 0.0
    vit: float = 0.0
    vae: float = 0.0


@dataclass(frozen=True)
class Pack:
    """One packed sequence of L tokens. Index tensors are int64 positions in the sequence; empty parts have no rows.

    Attributes:
        text_ids, text_index: ids of text tokens and image markers, and where they stand.
        position_ids: rotary position of every token, (L,).
        vit_tokens: patches (n, patch_dim); vit_index, vit_position_ids (n,); vit_lengths: patches per image.
        images: pixels (m, 3, H, W) of all VAE images, zero-padded at the bottom and right; None without images.
        latent_shapes: (h, w) in latent tokens per VAE image; latent_index, latent_position_ids (k,).
        raw_timesteps: (k,) timesteps before the sigmoid, -inf for clean images.
        mse_index: where the noised latents stand. ce_index, ce_labels, ce_weights: tokens with cross entropy,
            what they should predict, and 1 / sqrt(answer length).
        split_lengths, split_modes, sample_lengths: see `mask.attention_mask`.
        layout: where the decoder gets each token.
    """

    text_ids: Tensor
    text_index: Tensor
    position_ids: Tensor
    vit_tokens: Tensor
    vit_index: Tensor
    vit_position_ids: Tensor
    vit_lengths: list[int]
    images: Tensor | None
    latent_shapes: list[tuple[int, int]]
    latent_index: Tensor
    latent_position_ids: Tensor
    raw_timesteps: Tensor
    mse_index: Tensor
    ce_index: Tensor
    ce_labels: Tensor
    ce_weights: Tensor
    split_lengths: list[int]
    split_modes: list[str]
    sample_lengths: list[int]
    layout: Layout

    def __len__(self) -> int:
        return sum(self.sample_lengths)

    def attention_mask(self) -> Tensor:
        """Return the dense mask, bool (L, L) as [query, key]."""
        device = self.position_ids.device
        return masks.attention_mask(self.split_lengths, self.split_modes, self.sample_lengths, device)

    def to(self, device: torch.device | str) -> Pack:
        """Return the pack with its tensors on a device."""
        return move(self, device)


def pack_samples(
    samples: Sequence[Sample],
    config: BagelConfig,
    dropout: Dropout | None = None,
    *,
    dropout_draws: Sequence[float] | None = None,
    timestep_draws: Sequence[float] | None = None,
    generator: torch.Generator | None = None,
) -> Pack:
    """Pack samples one after another.

    Args:
        dropout: probabilities; none dropped by default.
        dropout_draws: uniform numbers, one per droppable part in order; a part is dropped when its draw is
            smaller than the probability of its kind. Drawn from `generator` when not given.
        timestep_draws: standard normal numbers, one per noised image in order. Drawn when not given.

    Raises:
        ValueError: an image or a token id does not fit the model, the pack is empty, or the injected draws
            are too few or too many.
    """
    builder = _PackBuilder(config, dropout or Dropout(), _RandomDraws(dropout_draws, timestep_draws, generator))
    for sample in samples:
        builder.add_sample(sample)
    return builder.finish()


class _RandomDraws:
    """Random numbers, from a generator or from a given list that must be used up exactly."""

    def __init__(self, uniform: Sequence[float] | None, normal: Sequence[float] | None, generator) -> None:
        self.lists = {"dropout": uniform, "timestep": normal}
        self.used = {"dropout": 0, "timestep": 0}
        self.generator = generator

    def take(self, name: str) -> float:
        values, position = self.lists[name], self.used[name]
        self.used[name] += 1
        if values is None:
            draw = torch.rand if name == "dropout" else torch.randn
            return draw((), generator=self.generator, dtype=torch.float64).item()
        if position >= len(values):
            raise ValueError(f"the samples need more than the {len(values)} {name} draws that were given")
        return float(values[position])

    def check_used_up(self) -> None:
        for name, values in self.lists.items():
            if values is not None and self.used[name] != len(values):
                raise ValueError(f"{len(values)} {name} draws were given but the samples need {self.used[name]}")


@dataclass
class _PackBuilder:
    """Grows the lists of a pack part by part; `position` is the rotary counter of the current sample."""

    config: BagelConfig
    dropout: Dropout
    draws: _RandomDraws
    length: int = 0
    position: int = 0
    rotary: list[int] = field(default_factory=list)  # of every token
    text: list[tuple[int, int]] = field(default_factory=list)  # id, index
    answers: list[tuple[int, int, float]] = field(default_factory=list)  # index, id of the next token, weight
    vit: list[tuple[Tensor, Tensor, range]] = field(default_factory=list)  # patches, position ids, indices
    latents: list[tuple[Tensor, Tensor, range, float]] = field(default_factory=list)  # pixels, ids, indices, t
    latent_shapes: list[tuple[int, int]] = field(default_factory=list)
    splits: list[tuple[int, str]] = field(default_factory=list)  # length, mode
    sample_lengths: list[int] = field(default_factory=list)

    def add_sample(self, sample: Sample) -> None:
        start, self.position = self.length, 0
        adders = {TEXT: self._add_text, VIT: self._add_vit, VAE: self._add_vae}
        for part in sample:
            if part.kind not in adders:
                raise ValueError(f"part kind {part.kind!r} is unknown; known are {sorted(adders)}")
            if part.droppable and self.draws.take("dropout") < getattr(self.dropout, part.kind):
                # A dropped image still uses up a position, a dropped text leaves no trace.
                self.position += part.kind != TEXT
                continue
            adders[part.kind](part)
        self.sample_lengths.append(self.length - start)

    def _add_text(self, part: Part) -> None:
        special = self.config.special_tokens
        ids = [special.bos_token_id, *part.content, special.eos_token_id]
        start = self.length
        for offset, token in enumerate(ids):
            self._add_token(token, self.position + offset)
        if part.loss:
            # The token at start + i predicts the next one; bos is predicted by nothing, eos is.
            weight = (len(ids) - 1) ** -0.5
            self.answers += [(start + i, ids[i + 1], weight) for i in range(len(ids) - 1)]
        self.position += len(ids)
        self.splits.append((len(ids), masks.CAUSAL))

    def _add_vit(self, part: Part) -> None:
        vision = self.config.vision
        if vision is None:
            raise ValueError("a ViT part was given to a model without a ViT (config.vision is None)")
        grid = _count_patches(part.content, vision.patch_size, "ViT")
        ids = grid_position_ids(*grid, self.config.vit_max_num_patch_per_side)
        span = self._add_image(len(ids), masks.FULL)
        self.vit.append((patchify(part.content, vision.patch_size), ids, span))
        self.position += 1

    def _add_vae(self, part: Part) -> None:
        grid = _count_patches(part.content, self.config.latent_downsample, "VAE")
        ids = grid_position_ids(*grid, self.config.max_latent_size)
        span = self._add_image(len(ids), masks.NOISE if part.loss else masks.FULL)
        timestep = self.draws.take("timestep") if part.loss else float("-inf")
        self.latents.append((part.content, ids, span, timestep))
        self.latent_shapes.append(grid)
        # A noised target leaves the counter where it is: at inference the target block is not kept either.
        self.position += not part.loss

    def _add_image(self, count: int, mode: str) -> range:
        """Add both markers and room for `count` image tokens, all at one rotary position; return the room."""
        special = self.config.special_tokens
        self._add_token(special.start_of_image, self.position)
        span = range(self.length, self.length + count)
        self.rotary += [self.position] * count
        self.length += count
        self._add_token(special.end_of_image, self.position)
        self.splits.append((count + 2, mode))
        return span

    def _add_token(self, token: int, position: int) -> None:
        if not 0 <= token < self.config.text.vocab_size:
            raise ValueError(f"token id {token} is outside the vocabulary of {self.config.text.vocab_size}")
        self.text.append((token, self.length))
        self.rotary.append(position)
        self.length += 1

    def finish(self) -> Pack:
        self.draws.check_used_up()
        if self.length == 0:
            raise ValueError("the pack is empty: no samples were given, or every part was dropped")
        text_index = _to_int64(index for _, index in self.text)
        vit_index = _to_int64(i for _, _, span in self.vit for i in span)
        latent_index = _to_int64(i for _, _, span, _ in self.latents for i in span)
        mse_index = _to_int64(i for *_, span, t in self.latents if t != float("-inf") for i in span)
        lengths, modes = [length for length, _ in self.splits], [mode for _, mode in self.splits]
        experts = layouts.expert_index(text_index, vit_index, latent_index)
        return Pack(
            text_ids=_to_int64(token for token, _ in self.text),
            text_index=text_index,
            position_ids=_to_int64(self.rotary),
            vit_tokens=_concat_or_empty([tokens for tokens, _, _ in self.vit], torch.zeros(0, 0)),
            vit_index=vit_index,
            vit_position_ids=_concat_or_empty([ids for _, ids, _ in self.vit], _to_int64([])),
            vit_lengths=[len(span) for _, _, span in self.vit],
            images=_pad_images([pixels for pixels, *_ in self.latents]),
            latent_shapes=self.latent_shapes,
            latent_index=latent_index,
            latent_position_ids=_concat_or_empty([ids for _, ids, _, _ in self.latents], _to_int64([])),
            raw_timesteps=_concat_or_empty(
                [torch.full((len(ids),), t) for _, ids, _, t in self.latents], torch.zeros(0)
            ),
            mse_index=mse_index,
            ce_index=_to_int64(index for index, _, _ in self.answers),
            ce_labels=_to_int64(label for _, label, _ in self.answers),
            ce_weights=torch.tensor([weight for *_, weight in self.answers], dtype=torch.float32),
            split_lengths=lengths,
            split_modes=modes,
            sample_lengths=self.sample_lengths,
            layout=layouts.Layout.of(*experts, mse_index, lengths, modes, self.sample_lengths),
        )


def _count_patches(pixels: Tensor, patch: int, name: str) -> tuple[int, int]:
    height, width = pixels.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(f"a {name} image of {height} x {width} pixels is no multiple of {patch}; resize it first")
    return height // patch, width // patch


def _pad_images(images: list[Tensor]) -> Tensor | None:
    if not images:
        return None
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    padded = images[0].new_zeros(len(images), images[0].shape[0], height, width)  # (m, 3, H, W)
    for slot, image in zip(padded, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return padded


def _to_int64(values) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _concat_or_empty(parts: list[Tensor], empty: Tensor) -> Tensor:
    return torch.cat(parts) if parts else empty
