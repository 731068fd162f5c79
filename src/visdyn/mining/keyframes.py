"""Motion key-frames of unlabelled clips, and the pairs that adjacent ones form (Bootstrapping, section 3.2).

The paper takes "the top-K_f frames while ensuring that the interval between two selected frames is I_f" (K_f = 6,
I_f = 20). That can be read in two ways; its Table 7 (2 to 3 key-frames a video, of 180 to 270 frames) fits the first:

- `top_then_space`: the top_k frames of highest flow, then those closer than min_interval to a kept higher one dropped;
- `greedy_spaced`: by falling flow, each frame at least min_interval from those kept, until there are top_k.

Both choose frames in mid-motion. The third reading is the kit's own: `quiet_around_peak` uses flow peaks only to find
the actions, and keeps the quietest frame before, between and after them: states rather than movements. It goes by
another statistic of the flow (`visdyn.mining.flow_profile`), which tells a hand from noise and a moving camera.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from visdyn.datasets.clips import Clip, stream_frames
from visdyn.mining.flow_profile import flow_profile

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
) -> list[int]:
    """Return the sorted indices (from 0) of a clip's key-frames, at least `min_interval` frames apart.

    Raises:
        ClipError: the clip cannot be read in full.
        ValueError: unknown mode or flow, top_k or min_interval below 1.
    """
    check_selection(top_k, min_interval, mode)
    profile = flow_profile(stream_frames(video_path), flow, STATISTIC_OF[mode])
    return select_from_profile(profile, top_k, min_interval, mode)


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
        return _quiet_around_peaks(profile, top_k, min_interval)
    ranked = [int(index) for index in np.argsort(-profile, kind="stable") if profile[index] > 0]
    if mode == "top_then_space":
        ranked = ranked[:top_k]
    return sorted(_spaced(ranked, min_interval)[:top_k])


def check_selection(top_k: int, min_interval: int, mode: str) -> None:
    """Raise ValueError where a setting of the selection makes no sense."""
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; one of {', '.join(MODES)}")
    if top_k < 1 or min_interval < 1:
        raise ValueError(f"top_k and min_interval are counts of at least 1, not {top_k} and {min_interval}")


def _spaced(ranked: Iterable[int], min_interval: int) -> list[int]:
    kept: list[int] = []
    for index in ranked:
        if all(abs(index - other) >= min_interval for other in kept):
            kept.append(index)
    return kept


def _quiet_around_peaks(profile: np.ndarray, top_k: int, min_interval: int) -> list[int]:
    """Return the quietest frame of each rest between actions; rests are kept from the quietest on, spaced."""
    motion = _smooth(profile)
    actions = _actions(motion)
    if not actions:
        return []
    edges = [0, *(edge for action in actions for edge in action), len(motion)]
    rests = zip(edges[::2], edges[1::2], strict=True)
    quiet = [_quietest(motion, start, stop) for start, stop in rests if stop > start]
    return sorted(_spaced(sorted(quiet, key=lambda index: (motion[index], index)), min_interval)[:top_k])


def _smooth(profile: np.ndarray) -> np.ndarray:
    """Return the moving average over SMOOTHING frames, less the quietest frame's (the sensor's noise)."""
    if len(profile) == 0:
        return profile
    padded = np.pad(profile, SMOOTHING // 2, mode="edge")
    smooth = np.convolve(padded, np.ones(SMOOTHING) / SMOOTHING, mode="valid")
    return np.maximum(smooth - smooth.min(), 0)


def _actions(motion: np.ndarray) -> list[tuple[int, int]]:
    """Return (start, stop) of each stretch without rest that holds a peak of at least PEAK_SHARE of the highest."""
    highest = motion.max(initial=0)
    moving = np.concatenate([[False], motion > QUIET_SHARE * highest, [False]])
    edges = np.flatnonzero(moving[1:] != moving[:-1]).tolist()
    stretches = zip(edges[::2], edges[1::2], strict=True)
    return [(start, stop) for start, stop in stretches if motion[start:stop].max() >= PEAK_SHARE * highest]


def _quietest(motion: np.ndarray, start: int, stop: int) -> int:
    return start + int(np.argmin(motion[start:stop]))


def clean_pair(frame_a: int, frame_b: int, settled_ranges: Iterable[SettledRange]) -> bool:
    """Say whether both frames lie in settled ranges (ends included) whose states differ: a pair of clean states."""
    ranges = list(settled_ranges)
    states = [next((state for start, stop, state in ranges if start <= f <= stop), None) for f in (frame_a, frame_b)]
    return None not in states and states[0] != states[1]
