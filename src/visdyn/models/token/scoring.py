"""Log-likelihoods of completions under a token model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from visdyn.models.token.sequences import TokenSequence, pad_right

POSITIONS_AT_ONCE = 1024  # fp32 logits of 1,024 positions over 65,536 tokens take 256 MiB


@dataclass(frozen=True)
class Scores:
    """Log-likelihoods of N completions, in nats.

    Attributes:
        mean: float32 (N,), per scored token.
        total: float32 (N,), summed.
        num_tokens: int64 (N,), how many tokens were scored.
    """

    mean: torch.Tensor
    total: torch.Tensor
    num_tokens: torch.Tensor


@torch.inference_mode()
def score_completions(
    lm,
    sequences: Sequence[TokenSequence],
    scored: slice,
    pad: int,
    batch_size: int = 64,
    restrict_to: slice | None = None,
) -> Scores:
    """Score the tokens `scored` of every completion given all before them.

    Args:
        lm: a causal decoder `lm.model` under a bias-free `lm.lm_head`, or a peft model around it.
        sequences: prompts with completions.
        scored: which tokens of a completion count (for example `slice(0, -1)` leaves out the eos).
        pad: id of the padding token.
        batch_size: sequences in one forward; sorted by length, so that padding is small, and
            padded on the right, where no token sees it.
        restrict_to: renormalise over this block of the vocabulary (image codes), as constrained decoding does.

    Raises:
        ValueError: a scored token lies outside `restrict_to`.
    """
    if restrict_to is not None:
        check_inside_block(sequences, scored, restrict_to)
    decoder = lm.get_base_model() if hasattr(lm, "get_base_model") else lm
    device = next(lm.parameters()).device
    block = restrict_to or slice(0, None)
    lengths = [len(item.prompt) + len(item.completion) for item in sequences]
    # Tokens of each sequence that count, as positions in it.
    kept = [np.arange(len(item.prompt), length)[scored] for item, length in zip(sequences, lengths, strict=True)]
    counts = torch.tensor([len(tokens) for tokens in kept], dtype=torch.int64)
    total = torch.zeros(len(sequences))
    order = sorted(range(len(sequences)), key=lengths.__getitem__)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids = pad_right([sequences[row] for row in rows], pad)  # (B, T)
        tokens = [kept[row] for row in rows]
        owners = np.repeat(np.arange(len(rows)), [len(part) for part in tokens])  # (P,), the row of each scored token
        at = owners * ids.shape[1] + np.concatenate(tokens)  # (P,), where it stands in the flattened batch
        targets = torch.from_numpy(ids.reshape(-1)[at] - block.start).to(device)
        owners, predicting = (torch.from_numpy(values).to(device) for values in (owners, at - 1))
        states = decoder.model(input_ids=torch.from_numpy(ids).to(device), use_cache=False).last_hidden_state
        found = _log_probabilities(states.flatten(0, 1)[predicting], decoder.lm_head.weight[block], targets)
        sums = torch.zeros(len(rows), dtype=torch.float64, device=device).index_add_(0, owners, found)
        total[rows] = sums.float().cpu()  # the only wait for the device
    return Scores(total / counts.clamp_min(1), total, counts)


def check_inside_block(sequences: Sequence[TokenSequence], scored: slice, block: slice) -> None:
    for row, item in enumerate(sequences):
        tokens = item.completion[scored]
        if ((tokens < block.start) | (tokens >= block.stop)).any():
            raise ValueError(f"sequence {row} scores tokens outside the block {block.start} to {block.stop - 1}")


def _log_probabilities(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return float64 (P,), log-probabilities of `targets` (P,) after states (P, D), over the rows of `head` (V, D)."""
    parts = []
    for states, wanted in zip(hidden.split(POSITIONS_AT_ONCE), targets.split(POSITIONS_AT_ONCE), strict=True):
        logits = F.linear(states, head).float()
        parts.append(logits.gather(1, wanted[:, None])[:, 0].double() - logits.logsumexp(-1))
    return torch.cat(parts)
