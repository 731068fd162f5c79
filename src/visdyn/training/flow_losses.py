"""Rectified flow, and the Do-Undo consistency loss inside it.

Convention (BAGEL): x_t = (1 - t) x_0 + t eps, with t = 0 the data and t = 1 the noise; the target velocity is
v = eps - x_0, hence the one-step estimate x_0^ = x_t - t v^.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CONDITIONS = ("gt", "generated")
SPACES = ("latent", "pixel")
WEIGHT_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "one_minus_t": lambda t: 1 - t,
}


@dataclass(frozen=True)
class Consistency:
    """The Do-Undo consistency loss (`consistency_loss`) and where its prediction comes from.

    Attributes:
        weight: lambda; the paper's 0.5. With 0 the loss is only measured.
        condition: `gt`, the reverse prediction from the true I_F, as the paper trains; or `generated`, from the
            one-step I_F^ of the forward half, the variant that ties undoing to doing (a further pass).
        space: `latent` or `pixel`.
        t_gate, weight_function: see `consistency_loss`.
        detach: with `generated`, keep the gradient out of the forward half.
    """

    weight: float = 0.5
    condition: str = "gt"
    space: str = "latent"
    t_gate: float | None = None
    weight_function: str = "uniform"
    detach: bool = True

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ValueError(f"unknown consistency condition {self.condition!r}; one of {', '.join(CONDITIONS)}")
        if self.space not in SPACES:
            raise ValueError(f"unknown consistency space {self.space!r}; one of {', '.join(SPACES)}")
        if self.weight < 0:
            raise ValueError(f"the consistency weight must not be negative, got {self.weight}")


def predict_clean(noisy: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
    """Return the one-step estimate x_0^ = x_t - t v^, of the shape of `noisy` (N, ...); timesteps are (N,)."""
    return noisy - timesteps.to(noisy).view(-1, *[1] * (noisy.dim() - 1)) * velocity


def rectified_flow_loss(velocity: Tensor, clean: Tensor, noise: Tensor, sample_weights: Tensor | None = None) -> Tensor:
    """Return the mean squared error between v^ and eps - x_0.

    Args:
        velocity, clean, noise: (N, ...), of one shape.
        sample_weights: (N,) weights of the samples; the result is their weighted mean.

    Returns:
        a float32 scalar.

    Raises:
        ValueError: shapes differ, or the weights sum to zero.
    """
    if not velocity.shape == clean.shape == noise.shape:
        shapes = ", ".join(str(tuple(part.shape)) for part in (velocity, clean, noise))
        raise ValueError(f"velocity, clean and noise must agree in shape, not {shapes}")
    per_sample = (velocity.float() - (noise - clean).float()).square().flatten(1).mean(1)
    if sample_weights is None:
        return per_sample.mean()
    if sample_weights.sum() <= 0:
        raise ValueError("the sample weights of the flow loss sum to zero; give at least one positive weight")
    return (per_sample * sample_weights).sum() / sample_weights.sum()


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
        t_gate: count only samples with t < t_gate; the mean is over those, 0 where there is none.
        weight_function: a name of WEIGHT_FUNCTIONS, or a function of t; multiplies each sample.

    Raises:
        ValueError: unknown space or weight function, or no `decode` in pixel space.
    """
    predicted = predict_clean(noisy, velocity, timesteps)
    if space == "pixel":
        if decode is None:
            raise ValueError("consistency in pixel space needs `decode`, the autoencoder's decoder")
        target = decode(clean).detach() if target_pixels is None else target_pixels
        difference = decode(predicted) - target
    elif space == "latent":
        difference = predicted - clean
    else:
        raise ValueError(f"unknown consistency space {space!r}; one of {', '.join(SPACES)}")
    weights = _weight_function(weight_function)(timesteps.float())
    counted = torch.ones_like(weights) if t_gate is None else (timesteps < t_gate).float()
    per_sample = difference.float().abs().flatten(1).mean(1)
    return (per_sample * weights * counted).sum() / counted.sum().clamp(min=1)


def _weight_function(function: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    if callable(function):
        return function
    if function not in WEIGHT_FUNCTIONS:
        raise ValueError(f"unknown consistency weight function {function!r}; one of {', '.join(WEIGHT_FUNCTIONS)}")
    return WEIGHT_FUNCTIONS[function]
