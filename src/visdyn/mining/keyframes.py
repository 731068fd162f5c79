"""Motion key-frames of unlabelled clips, and the pairs that adjacent ones form (Bootstrapping, section 3.2).

The paper takes "the top-K_f frames while ensuring that the interval between two selected frames is I_f" (K_f = 6,
I_f = 20). That can be read in two ways; its Table 7 (2 to 3 key-frames a video, of 180 to 270 frames) fits the first:

- `top_then_space`: the top_k frames of highest flow, then those closer than min_interval to a kept higher one dropped;
- `greedy_spaced`: by falling flow, each frame at least min_interval from those kept, until there are top_k.

Both choose frames in mid-motion. The third reading is the kit's own: `quiet_around_peak` uses flow peaks only to find
the actions, and keeps the quietest frame before, between and after them: states rather than movements. It goes by
another statistic of the optical flow (`flow_profiles`), which tells a hand from noise and a moving camera.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from visdyn.datasets.clips import Clip, stream_frames

# Mode -> the statistic of the flow that it goes by.
STATISTIC_OF = {"top_then_space": "mean", "greedy_spaced": "mean", "quiet_around_peak": "local"}
MODES = tuple(STATISTIC_OF)
# A frame range (start, stop, state), both ends included, in which nothing moves and the world is in one known state.
SettledRange = tuple[int, int, str]
# A peak counts as an action from this share of the clip's highest (smoothed, above the quietest) motion on.
PEAK_SHARE = 0.3
# Frames between two peaks are a rest, and not part of one action, below this share.
QUIET_SHARE = 0.1
SMOOTHING = 5
FLOWS = ("farneback", "dis")
SHORT_SIDE = 256
# From this short side down, Farneback refines once per pyramid level instead of three times: at 64x64 pixels that
# takes 0.5 ms a frame instead of 0.9 and ranks frames alike.
SMALL = 128
FASTEST_SHARE = 0.1


@dataclass(frozen=True)
class KeyframePair:
    """Two adjacent key-frames of one clip; frames count from 0, frame_a < frame_b."""

    dataset: str
    class_name: str
    video: str
    frame_a: int
    frame_b: int
    mode: str

    def as_dict(self) -> dict:
        """Return the pair as a flat dictionary, ready for a line of JSON."""
        return asdict(self)


def select_keyframes(
    video_path: str | Path | Clip,
    top_k: int = 6,
    min_interval: int = 20,
    mode: str = "top_then_space",
    flow: str = "farneback",
    profiles: Mapping[str, np.ndarray] | None = None,
) -> list[int]:
    """Return the sorted indices (from 0) of a clip's key-frames, at least `min_interval` frames apart.

    Args:
        video_path: a video file, or a folder of frames.
        top_k, min_interval: K_f and I_f of the paper, in frames.
        mode: one of MODES; the module's text says what each takes for a key-frame.
        flow: as of `flow_profiles`.
        profiles: what `flow_profiles` measured of this clip, so that several modes share one reading; None reads it.

    Raises:
        ClipError: the clip cannot be read in full.
        ValueError: unknown mode or flow, top_k or min_interval below 1.
    """
    check_selection(top_k, min_interval, mode)
    statistic = STATISTIC_OF[mode]
    if profiles is None:
        profiles = flow_profiles(stream_frames(video_path), flow, (statistic,))
    return select_from_profile(profiles[statistic], top_k, min_interval, mode)


def select_from_profile(
    profile: Sequence[float] | np.ndarray,
    top_k: int = 6,
    min_interval: int = 20,
    mode: str = "top_then_space",
) -> list[int]:
    """Choose key-frames from the motion of each frame alone (see the module's text for the modes).

    Frames without any motion are never chosen in the first two modes. Equal motion is settled by the earlier frame.

    Args:
        profile: motion per frame (N,), finite and >= 0, by the statistic `STATISTIC_OF[mode]`.

    Returns:
        At most top_k sorted indices in [0, N), any two at least min_interval apart.
    """
    check_selection(top_k, min_interval, mode)
    profile = np.asarray(profile, dtype=np.float64)
    if profile.ndim != 1 or not np.isfinite(profile).all() or (profile < 0).any():
        raise ValueError("a flow profile is one finite, non-negative number per frame")
    if mode == "quiet_around_peak":
        return _select_quiet_frames(profile, top_k, min_interval)
    ranked = [int(index) for index in np.argsort(-profile, kind="stable") if profile[index] > 0]
    if mode == "top_then_space":
        ranked = ranked[:top_k]
    return sorted(_keep_spaced(ranked, min_interval)[:top_k])


def check_selection(top_k: int, min_interval: int, mode: str) -> None:
    """Raise ValueError where a setting of the selection makes no sense."""
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; one of {', '.join(MODES)}")
    if top_k < 1 or min_interval < 1:
        raise ValueError(f"top_k and min_interval are counts of at least 1, not {top_k} and {min_interval}")


def _keep_spaced(ranked: Iterable[int], min_interval: int) -> list[int]:
    kept: list[int] = []
    for index in ranked:
        if all(abs(index - other) >= min_interval for other in kept):
            kept.append(index)
    return kept


def _select_quiet_frames(profile: np.ndarray, top_k: int, min_interval: int) -> list[int]:
    """Return the quietest frame of each rest between actions; rests are kept from the quietest on, spaced."""
    motion = _smooth_profile(profile)
    actions = _find_actions(motion)
    if not actions:
        return []
    # Rests lie between the actions: (0, start 1), (stop 1, start 2), ..., (stop n, N)
    edges = [0, *(edge for action in actions for edge in action), len(motion)]
    rests = zip(edges[::2], edges[1::2], strict=True)
    quiet = [_argmin_between(motion, start, stop) for start, stop in rests if stop > start]
    return sorted(_keep_spaced(sorted(quiet, key=lambda index: (motion[index], index)), min_interval)[:top_k])


def _smooth_profile(profile: np.ndarray) -> np.ndarray:
    """Return the moving average over SMOOTHING frames, less the quietest frame's (the sensor's noise)."""
    if len(profile) == 0:
        return profile
    padded = np.pad(profile, SMOOTHING // 2, mode="edge")
    smooth = np.convolve(padded, np.ones(SMOOTHING) / SMOOTHING, mode="valid")
    return np.maximum(smooth - smooth.min(), 0)


def _find_actions(motion: np.ndarray) -> list[tuple[int, int]]:
    """Return (start, stop) of each stretch without rest that holds a peak of at least PEAK_SHARE of the highest."""
    highest = motion.max(initial=0)
    # False at both ends, so that every stretch has a start and a stop: (N + 2,) -> edges in [0, N]
    moving = np.concatenate([[False], motion > QUIET_SHARE * highest, [False]])
    edges = np.flatnonzero(moving[1:] != moving[:-1]).tolist()
    stretches = zip(edges[::2], edges[1::2], strict=True)
    return [(start, stop) for start, stop in stretches if motion[start:stop].max() >= PEAK_SHARE * highest]


def _argmin_between(motion: np.ndarray, start: int, stop: int) -> int:
    return start + int(np.argmin(motion[start:stop]))


def clean_pair(frame_a: int, frame_b: int, settled_ranges: Iterable[SettledRange]) -> bool:
    """Say whether both frames lie in settled ranges (ends included) whose states differ: a pair of clean states."""
    ranges = list(settled_ranges)
    states = [next((state for start, stop, state in ranges if start <= f <= stop), None) for f in (frame_a, frame_b)]
    return None not in states and states[0] != states[1]


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
    measured = [[STATISTICS[name](field) for name in statistics] for field in _flow_fields(frames, flow, short_side)]
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
    if flow == "dis":
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
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
