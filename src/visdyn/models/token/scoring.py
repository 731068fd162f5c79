"""Log-likelihoods of completions under a token model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from visdyn.models.token.sequences import TokenSequence, collate


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
        lm: a causal language model whose forward takes `logits_to_keep`.
        sequences: prompts with completions.
        scored: which tokens of a completion count (for example `slice(0, -1)` leaves out the eos).
        pad: id of the padding token.
        batch_size: sequences in one forward; sorted by length, so that padding is small.
        restrict_to: renormalise over this block of the vocabulary (image codes), as constrained decoding does.

    Raises:
        ValueError: a scored token lies outside `restrict_to`.
    """
    if restrict_to is not None:
        check_inside_block(sequences, scored, restrict_to)
    lengths = [len(item.prompt) + len(item.completion) for item in sequences]
    order = sorted(range(len(sequences)), key=lengths.__getitem__)
    total, counts = torch.zeros(len(sequences)), torch.zeros(len(sequences), dtype=torch.int64)
    device = next(lm.parameters()).device
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = {name: value.to(device) for name, value in collate([sequences[row] for row in rows], pad).items()}
        width = batch["targets"].shape[1]  # K; completions end at the last position, so K + 1 logits suffice
        output = lm(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            logits_to_keep=width + 1,
            use_cache=False,
        )
        # Logits (B, K + 1, V): position k predicts targets[:, k], and nothing is to come after the last.
        nll = _token_nll(output.logits[:, :-1].float(), batch["targets"], restrict_to)
        for row, values in zip(rows, nll, strict=True):
            length = len(sequences[row].completion)
            kept = values[width - length :][scored]
            total[row], counts[row] = -kept.sum().cpu(), len(kept)
    return Scores(total / counts.clamp_min(1), total, counts)


def check_inside_block(sequences: Sequence[TokenSequence], scored: slice, block: slice) -> None:
    for row, item in enumerate(sequences):
        tokens = item.completion[scored]
        if ((tokens < block.start) | (tokens >= block.stop)).any():
            raise ValueError(f"sequence {row} scores tokens outside the block {block.start} to {block.stop - 1}")


def _token_nll(logits: torch.Tensor, targets: torch.Tensor, restrict_to: slice | None) -> torch.Tensor:
    """Return float32 (B, K), the negative log-probabilities of `targets` (B, K) under `logits` (B, K, V)."""
    if restrict_to is None:
        return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=-100)
    inside = (targets >= restrict_to.start) & (targets < restrict_to.stop)
    shifted = torch.where(inside, targets - restrict_to.start, -100)
    return F.cross_entropy(logits[..., restrict_to].transpose(1, 2), shifted, reduction="none", ignore_index=-100)
