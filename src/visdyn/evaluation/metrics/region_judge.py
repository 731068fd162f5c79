"""A judge with the true end state at hand: was the change made where it should be, and nothing else?

It stands in for the GPT-4o judge where no such model can be asked: the same two scores from 0 to 10 and the same
final score, their minimum. Being computed from pixels against one reference, it has limits:

- An edit that is right but differs from the reference (another cat on the seat) scores low.
- It needs a still camera. Where the camera moves, the changed region covers most of the image (`region_share` nears
  1), editing success turns into plain distance to the target, and even the target loses minimal editing outside;
  with no outside left, minimal editing says nothing and is 10. On eight AURORA-Bench items each, the region took
  8 % (kubric), 11 % (whatsup), 18 % (magicbrush), 49 % (ag) and 74 % (something) of the image.
- Minimal editing is measured against the source, so sensor noise costs the target itself about a point (in the
  kitchen world, noise of 2.5 grey levels and 0.1 pixel of jitter: 8.8).
- A blurred average of source and target gets partial credit for editing success; `success` does not fall for it
  unless the target really is nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from visdyn.evaluation.metrics.geometry import match
from visdyn.images import ImageRef

THRESHOLD = 0.06  # mean difference over a window; above 3 grey levels of sensor noise and a tenth of a pixel of jitter
OUTSIDE_SCALE = 0.10  # mean difference outside the region at which minimal editing reaches 0
WINDOW_SHARE = 1 / 64  # smoothing and dilation radius as a share of the shorter side: 1 pixel at 64


class NoChangeError(ValueError):
    """Source and target are the same image; the message names the items."""


@dataclass(frozen=True)
class Judgement:
    """What the judge found: arrays of shape (N,) from `judge_batch`, plain numbers from `judge`.

    Attributes:
        editing_success: 0 to 10; in the changed region, 10 x (1 - d(prediction, target) / d(source, target)).
        minimal_editing: 0 to 10; outside it, 10 x (1 - d(prediction, source) / 0.10).
        score: 0 to 10; the smaller of the two.
        success: the target is strictly nearer to the prediction than any other candidate state. Without candidates
            the source is the only other one, and an unrelated image succeeds about half of the time.
        copied: the source is the nearest, strictly nearer than the target.
        region_share: share of the image's pixels in the changed region.
    """

    editing_success: np.ndarray | float
    minimal_editing: np.ndarray | float
    score: np.ndarray | float
    success: np.ndarray | bool
    copied: np.ndarray | bool
    region_share: np.ndarray | float


def judge(
    source: ImageRef, prediction: ImageRef, target: ImageRef, candidates: Sequence[ImageRef] = (), **options: float
) -> Judgement:
    """Judge one prediction; images of different sizes are first brought onto one frame (`geometry.match`).

    Args:
        source, prediction, target: images before the action, predicted, and after it.
        candidates: other end states reachable from the source, for `success` and `copied`.
        **options: `threshold` and `outside_scale` of `judge_batch`.

    Raises:
        NoChangeError: source and target are the same image, so that there is no change to judge.
    """
    arrays = [np.asarray(image) for image in match([source, prediction, target, *candidates])]
    batch = judge_batch(*(array[None] for array in arrays[:3]), candidates=[arrays[3:]], **options)
    return Judgement(*(getattr(batch, field.name)[0].item() for field in fields(batch)))


def judge_batch(
    sources: np.ndarray,
    predictions: np.ndarray,
    targets: np.ndarray,
    candidates: Sequence[Sequence[np.ndarray]] | None = None,
    threshold: float = THRESHOLD,
    outside_scale: float = OUTSIDE_SCALE,
) -> Judgement:
    """Judge N predictions of one size.

    All distances are mean absolute differences of values in [0, 1]. `success` and `copied` compare distances within
    the union of the regions in which any candidate differs from the source; without candidates, within the changed
    region. A candidate that shows the same state as source or target (no changed region between them) is left out.

    Args:
        sources, predictions, targets: uint8 (N, H, W, 3).
        candidates: for each item, other reachable end states, uint8 (H, W, 3) each; the source need not be listed.
        threshold: smoothed difference above which a pixel counts as changed.
        outside_scale: difference outside the region that costs all ten points of minimal editing.

    Raises:
        ValueError: arrays that do not fit together.
        NoChangeError: an item whose source and target are the same image.
    """
    _check_arrays(sources, predictions, targets, candidates)
    regions = _judged_regions(sources, targets, threshold)
    before = region_distance(sources, targets, regions)
    editing = 10 * np.clip(1 - region_distance(predictions, targets, regions) / before, 0, 1)
    minimal = 10 * np.clip(1 - region_distance(predictions, sources, ~regions) / outside_scale, 0, 1)
    states = [
        _judge_item(sources[i], predictions[i], targets[i], candidates[i] if candidates else (), regions[i], threshold)
        for i in range(len(sources))
    ]
    success, copied = np.array(states, bool).reshape(-1, 2).T
    return Judgement(editing, minimal, np.minimum(editing, minimal), success, copied, regions.mean(axis=(1, 2)))


def changed_regions(sources: np.ndarray, targets: np.ndarray, threshold: float | np.ndarray = THRESHOLD) -> np.ndarray:
    """Return bool (N, H, W): where the smoothed difference exceeds the threshold, dilated by the smoothing radius.

    Args:
        sources, targets: uint8 (N, H, W, 3).
        threshold: difference in [0, 1], one for all or one for each item (N,).
    """
    radius = _blur_radius(sources)
    mask = _smoothed_difference(sources, targets) > np.reshape(threshold, (-1, 1, 1))
    return _box_sum(mask.astype(np.int32), radius) > 0


def region_distance(left: np.ndarray, right: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference within each region as float64 (N,) in [0, 1]; an empty region gives 0.

    Args:
        left, right: uint8 (N, H, W, 3).
        regions: bool (N, H, W).
    """
    difference = _sum_difference(left, right)
    total, pixels = (difference * regions).sum(axis=(1, 2), dtype=np.int64), regions.sum(axis=(1, 2))
    return total / np.maximum(pixels, 1) / (3 * 255)


