"""How much each frame of a clip moves: the magnitude of dense optical flow from the frame before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np

FLOWS = ("farneback", "dis")
SHORT_SIDE = 256
# From this short side down, Farneback refines once per pyramid level instead of three times: at 64x64 pixels that
# takes 0.5 ms a frame instead of 0.9 and ranks frames alike.
SMALL = 128
FASTEST_SHARE = 0.1


def flow_profile(frames: Iterable[np.ndarray], flow: str = "farneback", statistic: str = "mean") -> np.ndarray:
    """Return the motion of each frame: `flow_profiles` for one statistic."""
    return flow_profiles(frames, flow, (statistic,))[statistic]


def flow_profiles(
    frames: Iterable[np.ndarray],
    flow: str = "farneback",
    statistics: Sequence[str] = ("mean",),
    short_side: int = SHORT_SIDE,
) -> dict[str, np.ndarray]:
    """Return the motion of each frame, in pixels per frame at the size at which it is measured.

    The paper gives neither algorithm, resolution nor statistic ("optical flow to quantify the dynamics per frame",
    section 3.2). Here: grey frames, shrunk to a short side of 256 pixels (`short_side`) where larger, frame t scored
    by the flow from t-1 to t; frame 0 scores 0. The statistics of a flow field:

    - "mean": mean magnitude, the plain reading of the paper;
    - "local": the camera's motion (the median flow) is taken away, then the mean magnitude of the fastest tenth of the
      pixels. It tells a small moving hand from sensor noise and a shaking camera, which drown it in the mean.

    Args:
        frames: uint8 arrays (H, W, 3) RGB or (H, W) grey, all of one size; an iterator is consumed frame by frame.
        flow: "farneback" (Farneback 2003) or "dis" (dense inverse search, Kroeger 2016).
        short_side: larger frames are shrunk to it, in pixels.

    Returns:
        For each statistic a float64 array (number of frames,), values >= 0.

    Raises:
        ValueError: unknown flow or statistic, or frames of different sizes.
    """
    if flow not in FLOWS:
        raise ValueError(f"unknown flow {flow!r}; one of {', '.join(FLOWS)}")
    if unknown := [name for name in statistics if name not in STATISTICS]:
        raise ValueError(f"unknown statistic {unknown[0]!r}; one of {', '.join(STATISTICS)}")
    measured = [[STATISTICS[name](field) for name in statistics] for field in _fields(frames, flow, short_side)]
    columns = np.asarray(measured, dtype=np.float64).reshape(-1, len(statistics))
    return {name: columns[:, index] for index, name in enumerate(statistics)}


def _fields(frames: Iterable[np.ndarray], flow: str, short_side: int) -> Iterator[np.ndarray]:
    """Yield the flow field (H, W, 2) that leads to each frame; zeros for the first."""
    previous, estimate = None, None
    for index, frame in enumerate(_grey(frames, short_side)):
        if previous is None:
            estimate = _estimator(flow, min(frame.shape))
            yield np.zeros((*frame.shape, 2), np.float32)
        elif previous.shape != frame.shape:
            raise ValueError(f"frame {index} has another size than those before it")
        else:
            yield estimate(previous, frame)
        previous = frame


def _grey(frames: Iterable[np.ndarray], short_side: int) -> Iterator[np.ndarray]:
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else frame
        scale = short_side / min(grey.shape)
        if scale < 1:
            size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        yield grey


def _estimator(flow: str, short_side: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    if flow == "dis":
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return lambda before, after: search.calc(before, after, None)
    iterations = 1 if short_side <= SMALL else 3
    # Pyramid scale, levels, window, iterations, polynomial size and sigma, flags: OpenCV's usual values.
    return lambda before, after: cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, iterations, 5, 1.2, 0)


def _mean_magnitude(field: np.ndarray) -> float:
    return float(cv2.magnitude(field[..., 0], field[..., 1]).mean())


def _local_magnitude(field: np.ndarray) -> float:
    moved = field - np.median(field, axis=(0, 1))
    speeds = cv2.magnitude(moved[..., 0], moved[..., 1]).ravel()
    count = max(1, round(FASTEST_SHARE * speeds.size))
    return float(np.partition(speeds, speeds.size - count)[-count:].mean())


STATISTICS = {"mean": _mean_magnitude, "local": _local_magnitude}
