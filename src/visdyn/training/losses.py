"""Every equation that training minimises, each once; the recipes and objectives call these functions.

- Bootstrapping, Eq. 2: `recognition_weights`; the loss that they weigh: `weighted_cross_entropy`.
- Do-Undo, Eq. 1: `consistency_loss`, inside BAGEL's rectified flow, `rectified_flow_loss`.

Rectified flow by BAGEL's convention: x_t = (1 - t) x_0 + t eps, with t = 0 the data and t = 1 the noise; the target
velocity is v = eps - x_0, hence the one-step estimate x_0^ = x_t - t v^.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from visdyn.training.chunked_cross_entropy import IGNORED, sum_weighted_nll

SPACES = ("latent", "pixel")
WEIGHT_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "one_minus_t": lambda t: 1 - t,
}
_NO_CHANGE = 1e-12  # a scale below this is rounding, not change


def recognition_weights(
    source_features: Tensor, target_features: Tensor, floor: float = 0.0, normalization: str = "mean"
) -> Tensor:
    """Weigh each image token by how much its place changed: w = ||z_t - z_s||^2 (Bootstrapping, Eq. 2).

    Triplets are encoded once for runs of every floor, so files and caches keep the weights as printed
    (`normalization="none"`), and `normalise_weights` gives them their scale when they are read.

    Args:
        source_features, target_features: float (N, C, h, w), the tokenizer's pre-quantised features.
        floor, normalization: as of `normalise_weights`.

    Returns:
        float32 (N, h * w), row-major.

    Raises:
        ValueError: a floor outside [0, 1], or an unknown normalisation.
    """
    distances = (target_features.float() - source_features.float()).pow(2).sum(1)  # (N, h, w)
    return normalise_weights(distances.flatten(1), floor, normalization)


def normalise_weights(distances: Tensor, floor: float = 0.0, normalization: str = "mean") -> Tensor:
    """Turn the distances (N, L) of N images into loss weights (N, L), which Eq. 2 leaves without a scale.

    `mean` divides by the image's mean so that weights average 1. `floor` f mixes in a uniform part, (1 - f) w + f:
    0 is the paper's formula to the letter, under which unchanged regions are hardly trained at all.

    Args:
        distances: as `recognition_weights` returns them under `none`.
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


def permute_places(weights: Tensor, seed: int, first: int = 0) -> Tensor:
    """Give each image's weights (N, L) to other places of it, at random: the negative control of Eq. 2.

    Every image keeps its weights' values, and with them the loss's scale; where they stand says nothing any more.

    Args:
        seed: of the draw.
        first: number of the first image among all; an image's places depend on its number and the seed alone.

    Returns:
        float32 (N, L).
    """
    rows = []
    for number, row in enumerate(weights, first):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        rows.append(row[torch.randperm(len(row), generator=generator)])
    return torch.stack(rows) if rows else weights


def weighted_cross_entropy(
    hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor | None = None, chunk_size: int | None = None
) -> Tensor:
    """Return sum(w * nll) / sum(w), the next-token loss of the papers' token models, without holding all logits.

    With `recognition_weights` it is the weighted loss of Bootstrapping (section 3.2); with weights of 1, the plain
    one. `chunked_cross_entropy` says how the sum is made, and what autocast, ZeRO-3 and frozen heads do to it.

    Args:
        hidden: (..., D) states that predict `targets`.
        head: (V, D) rows of the output head.
        targets: int64 (...), -100 is ignored.
        weights: float (...), default 1.
        chunk_size: positions whose logits exist at one time; by default as many as make 2^25 logits.

    Returns:
        float32 scalar; 0 where nothing counts.
    """
    hidden, targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)  # (B * T, D), (B * T,)
    weights = torch.ones_like(targets, dtype=torch.float32) if weights is None else weights.reshape(-1).float()
    weights = weights * (targets != IGNORED)
    return sum_weighted_nll(hidden, head, targets, weights, chunk_size) / weights.sum().clamp_min(1e-12)


