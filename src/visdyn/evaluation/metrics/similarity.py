"""Pixel and feature similarity between a predicted and a true image (Bootstrapping, Table 6 and Appendix B)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from visdyn.evaluation.metrics.geometry import match
from visdyn.images import ImageRef, load

GEOMETRIES = ("paper", "matched")


class ImageEncoder(Protocol):
    """Anything that embeds images."""

    def embed_images(self, images: Sequence[ImageRef]) -> np.ndarray:
        """Return float32 (N, D), rows of unit length."""


class ImageTextEncoder(ImageEncoder, Protocol):
    """Anything that embeds images and texts in one space."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 (N, D), rows of unit length."""


def l1(prediction: ImageRef, target: ImageRef, geometry: str = "paper") -> float:
    """Return the mean absolute difference of two images with values in [0, 1].

    Args:
        prediction: the predicted image, any size.
        target: the true image, any size.
        geometry: `paper` squeezes the target to the prediction's size with PIL's default bicubic filter, whatever
            the aspect ratios; of the rules tried it is the one that gives the paper's printed Copy row. A prediction
            that was cropped is then compared with a stretched target, which alone costs .16 on Action-Genome.
            `matched` compares the same part of the scene: see `visdyn.evaluation.metrics.geometry.match`.

    Raises:
        ValueError: unknown geometry.
        visdyn.images.ImageError: an image is missing or unreadable.
    """
    if geometry not in GEOMETRIES:
        raise ValueError(f"unknown geometry {geometry!r}; one of {', '.join(GEOMETRIES)}")
    if geometry == "matched":
        predicted, true = match([prediction, target])
    else:
        predicted, true = load(prediction), load(target)
        true = true if true.size == predicted.size else true.resize(predicted.size)
    difference = np.asarray(predicted, np.float32) - np.asarray(true, np.float32)
    return float(np.abs(difference).mean(dtype=np.float64) / 255)


def clip_t(encoder: ImageTextEncoder, images: Sequence[ImageRef], texts: Sequence[str]) -> np.ndarray:
    """Return the cosine of each image with its text as float64 (N,) in [-1, 1].

    The caller chooses the text. The paper speaks of a BLIP caption (of which image is ambiguous, by which model is
    not said), MagicBrush uses a caption of the target, Do-Undo's code the action itself.

    Raises:
        ValueError: sequences of different lengths, or an encoder whose answer is malformed.
    """
    _same_length(images, texts, "images", "texts")
    return _compare_features(encoder.embed_images(images), encoder.embed_texts(texts), len(images))


def row_cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the cosine between each row of two (N, D) arrays as float64 (N,); a zero row gives 0."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = (left * right).sum(axis=1)
    return np.clip(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0), -1, 1)


def _same_length(left: Sequence, right: Sequence, left_name: str, right_name: str) -> None:
    if len(left) != len(right):
        raise ValueError(f"{len(left)} {left_name} cannot be paired with {len(right)} {right_name}")


def _compare_features(left: np.ndarray, right: np.ndarray, expected: int) -> np.ndarray:
    left, right = np.asarray(left), np.asarray(right)
    if left.ndim != 2 or left.shape != right.shape or len(left) != expected:
        raise ValueError(f"the encoder answered with shapes {left.shape} and {right.shape} for {expected} pairs")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError("the encoder answered with non-finite features; check its weights")
    return row_cosines(left, right)
