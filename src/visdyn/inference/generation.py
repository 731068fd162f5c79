"""Seeded generation of next images for many trajectories, independent of batch composition."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from visdyn.models.decoding import uniforms
from visdyn.models.unified import TokenForwardDynamics
from visdyn.trajectory import Trajectory


def item_generator(seed: int, item: Trajectory) -> torch.Generator:
    """Return a generator that depends on the seed and on the item only (subset and id)."""
    digest = hashlib.sha256(f"{seed}/{item.subset}/{item.id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def item_draws(trajectories: Sequence[Trajectory], num_samples: int, num_tokens: int, seed: int) -> torch.Tensor:
    """Return uniform numbers (N, num_samples, num_tokens); candidate k is the same whatever `num_samples` is."""
    return torch.stack([uniforms(num_samples, num_tokens, item_generator(seed, item)) for item in trajectories])


def generate(
    model: TokenForwardDynamics, trajectories: Sequence[Trajectory], num_samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sample `num_samples` next images for each trajectory.

    Returns:
        images uint8 (N, K, H, W, 3) and their codes int64 (N, K, h, w).
    """
    sources = model.model.encode([item.source for item in trajectories])
    draws = item_draws(trajectories, num_samples, sources[0].size, seed)
    codes = model.sample_codes(sources, [item.action for item in trajectories], draws)
    images = model.model.decode(codes.reshape(-1, *codes.shape[2:]))
    return images.reshape(*codes.shape[:2], *images.shape[1:]), codes
