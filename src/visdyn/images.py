"""Image references and the conversions that every layer shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

ImageRef = str | Path | Image.Image | np.ndarray


class ImageError(ValueError):
    """An image file is missing or cannot be decoded; the message names it."""


def load(ref: ImageRef) -> Image.Image:
    """Return the referenced image as an RGB `PIL.Image`, fully decoded.

    Args:
        ref: a path, a `PIL.Image`, or a uint8 array (H, W, 3) in RGB order.

    Raises:
        ImageError: the file is missing, truncated or not an image.
        TypeError: the reference is none of the three.
    """
    if isinstance(ref, Image.Image):
        return ref if ref.mode == "RGB" else ref.convert("RGB")
    if isinstance(ref, np.ndarray):
        return Image.fromarray(ref)
    if not isinstance(ref, str | Path):
        raise TypeError(f"an image reference is a path, a PIL image or an array, not {type(ref).__name__}")
    try:
        with Image.open(ref) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise ImageError(f"image {ref} does not exist; check the dataset's root") from error
    except (UnidentifiedImageError, OSError) as error:
        raise ImageError(f"image {ref} cannot be decoded ({error}); fetch it again") from error


def to_array(refs: Iterable[ImageRef]) -> np.ndarray:
    """Stack equally sized images into a uint8 array (N, H, W, 3)."""
    return np.stack([np.asarray(load(ref)) for ref in refs])


def stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return images as one uint8 array (N, H, W, 3) where they have one size, else an object array (N,) of them."""
    if len({image.shape for image in images}) == 1:
        return np.stack(images)
    array = np.empty(len(images), object)
    for row, image in enumerate(images):
        array[row] = image
    return array


def to_pixels(array: np.ndarray):
    """Map a uint8 array (N, H, W, 3) to a float32 tensor (N, 3, H, W) in [-1, 1] (x / 255 * 2 - 1)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2).float() / 255 * 2 - 1


def from_pixels(pixels) -> np.ndarray:
    """Map float pixels (N, 3, H, W), clamped to [-1, 1], to uint8 (N, H, W, 3), truncated as in the public code.

    Raises:
        ImageError: a pixel is NaN or infinite; as a byte it would be black.
    """
    if not pixels.isfinite().all():
        raise ImageError(f"pixels of {tuple(pixels.shape)} hold NaN or infinity, and are no image")
    scaled = (pixels.detach().float().clamp(-1, 1) + 1) / 2 * 255
    return scaled.permute(0, 2, 3, 1).byte().cpu().numpy()
