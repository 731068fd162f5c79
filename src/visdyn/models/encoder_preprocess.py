"""Image preprocessing of the evaluation encoders, with PIL and numpy only, as each paper's evaluation code does it.

`magicbrush` is the evaluator that Bootstrapping's Table 6 uses: OpenAI's CLIP preprocessing, and DINO ViT-S/16 after
a resize to 256 (bicubic) and a 224 centre crop. `doundo` is Do-Undo's: the same geometry for DINOv2-large, whose
tokens are averaged, and CLIP of LAION, whose preprocessing equals OpenAI's. `embedded` is this kit's, for its tiny
encoders: the whole image at the encoder's own size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an encoder's input.

    Attributes:
        resize: length of the shorter side after a bicubic resize; None squeezes the image to `crop` x `crop`.
        crop: side of the centre crop; None is the side that the encoder was made for (`Preset.at_size`).
        mean, std: per channel, of values in [0, 1].
    """

    resize: int | None
    crop: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return float32 (3, crop, crop) of an RGB image."""
        values = np.asarray(self._resize_and_crop(image), np.float32) / 255  # (crop, crop, 3)
        return ((values - np.float32(self.mean)) / np.float32(self.std)).transpose(2, 0, 1)

    def _resize_and_crop(self, image: Image.Image) -> Image.Image:
        size = (self.crop, self.crop) if self.resize is None else _scale_shorter_side(image.size, self.resize)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        # Rounded half to even, as torchvision's CenterCrop does.
        left, top = (round((side - self.crop) / 2) for side in image.size)
        return image.crop((left, top, left + self.crop, top + self.crop))


@dataclass(frozen=True)
class Preset:
    """One paper's way with one kind of encoder; `pooling` is `cls`, `mean` (of all tokens, CLS too) or `projected`."""

    preprocessing: Preprocessing
    pooling: str

    def at_size(self, side: int) -> Preset:
        """Return the preset for an encoder of images of `side` pixels: its crop, where the preset names none."""
        known = self.preprocessing
        return self if known.crop is not None else replace(self, preprocessing=replace(known, crop=side))


_CLIP = Preset(Preprocessing(224, 224, CLIP_MEAN, CLIP_STD), "projected")
_DINO_224 = Preprocessing(256, 224, IMAGENET_MEAN, IMAGENET_STD)
_WHOLE = Preprocessing(None, None, HALF, HALF)

_MAGICBRUSH_DINO = Preset(_DINO_224, "cls")
# `bootstrapping` is MagicBrush's: the paper compares with that evaluator.
CLIP_PRESETS = {
    "embedded": Preset(_WHOLE, "projected"),
    "magicbrush": _CLIP,
    "bootstrapping": _CLIP,
    "doundo": _CLIP,
}
DINO_PRESETS = {
    "embedded": Preset(_WHOLE, "mean"),
    "magicbrush": _MAGICBRUSH_DINO,
    "bootstrapping": _MAGICBRUSH_DINO,
    "doundo": Preset(_DINO_224, "mean"),
}


def preset_of(presets: dict[str, Preset], name: str) -> Preset:
    """Return a preset by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in presets:
        raise ValueError(f"unknown encoder preset {name!r}; one of {', '.join(presets)}")
    return presets[name]


def _scale_shorter_side(size: tuple[int, int], target: int) -> tuple[int, int]:
    """Scale so that the shorter side is `target`; the longer is truncated, as torchvision does."""
    width, height = size
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target
