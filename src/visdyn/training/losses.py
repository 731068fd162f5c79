"""Losses of the papers: recognition-weighted next-token prediction, rectified flow, Do-Undo consistency."""

from __future__ import annotations

import torch

from visdyn.training.chunked_cross_entropy import IGNORED, weighted_cross_entropy
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
