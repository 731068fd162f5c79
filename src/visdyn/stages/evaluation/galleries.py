"""The images that figures show: small .npz files under data/generated/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ImageOps

from visdyn.images import ImageRef, load, to_array

Gallery = dict[str, np.ndarray]
OTHERS = ("diffusers", "api", "imported")
SHOWN_SIDE = 256  # pixels; larger images are shrunk for the figures


def save_galleries(folder: Path, galleries: dict[str, Gallery]) -> None:
    """Write each gallery as `<folder>/<name>.npz`; the same arrays give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in galleries.items():
        np.savez_compressed(folder / f"{name}.npz", **arrays)


def pictures(refs: Sequence[ImageRef], side: int = SHOWN_SIDE) -> np.ndarray:
    """Return images as uint8 (N, H, W, 3): as they are where small and of one size, else on white squares."""
    images = [load(ref) for ref in refs]
    if len({image.size for image in images}) == 1 and max(images[0].size) <= side:
        return to_array(images)
    return to_array([ImageOps.pad(image, (side, side), color="white") for image in images])


def spread_rows(length: int, count: int) -> np.ndarray:
    """Return at most `count` row numbers, evenly spread over `length`."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))
