"""Bringing images of different sizes onto one frame before they are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from visdyn.images import ImageRef, load


def match(refs: Sequence[ImageRef]) -> list[Image.Image]:
    """Return the images centre-cropped to one aspect ratio and resized to one size.

    The common aspect ratio is that of the squarest image: image models crop towards a square and never away
    from it, so cropping the others alike undoes what the model's preprocessing did, in landscape and in portrait.
    The common size is that of the smallest crop, so that nothing is enlarged. Resizing is PIL's default, bicubic.

    Args:
        refs: one or more image references of any sizes.

    Returns:
        RGB images of one size, in order. Images that already agree are returned unchanged.
    """
    images = [load(ref) for ref in refs]
    aspect = min((image.width / image.height for image in images), key=lambda ratio: (abs(math.log(ratio)), ratio))
    cropped = [centre_crop(image, aspect) for image in images]
    size = min((image.size for image in cropped), key=lambda wh: (wh[0] * wh[1], wh))
    return [image if image.size == size else image.resize(size) for image in cropped]


def centre_crop(image: Image.Image, aspect: float) -> Image.Image:
    """Return the largest centred part of `image` with width / height as near `aspect` as whole pixels allow."""
    width = min(image.width, max(1, round(image.height * aspect)))
    height = min(image.height, max(1, round(image.width / aspect)))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
