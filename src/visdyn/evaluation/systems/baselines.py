"""The three predictions that every metric table carries: copy, oracle and shuffled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visdyn.images import ImageRef
from visdyn.trajectory import Trajectory

BASELINES = ("copy", "oracle", "shuffled")
_MAX_DRAWS = 10_000


def copy(trajectories: Sequence[Trajectory]) -> list[ImageRef]:
    """Return each trajectory's source: the prediction that nothing happens."""
    return [item.source for item in trajectories]


def oracle(trajectories: Sequence[Trajectory]) -> list[ImageRef]:
    """Return each trajectory's target: the upper end of every metric."""
    return [item.target for item in trajectories]


def shuffled(trajectories: Sequence[Trajectory], seed: int) -> list[ImageRef]:
    """Return for each trajectory the target of another one of its subset.

    Within a subset this is a random derangement: every target is used once, none stays, and no item gets an image
    equal to its own (AURORA names some images twice).

    Raises:
        ValueError: a subset in which no such exchange exists or was found.
    """
    groups = defaultdict(list)
    for index, item in enumerate(trajectories):
        groups[item.subset].append(index)
    predictions: list[ImageRef] = [None] * len(trajectories)
    for subset, indices in groups.items():
        keys = [_key(trajectories[index].target) for index in indices]
        for index, other in zip(indices, _derangement(keys, subset, seed), strict=True):
            predictions[index] = trajectories[indices[other]].target
    return predictions


def baseline(name: str, trajectories: Sequence[Trajectory], seed: int) -> list[ImageRef]:
    """Return the predictions of the baseline `name`; `seed` matters to `shuffled` only.

    Raises:
        ValueError: unknown name.
    """
    if name == "shuffled":
        return shuffled(trajectories, seed)
    if name not in BASELINES:
        raise ValueError(f"unknown baseline {name!r}; one of {', '.join(BASELINES)}")
    return copy(trajectories) if name == "copy" else oracle(trajectories)


def _derangement(keys: Sequence[object], subset: str, seed: int) -> np.ndarray:
    # The seed is mixed with the subset's name, so that a subset's order does not depend on which others are present.
    generator = np.random.default_rng([seed, *subset.encode()])
    labels = np.unique([str(key) for key in keys], return_inverse=True)[1]
    if np.bincount(labels).max() * 2 <= len(labels):
        for _ in range(_MAX_DRAWS):
            order = generator.permutation(len(labels))
            if (labels[order] != labels).all():
                return order
    raise ValueError(f"the {len(keys)} targets of subset {subset} cannot be exchanged so that each item gets another's")


def _key(ref: ImageRef) -> str:
    if isinstance(ref, str | Path):
        return f"path:{ref}"
    if isinstance(ref, np.ndarray):
        return f"array:{ref.shape}:{hash(ref.tobytes())}"
    return f"object:{id(ref)}"
