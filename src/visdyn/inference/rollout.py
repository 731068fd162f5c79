"""Rollout: several actions in a row, each on the image just generated (Bootstrapping, Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from visdyn.images import ImageRef
from visdyn.inference.generation import generate
from visdyn.models.protocols import ForwardDynamics
from visdyn.trajectory import Trajectory


def roll_out(
    model: ForwardDynamics, sources: Sequence[ImageRef], actions: Sequence[Sequence[str]], seed: int = 0
) -> np.ndarray:
    """Apply each source's actions one after the other.

    Args:
        sources: N images.
        actions: for each source its actions, equally many.
        seed: names the noise of every step.

    Returns:
        uint8 (N, S, H, W, 3): the image after each of the S actions; an object array (N, S) of images where the model
        restores its sources' geometry and these differ.

    Raises:
        ValueError: not one list of actions for each source, or lists of different length.
    """
    if len(sources) != len(actions) or len({len(part) for part in actions}) > 1:
        raise ValueError(f"{len(sources)} sources need as many lists of actions, all of one length")
    images, steps = list(sources), []
    for step, texts in enumerate(zip(*actions, strict=True)):
        # The target is not known and not read; the id names the noise, which so differs from step to step.
        items = [
            Trajectory(image, text, image, "rollout", f"{row}-{step}")
            for row, (image, text) in enumerate(zip(images, texts, strict=True))
        ]
        images = generate(model, items, 1, seed)[0][:, 0]  # (N, H, W, 3), the one sample of each
        steps.append(images)
    return np.stack(steps, axis=1)
