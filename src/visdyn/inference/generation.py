"""Seeded generation of next images for many trajectories, independent of batch composition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from visdyn.compute.seeds import sampling_generator
from visdyn.images import stacked
from visdyn.models.protocols import ForwardDynamics
from visdyn.models.token.decoding import uniforms
from visdyn.models.token.unified import TokenForwardDynamics, UnifiedModel
from visdyn.trajectory import Trajectory


def item_draws(trajectories: Sequence[Trajectory], num_samples: int, num_tokens: int, seed: int) -> torch.Tensor:
    """Return uniform numbers (N, num_samples, num_tokens); candidate k is the same whatever `num_samples` is."""
    generators = [sampling_generator(seed, item.subset, item.id) for item in trajectories]
    return torch.stack([uniforms(num_samples, num_tokens, generator) for generator in generators])


def generate(
    model: ForwardDynamics, trajectories: Sequence[Trajectory], num_samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Sample `num_samples` next images for each trajectory.

    Args:
        model: one without image tokens is asked item by item, with the item's own generator.

    Returns:
        images and their codes int64 (N, K, h, w), None of a model without image tokens. Images are uint8
        (N, K, H, W, 3); where the model restores its sources' geometry and these differ, an object array (N, K) of
        uint8 arrays (H, W, 3).
    """
    if not isinstance(model, TokenForwardDynamics):
        generators = [sampling_generator(seed, item.subset, item.id) for item in trajectories]
        drawn = [
            model.sample(item.source, item.action, num_samples, generator)
            for item, generator in zip(trajectories, generators, strict=True)
        ]
        flat = stacked([image for images in drawn for image in images])
        return flat.reshape(len(trajectories), num_samples, *flat.shape[1:]), None
    sources = model.model.encode([item.source for item in trajectories])
    draws = item_draws(trajectories, num_samples, sources[0].size, seed)
    codes = model.sample_codes(sources, [item.action for item in trajectories], draws)
    return restore_geometry(model.model, trajectories, codes), codes


def restore_geometry(model: UnifiedModel, trajectories: Sequence[Trajectory], codes: np.ndarray) -> np.ndarray:
    """Decode candidates (N, K, h, w) and bring each back to its source's geometry: images as of `generate`."""
    squares = model.decode(codes.reshape(-1, *codes.shape[2:]))
    sources = [item.source for item in trajectories for _ in range(codes.shape[1])]
    images = stacked([model.restore(square, source) for square, source in zip(squares, sources, strict=True)])
    return images.reshape(*codes.shape[:2], *images.shape[1:])
