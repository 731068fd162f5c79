"""A pack run as a batch of rows, one sample a row: exact, and far cheaper than one dense mask over the whole pack.

A dense mask costs the square of all tokens together, although samples never see each other. In rows each expert's
tokens stand at the right end of a padded block, so that what a sample generates comes last, and the last layer need
not compute anything else. Where rows would be mostly padding, all samples stand in one row under the dense mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visdyn.models.bagel import mask as masks
from visdyn.models.bagel.decoder import Decoder, Streams
from visdyn.models.bagel.layout import Layout, Places
from visdyn.models.bagel.packing import Pack

# Rows waste their padding: above this many times the pack's tokens, the dense mask over the pack is used.
MOST_PADDING = 1.5
# Where attention plans a kernel for each new length, rows are filled up to one of few lengths.
PLANNING_DEVICES = ("cuda",)
SMALLEST_STEP = 64


def is_padding_small(layout: Layout, tokens: int) -> bool:
    """Whether the padded rows are not much more than the pack's own tokens."""
    return layout.rows * (layout.und.slots + layout.gen.slots) <= MOST_PADDING * tokens


def round_length(length: int, device: torch.device) -> int:
    """Return how many slots a row of `length` tokens gets: so many, or where plans cost, one of few numbers.

    These are multiples of the largest power of two below an eighth of the length, `SMALLEST_STEP` at least: a long row
    grows by an eighth at most.
    """
    if device.type not in PLANNING_DEVICES:
        return length
    step = max(SMALLEST_STEP, 1 << (max(1, length // 8).bit_length() - 1))
    return -(-length // step) * step


def run_pack(decoder: Decoder, sequence: Tensor, pack: Pack, targets_only: bool) -> Tensor:
    """Run the decoder on embedded tokens (L, hidden) of a pack and return its output (L, hidden).

    Args:
        targets_only: in rows, compute the last layer for the noised tokens only; other outputs are then zero.
    """
    layout, in_rows = pack.layout, is_padding_small(pack.layout, len(pack))
    rows = layout.rows if in_rows else 1
    und, gen = (layout.und, layout.gen) if in_rows else (layout.whole_und, layout.whole_gen)
    length = und.slots + gen.slots
    und = und.widen(round_length(length, sequence.device) - length)
    streams = Streams(und.scatter(sequence, rows), gen.scatter(sequence, rows))  # (rows, U, hidden), (rows, G, hidden)
    positions = torch.cat([part.scatter(pack.position_ids, rows) for part in (und, gen)], dim=1)  # (rows, U + G)
    mask = _make_row_mask(layout, und, gen, rows)
    output = sequence.new_zeros(sequence.shape)  # (L, hidden)
    if targets_only and in_rows:
        noised = layout.noised
        # No und tokens come back, and only the last gen slots: (rows, noised.slots, hidden).
        streams, _ = decoder(streams, positions, mask, outputs=noised.slots)
        return output.index_put((noised.index,), streams.gen[noised.row, noised.slot])
    streams, _ = decoder(streams, positions, mask)
    output = output.index_put((und.index,), streams.und[und.row, und.slot])
    return output.index_put((gen.index,), streams.gen[gen.row, gen.slot])


def _make_row_mask(layout: Layout, und: Places, gen: Places, rows: int) -> Tensor:
    """Return the attention rule, bool (rows, 1, U + G, U + G); a padded token sees itself alone."""
    labels = layout.labels
    fills = {"order": -1, "split": -1}  # padding is in no split, and not earlier than anything that matters
    spread = {
        name: torch.cat([part.scatter(getattr(labels, name), rows, fills.get(name, 0)) for part in (und, gen)], dim=1)
        for name in ("order", "split", "causal", "noise")
    }
    real = spread["split"] >= 0  # (rows, U + G)
    # (rows, query, key). A padded query must see something, or its softmax is NaN and spoils the gradients.
    seen = masks.allowed(*spread.values()) & real[:, None, :]
    if rows < layout.rows:  # samples share a row
        sample = torch.cat([part.scatter(labels.sample, rows) for part in (und, gen)], dim=1)  # (rows, U + G)
        seen = seen & (sample[:, :, None] == sample[:, None, :])
    itself = torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    return (seen | (itself & ~real[:, :, None])).unsqueeze(1)
