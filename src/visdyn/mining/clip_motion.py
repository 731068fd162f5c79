"""The motion of each frame of a clip: what key-frames are chosen by (Bootstrapping, section 3.2).

The exact optical flow of every frame costs 20 to 100 times as much as decoding it. Where the choice needs that of few
frames, `FirstPass` measures all of them roughly, and exactly those that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import cv2
import numpy as np

# OpenCV's presets of dense inverse search, by our name of the definition.
DIS_PRESETS = {"dis": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, "dis_fast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST}
FLOWS = ("farneback", *DIS_PRESETS)
SHORT_SIDE = 256
FAST_SIDE = 128  # pixels, the short side at which `dis_fast` is defined
# From this short side down, Farneback refines once per pyramid level instead of three times: at 64x64 pixels that
# takes 0.5 ms a frame instead of 0.9 and ranks frames alike.
SMALL = 128
FASTEST_SHARE = 0.1
# A first pass keeps the clip's grey frames; where they are more than this many bytes, every frame is measured instead.
KEPT_BYTES = 256 * 1024**2


class FirstPass:
    """The rough motion of every frame of a clip, and the exact motion of those that are asked for.

    Attributes:
        rough: mean flow length per frame (N,), float64, by Farneback's flow of frames shrunk to a short side of
            `rough_side`, in pixels of the compared size; frame 0 scores 0.
        exact: what was measured so far: frame -> its value in `flow_profiles`' "mean".
    """

    def __init__(self, greys: Sequence[np.ndarray], flow: str, rough_side: int) -> None:
        """Take the grey frames, uint8 (H, W) each, as `flow_profiles` compares them."""
        scale = min(greys[0].shape) / rough_side
        self.rough = scale * flow_profiles(greys, "farneback", ("mean",), rough_side)["mean"]
        self.exact: dict[int, float] = {0: 0.0}
        self._greys = greys
        self._estimate = _make_estimator(flow, min(greys[0].shape))

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._greys)

    def measure(self, index: int) -> float:
        """Return the motion of one frame as `flow_profiles` measures it, in pixels of the compared size."""
        if index not in self.exact:
            self.exact[index] = _mean_magnitude(self._estimate(self._greys[index - 1], self._greys[index]))
        return self.exact[index]


def measure_motion(
    frames: Iterable[np.ndarray],
    flow: str = "farneback",
    statistics: Sequence[str] = ("mean",),
    short_side: int = SHORT_SIDE,
    first_pass: int | None = None,
) -> Mapping[str, np.ndarray] | FirstPass:
    """Return the motion of a clip: of every frame, or roughly of every frame and exactly on demand.

    Args:
        frames, flow, statistics, short_side: as of `flow_profiles`.
        first_pass: short side in pixels of the rough flow; None measures every frame. Every frame is measured, too,
            where a statistic other than "mean" is wanted, where the frames are not at least twice as large (it would
            save nothing), and of a clip whose grey frames exceed KEPT_BYTES.

    Raises:
        ValueError: as of `flow_profiles`.
    """
    if first_pass is None or set(statistics) != {"mean"}:
        return flow_profiles(frames, flow, statistics, short_side)
    greys = _to_grey(frames, measured_side(flow, short_side))
    kept: list[np.ndarray] = []
    size = 0
    for grey in greys:
        kept.append(grey)
        size += grey.nbytes
        if size > KEPT_BYTES or min(grey.shape) < 2 * first_pass:
            return flow_profiles(chain(kept, greys), flow, statistics, short_side)
    return FirstPass(kept, flow, first_pass) if kept else flow_profiles(kept, flow, statistics, short_side)


def measured_side(flow: str, short_side: int) -> int:
    """Return the short side in pixels at which a flow is measured where larger frames are shrunk to `short_side`."""
    return min(short_side, FAST_SIDE) if flow == "dis_fast" else short_side


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
        flow: "farneback" (Farneback 2003), "dis" (dense inverse search, Kroeger 2016, OpenCV's preset `medium`) or
            "dis_fast", a definition of its own: preset `ultrafast` at a short side of at most FAST_SIDE pixels.
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
    side = measured_side(flow, short_side)
    measured = [[STATISTICS[name](field) for name in statistics] for field in _flow_fields(frames, flow, side)]
    columns = np.asarray(measured, dtype=np.float64).reshape(-1, len(statistics))
    return {name: columns[:, index] for index, name in enumerate(statistics)}


def _flow_fields(frames: Iterable[np.ndarray], flow: str, short_side: int) -> Iterator[np.ndarray]:
    """Yield the flow field (H, W, 2) that leads to each frame; zeros for the first."""
    previous, estimate = None, None
    for index, frame in enumerate(_to_grey(frames, short_side)):
        if previous is None:
            estimate = _make_estimator(flow, min(frame.shape))
            yield np.zeros((*frame.shape, 2), np.float32)
        elif previous.shape != frame.shape:
            raise ValueError(f"frame {index} has another size than those before it")
        else:
            yield estimate(previous, frame)
        previous = frame


def _to_grey(frames: Iterable[np.ndarray], short_side: int) -> Iterator[np.ndarray]:
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else frame
        scale = short_side / min(grey.shape)
        if scale < 1:
            size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        yield grey


def _make_estimator(flow: str, short_side: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    if flow in DIS_PRESETS:
        search = cv2.DISOpticalFlow_create(DIS_PRESETS[flow])
        return lambda before, after: search.calc(before, after, None)
    iterations = 1 if short_side <= SMALL else 3
    # Pyramid scale, levels, window, iterations, polynomial size and sigma, flags: OpenCV's usual values.
    return lambda before, after: cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, iterations, 5, 1.2, 0)


def _mean_magnitude(field: np.ndarray) -> float:
    return float(cv2.magnitude(field[..., 0], field[..., 1]).mean())


def _local_magnitude(field: np.ndarray) -> float:
    moved = field - np.median(field, axis=(0, 1))  # (H, W, 2), less the camera's motion
    speeds = cv2.magnitude(moved[..., 0], moved[..., 1]).ravel()
    count = max(1, round(FASTEST_SHARE * speeds.size))
    return float(np.partition(speeds, speeds.size - count)[-count:].mean())


STATISTICS = {"mean": _mean_magnitude, "local": _local_magnitude}
