"""Rectified flow: x_t = (1 - t) x_0 + t noise, velocity noise - x_0, from data (t = 0) to noise (t = 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def shift_timesteps(t: Tensor, shift: float) -> Tensor:
    """Move timesteps towards noise: s t / (1 + (s - 1) t)."""
    return shift * t / (1 + (shift - 1) * t)


def training_timesteps(raw: Tensor, shift: float) -> Tensor:
    """Map standard normal draws to shifted timesteps in [0, 1]; -inf marks a clean latent and gives exactly 0."""
    return shift_timesteps(torch.sigmoid(raw), shift)


def sampling_schedule(num_timesteps: int, shift: float) -> tuple[Tensor, Tensor]:
    """Return the float32 timesteps (N - 1,) at which the network runs and the step sizes (N - 1,).

    N "timesteps" are N points from 1 to 0, hence N - 1 evaluations, as in the reference.

    Raises:
        ValueError: fewer than two timesteps.
    """
    if num_timesteps < 2:
        raise ValueError(f"num_timesteps is {num_timesteps}; a schedule from noise to data needs at least 2 points")
    points = shift_timesteps(torch.linspace(1, 0, num_timesteps), shift)
    return points[:-1], points[:-1] - points[1:]


def add_noise(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return x_t; `t` broadcasts against latents (..., channels) from the left."""
    t = t.to(clean.dtype).reshape(t.shape + (1,) * (clean.dim() - t.dim()))
    return (1 - t) * clean + t * noise