def _judged_regions(sources: np.ndarray, targets: np.ndarray, threshold: float) -> np.ndarray:
    """Return the changed regions; for a change below the threshold, the pixels above half its largest difference."""
    largest = _smoothed_difference(sources, targets).max(axis=(1, 2))
    if not largest.all():
        same = np.flatnonzero(largest == 0).tolist()
        raise NoChangeError(f"items {same} have the same image as source and target: there is no change to judge")
    return changed_regions(sources, targets, np.minimum(threshold, largest / 2))


def _judge_item(source, prediction, target, candidates, region, threshold: float) -> tuple[bool, bool]:
    """Return (success, copied) of one item."""
    others, union = np.empty((0, *source.shape), np.uint8), region
    if len(candidates):
        stacked = np.stack(candidates)
        changed, differs = (changed_regions(state[None], stacked, threshold) for state in (source, target))
        distinct = changed.any(axis=(1, 2)) & differs.any(axis=(1, 2))
        others, union = stacked[distinct], region | changed[distinct].any(axis=0)
    states = np.concatenate([target[None], source[None], others])
    to_target, to_source, *to_others = region_distance(prediction[None], states, union[None])
    success = to_target < min([to_source, *to_others])
    return success, to_source < to_target and to_source <= min(to_others, default=to_source)


def _sum_difference(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the absolute difference summed over channels as int32 (N, H, W): integers, so sums are exact."""
    channels = np.abs(left.astype(np.int16) - right.astype(np.int16))
    return channels[..., 0].astype(np.int32) + channels[..., 1] + channels[..., 2]


def _smoothed_difference(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    radius = _blur_radius(left)
    return _box_sum(_sum_difference(left, right), radius) / (3 * 255 * (2 * radius + 1) ** 2)


def _blur_radius(images: np.ndarray) -> int:
    return max(1, round(min(images.shape[1:3]) * WINDOW_SHARE))


def _box_sum(values: np.ndarray, radius: int) -> np.ndarray:
    """Return the sum over a (2 radius + 1)-wide square around each pixel of int32 (N, H, W), edges repeated."""
    for axis in (1, 2):
        pads = [(radius + 1, radius) if other == axis else (0, 0) for other in range(3)]
        sums = np.cumsum(np.pad(values, pads, mode="edge"), axis=axis, dtype=np.int32)
        width, length = 2 * radius + 1, values.shape[axis]
        upper, lower = np.arange(length) + width, np.arange(length)
        values = np.take(sums, upper, axis=axis) - np.take(sums, lower, axis=axis)
    return values


def _check_arrays(
    sources: np.ndarray, predictions: np.ndarray, targets: np.ndarray, candidates: Sequence | None
) -> None:
    shapes = {array.shape for array in (sources, predictions, targets)}
    if len(shapes) != 1 or sources.ndim != 4 or sources.shape[-1] != 3:
        raise ValueError(f"sources, predictions and targets must share one shape (N, H, W, 3), not {sorted(shapes)}")
    if any(array.dtype != np.uint8 for array in (sources, predictions, targets)):
        raise ValueError("the judge takes uint8 images")
    if candidates is not None and len(candidates) != len(sources):
        raise ValueError(f"{len(candidates)} lists of candidates for {len(sources)} items")
