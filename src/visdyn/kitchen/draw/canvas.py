"""A drawing surface in image units (64 x 64), stored four times larger so that every edge comes out smooth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np

UNITS = 64
SCALE = 4
_SHIFT = 4
_FIXED = SCALE * 2**_SHIFT  # drawing functions take fixed-point coordinates with _SHIFT fractional bits
Colour = tuple[int, int, int]
Point = tuple[float, float]


@lru_cache(maxsize=4096)
def shade(colour: Colour, factor: float) -> Colour:
    """Darken (factor < 1) or lighten towards white (factor > 1) an RGB colour."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)
    return tuple(int(255 - (255 - c) * (2 - factor)) for c in colour)


def _to_fixed_point(points: Sequence[Point]) -> np.ndarray:
    # OpenCV puts a pixel's centre at a whole number; half a pixel (8 of 16) less puts its corner there.
    return np.rint(np.array(points) * _FIXED - 8).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Sprite:
    """A recorded drawing: pixels (h, w, 3), mask (h, w) of 0 or 255, and the place of its corner on the surface."""

    pixels: np.ndarray
    mask: np.ndarray
    left: int
    top: int


class Canvas:
    """An RGB picture of 64 x 64 units; (0, 0) is the top left corner, x to the right, y down."""

    def __init__(self, pixels: np.ndarray | None = None) -> None:
        side = UNITS * SCALE
        self.pixels = np.zeros((side, side, 3), np.uint8) if pixels is None else pixels

    def copy(self) -> Canvas:
        return Canvas(self.pixels.copy())

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        a, b, c, d = round(x0 * SCALE), round(y0 * SCALE), round(x1 * SCALE) - 1, round(y1 * SCALE) - 1
        if c >= a and d >= b:
            cv2.rectangle(self.pixels, (a, b), (c, d), colour, -1)

    def poly(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a convex polygon."""
        cv2.fillConvexPoly(self.pixels, _to_fixed_point(points), colour, cv2.LINE_8, _SHIFT)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, arc: tuple[float, float] = (0, 360)
    ) -> None:
        """Fill an ellipse, or the part of it between two angles (degrees, clockwise from the right)."""
        centre = (round(x * _FIXED - 8), round(y * _FIXED - 8))
        axes = (round(rx * _FIXED), round(ry * _FIXED))
        cv2.ellipse(self.pixels, centre, axes, 0, arc[0], arc[1], colour, -1, cv2.LINE_8, _SHIFT)

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, colour: Colour) -> None:
        """Draw the outline of an ellipse."""
        centre = (round(x * _FIXED - 8), round(y * _FIXED - 8))
        axes = (round(rx * _FIXED), round(ry * _FIXED))
        thickness = max(1, round(width * SCALE))
        cv2.ellipse(self.pixels, centre, axes, 0, 0, 360, colour, thickness, cv2.LINE_8, _SHIFT)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a line with round ends through points."""
        thickness = max(1, round(width * SCALE))
        corners = [(round(x * _FIXED - 8), round(y * _FIXED - 8)) for x, y in points]
        for start, end in pairwise(corners):
            cv2.line(self.pixels, start, end, colour, thickness, cv2.LINE_8, _SHIFT)

    def glow(self, points: Sequence[Point], colour: Colour, alpha: float) -> None:
        """Blend a convex polygon of light over the picture."""
        corners = _to_fixed_point(points) / 2**_SHIFT
        (x0, y0), (x1, y1) = np.maximum(corners.min(0).astype(int), 0), corners.max(0).astype(int) + 1
        mask = np.zeros(self.pixels[y0:y1, x0:x1].shape, np.uint8)
        local = np.round((corners - (x0, y0)) * 2**_SHIFT).astype(np.int32)
        cv2.fillConvexPoly(mask, local, (255, 255, 255), cv2.LINE_8, _SHIFT)
        weight = mask.astype(np.float32) * (alpha / 255)
        region = self.pixels[y0:y1, x0:x1]
        region[:] = np.round(region * (1 - weight) + np.asarray(colour, np.float32) * weight)

    def stamp(self, sprite: Sprite, dx: float = 0.0, dy: float = 0.0) -> None:
        """Paste a sprite, moved by (dx, dy) units, to the nearest quarter of a unit; what falls outside is cut."""
        height, width = sprite.mask.shape
        x, y = sprite.left + round(dx * SCALE), sprite.top + round(dy * SCALE)
        side = len(self.pixels)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, side), min(y + height, side)
        if x0 < x1 and y0 < y1:
            part = slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)
            cv2.copyTo(sprite.pixels[part], sprite.mask[part], self.pixels[y0:y1, x0:x1])

    def image(self, size: int = UNITS) -> np.ndarray:
        """Return the picture as uint8 (size, size, 3)."""
        pixels, side = self.pixels, len(self.pixels)
        if side % size or (side // size).bit_count() != 1:  # halving does not lead there
            return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
        while len(pixels) > size:  # halving is three times faster in OpenCV than one step of four
            half = len(pixels) // 2
            pixels = cv2.resize(pixels, (half, half), interpolation=cv2.INTER_AREA)
        return pixels


_KEY = (255, 0, 254)  # a colour that nothing is painted in


def record(draw: Callable[[Canvas], None]) -> Sprite:
    """Record what `draw` paints, for `Canvas.stamp`; about ten times faster than painting it again."""
    canvas = Canvas()
    cv2.rectangle(canvas.pixels, (0, 0), (UNITS * SCALE, UNITS * SCALE), _KEY, -1)
    draw(canvas)
    mask = cv2.bitwise_not(cv2.inRange(canvas.pixels, _KEY, _KEY))
    left, top, width, height = cv2.boundingRect(mask)
    box = slice(top, top + height), slice(left, left + width)
    return Sprite(canvas.pixels[box].copy(), mask[box].copy(), left, top)
