"""The predictions without a model that every metric table carries: copy, oracle, shuffled, blend and blurred.

Copy and oracle are the ends of a metric. Shuffled is a sharp picture of something else, the blend shows no state at
all and the blurred target shows the right one badly: what a metric or a judge gives them, it gives a model for as much.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from visdyn.evaluation.benches.bench import Bench
from visdyn.evaluation.metrics.geometry import match
from visdyn.evaluation.systems.outputs import Images, SystemImages
from visdyn.images import ImageRef, load
from visdyn.models.editors.protocol import Request
from visdyn.trajectory import Trajectory

BASELINES = ("copy", "oracle", "shuffled", "blend", "blurred")
BLUR = 1 / 32  # radius of the blurred target, of the shorter side: 2 of 64 pixels, 16 of 512
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


def blend(trajectories: Sequence[Trajectory]) -> list[ImageRef]:
    """Return the mean of each trajectory's source and target, on the frame that both share, as PIL images."""
    return [Image.blend(*match([item.source, item.target]), 0.5) for item in trajectories]


def blurred(trajectories: Sequence[Trajectory]) -> list[ImageRef]:
    """Return each trajectory's target under a Gaussian blur (radius `BLUR` of its shorter side), as PIL images."""
    targets = [load(item.target) for item in trajectories]
    return [target.filter(ImageFilter.GaussianBlur(BLUR * min(target.size))) for target in targets]


def baseline(name: str, trajectories: Sequence[Trajectory], seed: int) -> list[ImageRef]:
    """Return the predictions of the baseline `name`; `seed` matters to `shuffled` only.

    Raises:
        ValueError: unknown name.
    """
    if name == "shuffled":
        return shuffled(trajectories, seed)
    if name not in BASELINES:
        raise ValueError(f"unknown baseline {name!r}; one of {', '.join(BASELINES)}")
    return {"copy": copy, "oracle": oracle, "blend": blend, "blurred": blurred}[name](trajectories)


def baseline_systems(bench: Bench, items: Sequence, requests: Sequence[Request], seed: int) -> list[SystemImages]:
    """Return `BASELINES` as systems of a benchmark, each with an image for every request.

    An item without a target has a copy alone, and is nobody's shuffled target. Where targets cannot be exchanged,
    shuffled has no images and a note that says why.
    """
    return [_baseline_system(name, bench, items, requests, seed) for name in BASELINES]


def _baseline_system(name: str, bench: Bench, items: Sequence, requests: Sequence[Request], seed: int) -> SystemImages:
    images: Images = {}
    for request in requests:
        if name == "copy" and request.reverse_from == "generated":  # copying the copy gives the start back
            images[request] = images[replace(request, direction="forward", reverse_from="")]
            continue
        halves = [bench.transition(item, request) for item in items]
        known = [half for half in halves if name == "copy" or half.target is not None]
        try:
            found = iter(baseline(name, known, seed))
        except ValueError as error:  # too few items to exchange targets
            return SystemImages(bench.name, name, 0, "baseline", "", {}, str(error))
        images[request] = [next(found) if name == "copy" or half.target is not None else None for half in halves]
    missing = sum(image is None for image in next(iter(images.values()), []))
    note = f"{missing} items have no published target" if missing else ""
    return SystemImages(bench.name, name, 0, "baseline", "", images, note)


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
