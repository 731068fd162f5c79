"""BAGEL's attention rule as a dense boolean mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CAUSAL, FULL, NOISE = "causal", "full", "noise"
MODES = (CAUSAL, FULL, NOISE)


def attention_mask(
    split_lengths: Sequence[int], split_modes: Sequence[str], sample_lengths: Sequence[int], device=None
) -> Tensor:
    """Return the mask, bool (L, L) as [query, key], true = may attend.

    A query sees a key of its own sample if the key is not later than it, or both are in one `full` or
    `noise` split; a key in a `noise` split (a noised target image) is seen from its own split only.

    Args:
        split_lengths: tokens per split, in order.
        split_modes: `causal`, `full` or `noise` per split.
        sample_lengths: tokens per sample; samples do not see each other.

    Raises:
        ValueError: unknown mode, or lengths that do not add up.
    """
    total = sum(split_lengths)
    if total != sum(sample_lengths) or len(split_lengths) != len(split_modes):
        raise ValueError(f"splits cover {total} tokens in {len(split_modes)} modes, samples {sum(sample_lengths)}")
    if unknown := set(split_modes) - set(MODES):
        raise ValueError(f"unknown split modes {sorted(unknown)}; known are {MODES}")
    split = _labels(split_lengths, device)
    sample = _labels(sample_lengths, device)
    noise = torch.tensor([mode == NOISE for mode in split_modes], dtype=torch.bool, device=device)[split]
    causal = torch.tensor([mode == CAUSAL for mode in split_modes], dtype=torch.bool, device=device)[split]
    order = torch.arange(total, device=device)
    same_split = split[:, None] == split[None, :]
    earlier = order[None, :] <= order[:, None]
    allowed = (earlier | (same_split & ~causal[None, :])) & (sample[:, None] == sample[None, :])
    return allowed & (same_split | ~noise[None, :])


def _labels(lengths: Sequence[int], device) -> Tensor:
    counts = torch.tensor(list(lengths), dtype=torch.int64, device=device)
    return torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
