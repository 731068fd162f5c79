"""BAGEL's attention rule as a dense boolean mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    labels = TokenLabels.of(split_lengths, split_modes, sample_lengths, device)
    same_sample = labels.sample[:, None] == labels.sample[None, :]  # (L, L)
    return allowed(labels.order, labels.split, labels.causal, labels.noise) & same_sample


@dataclass(frozen=True)
class TokenLabels:
    """What the rule must know of each token, int64 or bool (L,): place, split, its split's mode, and sample."""

    order: Tensor
    split: Tensor
    causal: Tensor
    noise: Tensor
    sample: Tensor

    @classmethod
    def of(cls, split_lengths, split_modes, sample_lengths, device=None) -> TokenLabels:
        """Label the tokens of a pack; arguments as in `attention_mask`."""
        split = _number_segments(split_lengths, device)  # (L,)
        # A mode is a property of a split; indexing by `split` hands it to each of the split's tokens.
        modes = {
            mode: torch.tensor([each == mode for each in split_modes], dtype=torch.bool, device=device)[split]
            for mode in (CAUSAL, NOISE)
        }
        order = torch.arange(len(split), device=device)
        return cls(order, split, modes[CAUSAL], modes[NOISE], _number_segments(sample_lengths, device))


def allowed(order: Tensor, split: Tensor, causal: Tensor, noise: Tensor) -> Tensor:
    """Return the rule inside one sample, bool (..., n, n) as [query, key], of labels (..., n)."""
    same = split[..., :, None] == split[..., None, :]  # (..., query, key)
    earlier = order[..., None, :] <= order[..., :, None]  # (..., query, key)
    # `causal` and `noise` are those of the key: within one split they are the query's as well.
    return (earlier | (same & ~causal[..., None, :])) & (same | ~noise[..., None, :])


def _number_segments(lengths: Sequence[int], device) -> Tensor:
    """Return int64 (sum of lengths,): 0 at the first segment's tokens, 1 at the second's, ..."""
    counts = torch.tensor(list(lengths), dtype=torch.int64, device=device)
    return torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
