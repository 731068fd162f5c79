"""Where the tokens of a pack stand when the decoder runs it.

All of it is worked out on the host when the pack is made, so that a step on a GPU never waits for a length or a count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

import torch
from torch import Tensor

from visdyn.models.bagel.mask import TokenLabels


def expert_index(text_index: Tensor, vit_index: Tensor, latent_index: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tokens each expert processes: latents go to the generation expert, all else to understanding.

    The markers around an image's latents are text tokens and stay with the understanding expert.
    """
    return torch.cat([text_index, vit_index]), latent_index


@dataclass(frozen=True)
class Places:
    """Where one expert's tokens stand: index in the pack, row and slot, int64 (n,) each; slots a row."""

    index: Tensor
    row: Tensor
    slot: Tensor
    slots: int

    @classmethod
    def of(cls, index: Tensor, sample: Tensor, samples: int) -> Places:
        """Place tokens `index` (n,), each in the row of its sample (L,), in their order, at the right end."""
        row = sample[index]  # (n,)
        counts = torch.bincount(row, minlength=samples)  # (samples,)
        # Rank of a token within its row: its place among the tokens sorted by row, minus where its row begins.
        order = torch.argsort(row, stable=True)  # (n,)
        first = counts.cumsum(0) - counts  # (samples,)
        rank = torch.empty_like(row)
        rank[order] = torch.arange(len(row)) - first[row[order]]
        slots = int(counts.max())
        return cls(index, row, rank + slots - counts[row], slots)

    def widen(self, extra: int) -> Places:
        """Return the places with so many empty slots more at the left of each row."""
        return replace(self, slot=self.slot + extra, slots=self.slots + extra) if extra else self

    def scatter(self, values: Tensor, rows: int, fill: float = 0) -> Tensor:
        """Return values (L, ...) of the pack as (rows, slots, ...)."""
        block = values.new_full((rows, self.slots, *values.shape[1:]), fill)
        return block.index_put((self.row, self.slot), values[self.index])


@dataclass(frozen=True)
class Layout:
    """Both ways to run a pack: a sample a row, or all of it as one row under a dense mask.

    Attributes:
        labels: what the attention rule must know of each token.
        rows: how many samples. und, gen: the experts' tokens, a sample a row.
        whole_und, whole_gen: the same in one row.
        noised: the noised tokens among `gen`; its slots are those from the right that hold all of them, its slot
            counts from the first of these. noised_latents: int64, which of the latent tokens they are.
    """

    labels: TokenLabels
    rows: int
    und: Places
    gen: Places
    whole_und: Places
    whole_gen: Places
    noised: Places
    noised_latents: Tensor

    @classmethod
    def of(
        cls,
        und: Tensor,
        gen: Tensor,
        noised_index: Tensor,
        split_lengths: Sequence[int],
        split_modes: Sequence[str],
        sample_lengths: Sequence[int],
    ) -> Layout:
        """Lay out a pack on the CPU.

        Args:
            und, gen: int64 (U,) and (G,), the experts' tokens. noised_index: int64, the noised ones of `gen`, in order.
            split_lengths, split_modes, sample_lengths: see `mask.attention_mask`.
        """
        labels, samples = TokenLabels.of(split_lengths, split_modes, sample_lengths), len(sample_lengths)
        in_rows = [Places.of(index, labels.sample, samples) for index in (und, gen)]
        zeros = torch.zeros_like(labels.sample)
        whole = [Places.of(index, zeros, 1) for index in (und, gen)]
        latents = torch.isin(gen, noised_index).nonzero().flatten()
        row, slot = in_rows[1].row[latents], in_rows[1].slot[latents]
        # Tokens stand at the right end of their row, so the noised token furthest left decides for all rows.
        first = int(slot.min()) if len(slot) else in_rows[1].slots
        noised = Places(gen[latents], row, slot - first, in_rows[1].slots - first)
        return cls(labels, samples, *in_rows, *whole, noised, latents)


def move(value, device: torch.device | str):
    """Return a tensor, or a dataclass with the tensors in it, on a device; other values as they are."""
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value):
        return replace(value, **{part.name: move(getattr(value, part.name), device) for part in fields(value)})
    return value