def rectified_flow_loss(velocity: Tensor, clean: Tensor, noise: Tensor, reduction: str = "mean") -> Tensor:
    """Return || v^ - (eps - x_0) ||^2, averaged over the elements of a sample and then over samples.

    Args:
        velocity, clean, noise: (N, ...), of one shape; BAGEL's samples here are latent tokens (N, C).
        reduction: `mean`; `sum`, the sum of the samples' means, where several ranks share the mean; or `none`, the
            squared errors (N, ...).

    Returns:
        a float32 scalar, or float32 (N, ...).

    Raises:
        ValueError: shapes differ, or an unknown reduction.
    """
    if not velocity.shape == clean.shape == noise.shape:
        shapes = ", ".join(str(tuple(part.shape)) for part in (velocity, clean, noise))
        raise ValueError(f"velocity, clean and noise must agree in shape, not {shapes}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"unknown reduction {reduction!r}; one of mean, sum, none")
    squared = (velocity.float() - (noise - clean).float()).square()
    if reduction == "none":
        return squared
    per_sample = squared.flatten(1).mean(1)
    return per_sample.sum() if reduction == "sum" else per_sample.mean()


def predict_clean(noisy: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
    """Return the one-step estimate x_0^ = x_t - t v^, of the shape of `noisy` (N, ...); timesteps are (N,)."""
    return noisy - timesteps.to(noisy).view(-1, *[1] * (noisy.dim() - 1)) * velocity


def consistency_loss(
    noisy: Tensor,
    velocity: Tensor,
    timesteps: Tensor,
    clean: Tensor,
    *,
    space: str = "latent",
    decode: Callable[[Tensor], Tensor] | None = None,
    target_pixels: Tensor | None = None,
    t_gate: float | None = None,
    weight_function: str | Callable[[Tensor], Tensor] = "uniform",
    reduction: str = "mean",
) -> Tensor:
    """Return L_c = || I_o - I_R^ ||_1 of one-step reverse predictions (Do-Undo, Eq. 1), as a mean over elements.

    The paper gives the equation and the weight 0.5, not the space, the timesteps or the gradient path, so these
    are options. In latent space and without gate or weight, L_c = mean(t |v^ - v|): a t-weighted L1 loss on the
    velocity. It couples undoing with doing only where `velocity` was predicted from a generated source.

    Args:
        noisy, velocity: x_t and v^ of the reverse samples, (N, C, h, w).
        timesteps: (N,) in [0, 1].
        clean: latents of I_o, (N, C, h, w).
        space: "latent", or "pixel" (both sides decoded).
        decode: latents to pixels; required in pixel space.
        target_pixels: I_o itself, to keep the autoencoder's error in the loss; decode(clean) when absent.
        t_gate: count only the M samples with t < t_gate; None counts all.
        weight_function: a name of WEIGHT_FUNCTIONS, or a function of t; multiplies each sample.
        reduction: `mean` over the samples that count, 0 where there is none; or `none`, one loss for each of them.

    Returns:
        a float32 scalar, or float32 (M,).

    Raises:
        ValueError: unknown space, weight function or reduction, or no `decode` in pixel space.
    """
    if space not in SPACES:
        raise ValueError(f"unknown consistency space {space!r}; one of {', '.join(SPACES)}")
    if space == "pixel" and decode is None:
        raise ValueError("consistency in pixel space needs `decode`, the autoencoder's decoder")
    if not callable(weight_function) and weight_function not in WEIGHT_FUNCTIONS:
        raise ValueError(
            f"unknown consistency weight function {weight_function!r}; one of {', '.join(WEIGHT_FUNCTIONS)}"
        )
    if reduction not in ("mean", "none"):
        raise ValueError(f"unknown reduction {reduction!r}; one of mean, none")
    if t_gate is not None:
        counts = timesteps < t_gate  # before decoding, which is most of the work in pixel space
        noisy, velocity, timesteps, clean = (part[counts] for part in (noisy, velocity, timesteps, clean))
        target_pixels = None if target_pixels is None else target_pixels[counts]
    if not len(timesteps):
        return timesteps.new_zeros((0,) if reduction == "none" else (), dtype=torch.float32)
    predicted, target = predict_clean(noisy, velocity, timesteps), clean  # (M, C, h, w)
    if space == "pixel":
        target = decode(clean).detach() if target_pixels is None else target_pixels
        predicted = decode(predicted)
    weigh = weight_function if callable(weight_function) else WEIGHT_FUNCTIONS[weight_function]
    per_sample = (predicted - target).float().abs().flatten(1).mean(1) * weigh(timesteps.float())
    return per_sample if reduction == "none" else per_sample.mean()
