"""Image resizing and normalisation as the reference's data pipeline does them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visdyn.images import ImageRef, load
from visdyn.models.bagel.config import TransformConfig


def resized_size(width: int, height: int, limits: TransformConfig, num_images: int = 1) -> tuple[int, int]:
    """Return the (width, height) an image is resized to.

    Shrink so that the long side fits, enlarge so that the short side is long enough, then keep under
    the pixel budget of one of `num_images` and under the longest side again. Sides are rounded to the
    stride after every step. The pixel step scales by the ratio of areas, not by its root, as upstream.
    """
    scale = min(limits.max_image_size / max(width, height), 1.0)
    scale = max(scale, limits.min_image_size / min(width, height))
    size = _scale_and_round((width, height), scale, limits.image_stride)
    budget = limits.max_pixels / num_images
    if size[0] * size[1] > budget:
        size = _scale_and_round(size, budget / (size[0] * size[1]), limits.image_stride)
    if max(size) > limits.max_image_size:
        size = _scale_and_round(size, limits.max_image_size / max(size), limits.image_stride)
    return size


def _scale_and_round(size: tuple[int, int], scale: float, stride: int) -> tuple[int, int]:
    # Two roundings, to a pixel and then to the stride: ties fall differently if they are merged into one.
    width, height = (max(stride, round(round(side * scale) / stride) * stride) for side in size)
    return width, height


def resize(ref: ImageRef, limits: TransformConfig, num_images: int = 1) -> Image.Image:
    """Return the image as RGB, resized (bicubic, antialiased) to `resized_size`."""
    image = load(ref)
    return image.resize(resized_size(*image.size, limits, num_images), Image.Resampling.BICUBIC)


def to_normalised(image: Image.Image) -> Tensor:
    """Return float32 (3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (pixels - 0.5) / 0.5


def transform(ref: ImageRef, limits: TransformConfig, num_images: int = 1) -> Tensor:
    """Resize and normalise: float32 (3, H, W) in [-1, 1]."""
    return to_normalised(resize(ref, limits, num_images))
