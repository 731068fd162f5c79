"""Errors of optical flow between true and generated images (Do-Undo, section 4 and the released evaluation code)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from visdyn.evaluation.metrics.optical_flow_backends import FlowBackend, get_backend
from visdyn.images import ImageRef, load

PAPER_SIZE = 512


@dataclass(frozen=True)
class FlowError:
    """A mean flow length or difference: in pixels of the compared size, and as a share of its longer side."""

    pixels: float
    normalised: float


def estimate(
    start: ImageRef, end: ImageRef, backend: str | FlowBackend = "farneback", size: int | None = PAPER_SIZE
) -> np.ndarray:
    """Return the flow from `start` to `end` in pixels, float32 (H, W, 2) as (x, y).

    Args:
        start, end: image references.
        backend: `farneback`, `dis`, `raft`, or a backend from `flow_backends.get_backend`.
        size: both images are squashed to size x size, aspect ratio ignored, with OpenCV's INTER_AREA, as the authors'
            code does (512). None keeps the native size, which must then be the same: the embedded profile's 64.

    Raises:
        ValueError: size None and images of different sizes.
    """
    compute = get_backend(backend) if isinstance(backend, str) else backend
    return compute(*_load_frames([start, end], size))


# flow(start, end) -> (H, W, 2) in pixels: `estimate` with a backend and a size of one's own
Flow = Callable[[ImageRef, ImageRef], np.ndarray]


def epe_forward(start: ImageRef, end: ImageRef, generated: ImageRef, flow: Flow = estimate) -> FlowError:
    """Return EPE-F: mean ||flow(I_o, I_F) - flow(I_o, I_F^)|| (Do-Undo v2 code). Copy gets the true motion."""
    return mean_length(flow(start, end) - flow(start, generated))


def epe_reverse(start: ImageRef, generated_reverse: ImageRef, flow: Flow = estimate) -> FlowError:
    """Return EPE-R: mean ||flow(I_o, I_R^)|| (Do-Undo v2 code).

    It is a length, not an error against a true flow: the flow from the start to a perfect return is zero.
    """
    return mean_length(flow(start, generated_reverse))


def epe_v1(start: ImageRef, generated: ImageRef, generated_reverse: ImageRef, flow: Flow = estimate) -> FlowError:
    """Return EPE(OF) of Do-Undo v1: mean ||flow(I_o, I_F^) - flow(I_R^, I_F^)||.

    An interpretation: no code was released. 0 where the reverse returns exactly to the start. The printed values
    (.05 to .13) fit the normalised form, not pixels; what v1 divided by is not said.
    """
    return mean_length(flow(start, generated) - flow(generated_reverse, generated))


def of_f(end: ImageRef, generated: ImageRef, flow: Flow = estimate) -> FlowError:
    """Return OF-F of Do-Undo v1: mean ||flow(I_F, I_F^)||.

    An interpretation: no code was released. The printed values (70 to 90) fit pixels at 512.
    """
    return mean_length(flow(end, generated))


def _load_frames(refs: list[ImageRef], size: int | None) -> list[np.ndarray]:
    import cv2

    frames = [np.asarray(load(ref)) for ref in refs]
    if size is not None:
        return [cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in frames]
    if len({frame.shape for frame in frames}) > 1:
        shapes = " and ".join(f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames)
        raise ValueError(f"flow at native size needs images of one size, not {shapes}; give a size to squash them to")
    return frames


def mean_length(flow: np.ndarray) -> FlowError:
    """Return the mean length of flow vectors (H, W, 2)."""
    pixels = float(np.linalg.norm(flow.astype(np.float64), axis=-1).mean())
    return FlowError(pixels, pixels / max(flow.shape[:2]))
