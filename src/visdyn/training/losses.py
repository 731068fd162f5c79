"""Losses of the papers: recognition-weighted next-token prediction, rectified flow, Do-Undo consistency."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from visdyn.training.flow_losses import consistency_loss, rectified_flow_loss

__all__ = [
    "IGNORED",
    "consistency_loss",
    "normalise_weights",
    "recognition_weights",
    "rectified_flow_loss",
    "token_distances",
    "weighted_cross_entropy",
]

IGNORED = -100
_NO_CHANGE = 1e-12  # a scale below this is rounding, not change


def recognition_weights(
    source_features: torch.Tensor, target_features: torch.Tensor, floor: float = 0.0, normalization: str = "mean"
) -> torch.Tensor:
    """Weigh each image token by how much its place changed (Bootstrapping, Eq. 2).

    `token_distances`, then `normalise_weights`, which says what the options and errors are.

    Args:
        source_features, target_features: float (N, C, h, w), the tokenizer's pre-quantised features.

    Returns:
        float32 (N, h * w), row-major.
    """
    return normalise_weights(token_distances(source_features, target_features), floor, normalization)


def token_distances(source_features: torch.Tensor, target_features: torch.Tensor) -> torch.Tensor:
    """Return ||z_t - z_s||^2 over the channels: float (N, C, h, w) twice to float32 (N, h * w), row-major."""
    return (target_features.float() - source_features.float()).pow(2).sum(1).flatten(1)


def normalise_weights(distances: torch.Tensor, floor: float = 0.0, normalization: str = "mean") -> torch.Tensor:
    """Turn the distances (N, L) of N images into loss weights (N, L), which Eq. 2 leaves without a scale.

    `mean` divides by the image's mean so that weights average 1. `floor` f mixes in a uniform part, (1 - f) w + f:
    0 is the paper's formula to the letter, under which unchanged regions are hardly trained at all.

    Args:
        distances: as `token_distances` returns them.
        floor: in [0, 1].
        normalization: `mean`, `max` (largest weight 1) or `none` (raw distances).

    Returns:
        float32 (N, L). An image without any change weighs 1 everywhere, except under `none`.

    Raises:
        ValueError: a floor outside [0, 1], or an unknown normalisation.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must be in [0, 1], not {floor}")
    if normalization not in ("mean", "max", "none"):
        raise ValueError(f"unknown normalization {normalization!r}; one of mean, max, none")
    weights = distances.float()
    if normalization != "none":
        scale = weights.mean(1, keepdim=True) if normalization == "mean" else weights.amax(1, keepdim=True)
        weights = torch.where(scale > _NO_CHANGE, weights / scale.clamp_min(_NO_CHANGE), torch.ones_like(weights))
    return (1 - floor) * weights + floor


def weighted_cross_entropy(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    chunk_size: int = 4096,
) -> torch.Tensor:
    """Return sum(w * nll) / sum(w) without ever holding all logits.

    The head is applied to `chunk_size` positions at a time; logits are recomputed in the backward pass.

    Args:
        hidden: (..., D) states that predict `targets`.
        head: (V, D) rows of the output head.
        targets: int64 (...), -100 is ignored.
        weights: float (...), default 1.
        chunk_size: positions whose logits exist at one time.
    """
    hidden, targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    weights = torch.ones_like(targets, dtype=torch.float32) if weights is None else weights.reshape(-1).float()
    weights = weights * (targets != IGNORED)
    total = hidden.new_zeros((), dtype=torch.float32)
    chunks = range(0, len(targets), chunk_size)
    for start in chunks:
        part = slice(start, start + chunk_size)
        arguments = (hidden[part], head, targets[part], weights[part])
        lone = len(chunks) == 1 or not torch.is_grad_enabled()
        total = total + (_chunk_loss(*arguments) if lone else checkpoint(_chunk_loss, *arguments, use_reentrant=False))
    return total / weights.sum().clamp_min(1e-12)


def _chunk_loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    logits = F.linear(hidden, head).float()
    return (F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none") * weights).sum()
