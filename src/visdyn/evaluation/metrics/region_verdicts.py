"""The region judge over images of any sizes, and over items whose target or reachable states are unknown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from visdyn.evaluation.metrics.region_judge import NoChangeError, judge, judge_batch
from visdyn.images import ImageRef, load

NAMES = ("editing_success", "minimal_editing", "score", "success", "copied")
STATES = ("success", "copied")  # need the reachable end states


def region_verdicts(
    sources: Sequence[ImageRef],
    predictions: Sequence[ImageRef],
    targets: Sequence[ImageRef | None],
    candidates: Sequence[Sequence[ImageRef]] | None,
) -> dict[str, np.ndarray]:
    """Judge N predictions; images of one size go through `judge_batch`, others are brought onto one frame each.

    Args:
        candidates: for each item the other end states that can be reached; None where nobody knows them: then
            `success` and `copied` are NaN.

    Returns:
        `NAMES` -> float64 (N,); NaN for an item without a target, or whose target equals its source.
    """
    images = [[load(ref) for ref in refs] for refs in (sources, predictions)]
    truths = [None if target is None else load(target) for target in targets]
    known = [image for image in [*images[0], *images[1], *truths] if image is not None]
    if known and None not in truths and len({image.size for image in known}) == 1:
        arrays = [np.stack([np.asarray(image) for image in part]) for part in (*images, truths)]
        try:
            return _make_columns(judge_batch(*arrays, candidates), candidates)
        except NoChangeError:
            pass  # one by one, so that only the item without a change has no verdict
    others = candidates or [()] * len(truths)
    rows = [_judge_one(*row, candidates) for row in zip(*images, truths, others, strict=True)]
    return {name: np.array([row[name] for row in rows], float) for name in NAMES}


def _judge_one(source, prediction, target, others, candidates) -> dict[str, float]:
    if target is None:
        return dict.fromkeys(NAMES, np.nan)
    try:
        return _make_columns(judge(source, prediction, target, others), candidates)
    except NoChangeError:
        return dict.fromkeys(NAMES, np.nan)


def _make_columns(verdict, candidates) -> dict:
    known = {name: np.asarray(getattr(verdict, name), float) for name in NAMES}
    return known if candidates is not None else known | {name: known[name] * np.nan for name in STATES}
