"""Rectified flow, and the Do-Undo consistency loss inside it.

Convention (BAGEL): x_t = (1 - t) x_0 + t eps, with t = 0 the data and t = 1 the noise; the target velocity is
v = eps - x_0, hence the one-step estimate x_0^ = x_t - t v^.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SPACES = ("latent", "pixel")
WEIGHT_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "one_minus_t": lambda t: 1 - t,
}


def sample_timesteps(n: int, shift: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Draw n logit-normal timesteps, t = sigmoid(N(0, 1)), then t <- s t / (1 + (s - 1) t).

    Args:
        n: how many.
        shift: s; 1 leaves P(t > .5) at .50, 3 moves it to .86 (BAGEL trains with 1 to 4).
        generator: CPU generator; the global one when absent, which the trainer saves and restores.

    Returns:
        float32 (n,) in (0, 1), on the CPU.
    """
    if shift <= 0:
        raise ValueError(f"timestep shift must be positive, not {shift}")
    return shift_timesteps(torch.randn(n, generator=generator).sigmoid(), shift)


def shift_timesteps(t: Tensor, shift: float) -> Tensor:
    """Map t to s t / (1 + (s - 1) t); 0 and 1 stay where they are."""
    return shift * t / (1 + (shift - 1) * t)


def interpolate(clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return x_t = (1 - t) x_0 + t eps; clean and noise are (N, ...), timesteps (N,)."""
    t = _like(timesteps, clean)
    return (1 - t) * clean + t * noise


def predict_clean(noisy: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
    """Return the one-step estimate x_0^ = x_t - t v^, of the shape of `noisy` (N, ...)."""
    return noisy - _like(timesteps, noisy) * velocity


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


def _like(timesteps: Tensor, other: Tensor) -> Tensor:
    return timesteps.to(other).view(-1, *[1] * (other.dim() - 1))
