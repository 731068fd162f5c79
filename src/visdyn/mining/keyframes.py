"""Motion key-frames of unlabelled clips, and the pairs that adjacent ones form (Bootstrapping, section 3.2).

The paper takes "the top-K_f frames while ensuring that the interval between two selected frames is I_f" (K_f = 6,
I_f = 20). That can be read in two ways; its Table 7 (2 to 3 key-frames a video, of 180 to 270 frames) fits the first:

- `top_then_space`: the top_k frames of highest flow, then those closer than min_interval to a kept higher one dropped;
- `greedy_spaced`: by falling flow, each frame at least min_interval from those kept, until there are top_k.

Both choose frames in mid-motion. The third reading is the kit's own: `quiet_around_peak` uses flow peaks only to find
the actions, and keeps the quietest frame before, between and after them: states rather than movements. It goes by
another statistic of the optical flow (`clip_motion.py: flow_profiles`), which tells a hand from noise and a moving
camera, and it needs every frame's; the paper's two readings need that of few frames (`select_after_first_pass`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from visdyn.datasets.clips import Clip, stream_grey
from visdyn.mining.clip_motion import FirstPass, flow_profiles

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
# After a first pass, a frame may move this many times as much as the largest ratio of measured to rough motion allows.
SLACK = 1.2
# Frames without rough motion can move: each counts with at least this share of the clip's highest rough motion.
ROUGH_FLOOR = 0.01
SPREAD = 6  # frames measured at once, spread evenly over the ranks of the rough motion


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
    motion: Mapping[str, np.ndarray] | FirstPass | None = None,
) -> list[int]:
    """Return the sorted indices (from 0) of a clip's key-frames, at least `min_interval` frames apart.

    Args:
        video_path: a video file, or a folder of frames.
        top_k, min_interval: K_f and I_f of the paper, in frames.
        mode: one of MODES; the module's text says what each takes for a key-frame.
        flow: as of `flow_profiles`.
        motion: of this clip, as `clip_motion.py: measure_motion` gives it, so that several modes share one reading;
            None reads the clip and measures every frame.

    Raises:
        ClipError: the clip cannot be read in full.
        ValueError: unknown mode or flow, top_k or min_interval below 1; `quiet_around_peak` after a first pass.
    """
    check_selection(top_k, min_interval, mode)
    statistic = STATISTIC_OF[mode]
    if isinstance(motion, FirstPass):
        return select_after_first_pass(motion.rough, motion.measure, top_k, min_interval, mode)
    if motion is None:
        motion = flow_profiles(stream_grey(video_path), flow, (statistic,))
    return select_from_profile(motion[statistic], top_k, min_interval, mode)


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
    ranked = _rank_frames(profile)
    if mode == "top_then_space":
        ranked = ranked[:top_k]
    return sorted(_keep_spaced(ranked, min_interval)[:top_k])


def select_after_first_pass(
    rough: np.ndarray,
    measure: Callable[[int], float],
    top_k: int = 6,
    min_interval: int = 20,
    mode: str = "top_then_space",
) -> list[int]:
    """Choose as `select_from_profile` does from the motion of all frames, while measuring that of few.

    A frame that is not measured counts with an upper bound. What the bounds would choose is measured, and they choose
    again, until all that they choose is measured: no other frame, however much it moves within its bound, could then
    displace one of those (a tie goes to the earlier frame either way). The bound is the rough motion times SLACK times
    the largest ratio of measured to rough motion in this clip, at least 1. No cheap flow bounds an exact one, so this
    is a bound by experience: the choice is that of the exact motion wherever no unmeasured frame breaks it. It is
    learned from the frames of highest rough motion and from others spread over all ranks; `benchmarks/keyframes.py`
    compares both choices on a folder of clips.

    Args:
        rough: cheap estimate of the motion of each frame (N,), finite and >= 0, in the unit of `measure`.
        measure: gives the motion of a frame by its index; asked for few frames, for some of them more than once.
        mode: `top_then_space` or `greedy_spaced`.

    Returns:
        As `select_from_profile`.
    """
    check_selection(top_k, min_interval, mode)
    if mode == "quiet_around_peak":
        raise ValueError("mode 'quiet_around_peak' needs the motion of every frame; measure it without a first pass")
    if len(rough) == 0:
        return []
    raised = rough + max(ROUGH_FLOOR * float(rough.max()), 1e-9)  # (N,), > 0
    ranks = np.argsort(-raised, kind="stable")
    spread = np.linspace(0, len(ranks) - 1, SPREAD).astype(int)
    wanted = {0, *ranks[:top_k].tolist(), *ranks[spread].tolist()}  # frame 0 has no frame before it: it moves by 0
    known: dict[int, float] = {}
    while wanted:
        known |= {index: measure(index) for index in sorted(wanted)}
        bound = raised * SLACK * max(1, *(motion / raised[index] for index, motion in known.items()))
        bound[list(known)] = list(known.values())
        if mode == "top_then_space":  # which of its top_k are kept depends on all of them
            decisive = _rank_frames(bound)[:top_k]
        else:
            decisive = select_from_profile(bound, top_k, min_interval, mode)
        wanted = set(decisive) - known.keys()
    return select_from_profile(bound, top_k, min_interval, mode)


def _rank_frames(profile: np.ndarray) -> list[int]:
    """Return the frames that move, the fastest first, of equal ones the earlier first."""
    return [int(index) for index in np.argsort(-profile, kind="stable") if profile[index] > 0]


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
