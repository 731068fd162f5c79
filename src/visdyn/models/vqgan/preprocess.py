"""Images to the tokenizer's input: Chameleon's centre crop and Liquid's padding.

Chameleon's public tokenizer blends transparency on white, resizes the shorter side with Lanczos and crops the centre.
Liquid pads to a square with the mean colour of CLIP before the same resize, so its prediction carries bars that have
to be cut off (`unpad`) before an image metric is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visdyn.images import ImageRef, load

LIQUID_PAD_COLOUR = (122, 116, 104)


def centre_crop(ref: ImageRef, size: int = 512) -> np.ndarray:
    """Return Chameleon's crop: shorter side to `size` by Lanczos, then the centre; uint8 (size, size, 3)."""
    image = load(ref)
    scale = size / min(image.size)
    image = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.LANCZOS)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def pad(ref: ImageRef, size: int = 512, colour: tuple[int, int, int] = LIQUID_PAD_COLOUR) -> np.ndarray:
    """Return Liquid's square: bars of `colour` around the centred image, then Lanczos; uint8 (size, size, 3)."""
    image = load(ref)
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
