"""Images to the tokenizer's input: Chameleon's centre crop and Liquid's padding.

Chameleon's public tokenizer blends transparency on white, resizes the shorter side with Lanczos and crops the centre.
Liquid pads to a square with the mean colour of CLIP before the same resize, so its prediction carries bars that have
to be cut off (`unpad`) before an image metric is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from visdyn.images import ImageError, ImageRef, load

LIQUID_PAD_COLOUR = (122, 116, 104)


def whiten(ref: ImageRef) -> Image.Image:
    """Return the image as RGB, transparency blended on white (values truncated, as in the public code)."""
    image = _open_keeping_alpha(ref)
    if image.mode == "RGB":
        return image
    rgba = np.asarray(image.convert("RGBA"))
    if (rgba[:, :, 3] == 255).all():
        return image.convert("RGB")
    alpha = rgba[:, :, 3:] / 255.0  # (H, W, 1)
    return Image.fromarray(((1 - alpha) * 255 + alpha * rgba[:, :, :3]).astype(np.uint8))


def centre_crop(ref: ImageRef, size: int = 512) -> np.ndarray:
    """Return Chameleon's crop: shorter side to `size` by Lanczos, then the centre; uint8 (size, size, 3)."""
    image = whiten(ref)
    scale = size / min(image.size)
    image = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.LANCZOS)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def pad(ref: ImageRef, size: int = 512, colour: tuple[int, int, int] = LIQUID_PAD_COLOUR) -> np.ndarray:
    """Return Liquid's square: bars of `colour` around the centred image, then Lanczos; uint8 (size, size, 3)."""
    image = whiten(ref)
    side = max(image.size)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


def unpad(square: np.ndarray, width: int, height: int) -> np.ndarray:
    """Cut off the bars that `pad` put around a width x height image: uint8 (S, S, 3) to uint8 (h, w, 3).

    Rows and columns that mix bar and image are cut off too.
    """
    size, side = square.shape[0], max(width, height)
    # The bars' inner edges fall between pixels after the resize: the start is rounded up, the stop down.
    left, top = (side - width) // 2, (side - height) // 2
    columns = slice(-(-left * size // side), (left + width) * size // side)
    rows = slice(-(-top * size // side), (top + height) * size // side)
    return square[rows, columns]


def to_pixels(arrays: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """Map uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [-1, 1], computed in float64 first as the public code does."""
    values = np.asarray(np.stack(list(arrays)))
    # One entry a value: the same float64 arithmetic as for each pixel, 256 times instead of N * H * W * 3 times.
    table = torch.from_numpy((np.arange(256) / 255.0 * 2 - 1).astype(np.float32))
    return table[torch.from_numpy(values).permute(0, 3, 1, 2).long()].contiguous()


def _open_keeping_alpha(ref: ImageRef) -> Image.Image:
    if isinstance(ref, Image.Image):
        return ref
    if not isinstance(ref, str | Path):
        return load(ref)
    try:
        with Image.open(ref) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise ImageError(f"image {ref} does not exist; check the dataset's root") from error
    except (UnidentifiedImageError, OSError) as error:
        raise ImageError(f"image {ref} cannot be decoded ({error}); fetch it again") from error
