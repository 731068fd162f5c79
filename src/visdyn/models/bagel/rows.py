"""A pack run as a batch of rows, one sample a row: exact, and far cheaper than one dense mask over the whole pack.

A dense mask costs the square of all tokens together, although samples never see each other. In rows each expert's
tokens stand at the right end of a padded block, so that what a sample generates comes last, and the last layer need
not compute anything else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visdyn.models.bagel import mask as masks
from visdyn.models.bagel.decoder import Decoder, Streams
from visdyn.models.bagel.packing import Pack

# Rows waste their padding: above this many times the pack's tokens, the dense mask over the pack is used.
MOST_PADDING = 1.5


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
        rank[order] = torch.arange(len(row), device=row.device) - first[row[order]]
        slots = int(counts.max())
        return cls(index, row, rank + slots - counts[row], slots)

    def scatter(self, values: Tensor, rows: int, fill: float = 0) -> Tensor:
        """Return values (L, ...) of the pack as (rows, slots, ...)."""
        block = values.new_full((rows, self.slots, *values.shape[1:]), fill)
        return block.index_put((self.row, self.slot), values[self.index])


def is_padding_small(pack: Pack, und: Places, gen: Places) -> bool:
    """Whether the padded rows are not much more than the pack's own tokens."""
    return len(pack.sample_lengths) * (und.slots + gen.slots) <= MOST_PADDING * len(pack)


def run_rows(decoder: Decoder, sequence: Tensor, pack: Pack, und: Places, gen: Places, targets_only: bool) -> Tensor:
    """Run the decoder on embedded tokens (L, hidden) of a pack and return its output (L, hidden).

    Args:
        targets_only: compute the last layer for the noised tokens only; other outputs are then zero.
    """
    rows = len(pack.sample_lengths)
    streams = Streams(und.scatter(sequence, rows), gen.scatter(sequence, rows))  # (rows, U, hidden), (rows, G, hidden)
    positions = torch.cat([part.scatter(pack.position_ids, rows) for part in (und, gen)], dim=1)  # (rows, U + G)
    wanted = _count_target_slots(pack, gen) if targets_only else None
    streams, _ = decoder(streams, positions, _make_row_mask(pack, und, gen), outputs=wanted)
    output = sequence.new_zeros(sequence.shape)  # (L, hidden)
    if wanted is None:
        output = output.index_put((und.index,), streams.und[und.row, und.slot])
        return output.index_put((gen.index,), streams.gen[gen.row, gen.slot])
    # The decoder returned no und tokens and only the last `wanted` gen slots: (rows, wanted, hidden).
    kept = gen.slot >= gen.slots - wanted
    return output.index_put((gen.index[kept],), streams.gen[gen.row[kept], gen.slot[kept] - (gen.slots - wanted)])


def _count_target_slots(pack: Pack, gen: Places) -> int:
    """Return how many slots from the right hold all noised tokens."""
    # Tokens stand at the right end of their row, so the noised token furthest left decides for all rows.
    noised = torch.zeros(len(pack), dtype=torch.bool, device=gen.index.device)
    noised[pack.mse_index] = True
    return gen.slots - int(gen.slot[noised[gen.index]].min())


def _make_row_mask(pack: Pack, und: Places, gen: Places) -> Tensor:
    """Return the attention rule, bool (rows, 1, U + G, U + G); a padded token sees itself alone."""
    labels = masks.TokenLabels.of(pack.split_lengths, pack.split_modes, pack.sample_lengths, pack.position_ids.device)
    rows = len(pack.sample_lengths)
    names = ("order", "split", "causal", "noise")
    fills = {"order": -1, "split": -1}  # padding is in no split, and not earlier than anything that matters
    spread = {
        name: torch.cat([part.scatter(getattr(labels, name), rows, fills.get(name, 0)) for part in (und, gen)], dim=1)
        for name in names
    }
    real = spread["split"] >= 0  # (rows, U + G)
    # (rows, query, key). A padded query must see something, or its softmax is NaN and spoils the gradients.
    seen = masks.allowed(*(spread[name] for name in names)) & real[:, None, :]
    itself = torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    return (seen | (itself & ~real[:, :, None])).unsqueeze(1)
