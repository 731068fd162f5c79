"""Optical flow estimators behind one call: Farneback and DIS from OpenCV, RAFT from torchvision."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np


class FlowBackend(Protocol):
    """Computes dense flow."""

    def __call__(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return flow in pixels, float32 (H, W, 2) as (x, y), of two RGB images uint8 (H, W, 3)."""


def resolved(name: str) -> str:
    """Return the backend that `name` stands for here: `auto` is RAFT where torchvision is installed, else Farneback."""
    if name != "auto":
        return name
    return "raft" if importlib.util.find_spec("torchvision") else "farneback"


@dataclass(frozen=True)
class NamedFlow:
    """A backend by its settings, so that other processes can be handed it; see `get_backend`."""

    name: str
    weights: str | None = None
    device: str = "cpu"

    def __call__(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """See `FlowBackend`."""
        raft = self.name == "raft"
        return get_backend(self.name, self.weights if raft else None, self.device if raft else "cpu")(start, end)


@lru_cache(maxsize=4)
def get_backend(name: str, weights: str | None = None, device: str = "cpu") -> FlowBackend:
    """Return the backend `name`; a RAFT network is loaded once and kept.

    Args:
        name: `farneback`, `dis` or `raft` (the authors'). Values of two backends are not comparable. Farneback's
            regularisation shortens the flow of faint or coarse texture (to nothing on flat colour): its errors rank
            systems on the same images and are no motion in pixels.
            RAFT needs sides of at least 128 that divide by 8.
        weights: for `raft`, a file of torchvision raft_large weights (C_T_SKHT_V2 in the authors' code); without it
            torchvision fetches them.
        device: torch device of `raft`.

    Raises:
        ValueError: unknown name.
        ImportError: `raft` without a torchvision that fits torch.
        FileNotFoundError: `weights` does not exist, or torchvision cannot fetch them.
    """
    builders: dict[str, Callable[[], FlowBackend]] = {
        "farneback": lambda: _run_farneback,
        "dis": lambda: _run_dis,
        "raft": lambda: _Raft(weights, device),
    }
    if name not in builders:
        raise ValueError(f"unknown flow backend {name!r}; one of {', '.join(builders)}")
    return builders[name]()


def _to_grey(image: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _run_farneback(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    import cv2

    # OpenCV's documented example values: 3 pyramid levels, 15-pixel window, 3 iterations, neighbourhood 5, sigma 1.2.
    return cv2.calcOpticalFlowFarneback(_to_grey(start), _to_grey(end), None, 0.5, 3, 15, 3, 5, 1.2, 0)


def _run_dis(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(_to_grey(start), _to_grey(end), None)


class _Raft:
    """torchvision's raft_large, 12 updates, fp32, values in [-1, 1], last prediction: as in the authors' code."""

    def __init__(self, weights: str | Path | None, device: str) -> None:
        try:
            from torchvision.models.optical_flow import Raft_Large_Weights, raft_large
        except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
            raise ImportError(
                "the flow backend 'raft' needs a torchvision that fits this torch: pip install 'visdyn[flow]', "
                "or use 'farneback' or 'dis'"
            ) from error
        if weights is not None and not Path(weights).is_file():
            raise FileNotFoundError(
                f"RAFT weights {weights} do not exist; leave them out to let torchvision fetch them"
            )
        wanted = Raft_Large_Weights.C_T_SKHT_V2
        try:
            self.network = raft_large(weights=wanted if weights is None else None)
        except OSError as error:  # no network, or no room
            raise FileNotFoundError(
                f"torchvision could not fetch RAFT's weights ({error}): give a file of them, downloaded from "
                f"{wanted.url}, or take the flow backend 'farneback' or 'dis'"
            ) from error
        if weights is not None:
            from visdyn.models.strict_load import load_state, read_pickle

            load_state(self.network, read_pickle(Path(weights)), weights)
        self.network.eval().to(device)
        self.device = device

    def __call__(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        import torch

        from visdyn.images import to_pixels

        with torch.inference_mode():
            first, second = (to_pixels(image[None]).to(self.device) for image in (start, end))
            flow = self.network(first, second)[-1][0]
        return flow.permute(1, 2, 0).float().cpu().numpy()
