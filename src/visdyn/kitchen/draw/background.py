"""Background of a scene, which no action changes: wall, decoration, counter, sink, cabinets, floor, basket."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from visdyn.kitchen.draw.canvas import Canvas, Sprite, record, shade
from visdyn.kitchen.scene import Scene

COUNTER_TOP = 40.0  # bottoms of objects stand here: the lower edge of the fifth row of 8-pixel tokens
WOOD = (176, 122, 70)


def column_x(column: float) -> float:
    """Centre of a counter column, on the grid of 8-pixel tokens: 12, 20, 28, 36, 44."""
    return 12.0 + 8.0 * column


@lru_cache(maxsize=32)
def paint_background(scene: Scene) -> Canvas:
    """Return the canvas of a scene's fixed parts; shared, so copy it before drawing."""
    canvas = Canvas()
    rng = np.random.default_rng(scene.texture)
    _paint_wall(canvas, scene)
    _DECOR[scene.decor](canvas, scene, rng)
    _paint_counter(canvas, scene, rng)
    _paint_cabinets(canvas, scene)
    _paint_floor(canvas, scene)
    _paint_sink(canvas)
    basket_back(canvas, scene)
    basket_front(canvas, scene)
    return canvas


def _paint_wall(canvas: Canvas, scene: Scene) -> None:
    wall = scene.wall
    canvas.rect(0, 0, 64, 36, wall)
    seam = shade(wall, 0.93)
    if scene.wall_pattern == "tiles":
        for row, y in enumerate(range(0, 36, 4)):
            canvas.rect(0, y, 64, y + 0.5, seam)
            for x in range(4 * (row % 2) - 4, 64, 8):
                canvas.rect(x, y, x + 0.5, y + 4, seam)
    elif scene.wall_pattern == "planks":
        for x in range(4, 64, 8):
            canvas.rect(x - 0.5, 0, x + 0.25, 36, seam)
    elif scene.wall_pattern == "stripes":
        for x in range(0, 64, 8):
            canvas.rect(x, 0, x + 4, 36, shade(wall, 1.12))
    canvas.rect(0, 34, 64, 36, shade(wall, 0.86))


def _paint_window(canvas: Canvas, scene: Scene, rng: np.random.Generator) -> None:
    canvas.rect(49, 1, 63, 19, (245, 243, 236))
    canvas.rect(50, 2, 62, 18, (150, 200, 235))
    hill = float(rng.uniform(54.5, 57.5))
    canvas.ellipse(float(rng.uniform(52, 60)), 5, 1.6, 1.6, (255, 238, 150))
    for x, radius, tint in ((hill, 5.0, 0.9), (112 - hill, 4.0, 1.0)):
        canvas.ellipse(x, 18, radius, radius, shade((104, 168, 98), tint), (180, 360))
    canvas.rect(62, 1, 64, 19, (245, 243, 236))
    canvas.rect(47, 1, 50, 19, (245, 243, 236))
    canvas.rect(47, 18, 64, 20, (232, 228, 216))
    canvas.rect(55.5, 2, 56.5, 18, (245, 243, 236))
    canvas.rect(50, 9.5, 62, 10.5, (245, 243, 236))


def _paint_clock(canvas: Canvas, scene: Scene, rng: np.random.Generator) -> None:
    canvas.ellipse(56, 10, 7, 7, shade(scene.cabinet, 0.45))
    canvas.ellipse(56, 10, 5.8, 5.8, (250, 248, 240))
    for angle in np.arange(0, 2 * np.pi, np.pi / 6):
        canvas.ellipse(56 + 4.7 * np.cos(angle), 10 + 4.7 * np.sin(angle), 0.4, 0.4, (90, 90, 90))
    for length, width in ((3.0, 0.9), (4.2, 0.6)):
        angle = float(rng.uniform(0, 2 * np.pi))
        canvas.line([(56, 10), (56 + length * np.cos(angle), 10 + length * np.sin(angle))], width, (40, 40, 48))


def _paint_plant(canvas: Canvas, scene: Scene, rng: np.random.Generator) -> None:
    canvas.rect(48, 17, 64, 18.5, WOOD)
    canvas.rect(48, 18.5, 64, 19, shade(WOOD, 0.7))
    for x, size in ((53.0, float(rng.uniform(0.8, 1.1))), (60.0, float(rng.uniform(0.6, 0.9)))):
        for angle in np.linspace(-2.6, -0.5, 6) + rng.uniform(-0.15, 0.15, 6):
            tip = (x + 6.5 * size * np.cos(angle), 12.5 + 8.5 * size * np.sin(angle))
            canvas.line([(x, 12.8), tip], 1.5, shade((70, 150, 84), float(rng.uniform(0.75, 1.15))))
        canvas.poly([(x - 2.6, 12), (x + 2.6, 12), (x + 1.9, 17), (x - 1.9, 17)], (190, 104, 72))
        canvas.rect(x - 2.9, 11.6, x + 2.9, 12.8, (206, 122, 88))


def _paint_picture(canvas: Canvas, scene: Scene, rng: np.random.Generator) -> None:
    canvas.rect(49, 2, 63, 18, shade(WOOD, 0.75))
    canvas.rect(50, 3, 62, 17, (240, 236, 224))
    tone = (225, 205, 170)
    canvas.rect(51.5, 4.5, 60.5, 15.5, tone)
    for _ in range(3):
        colour = tuple(int(v) for v in rng.integers(90, 210, 3))
        x, y, r = rng.uniform(53.5, 58.5), rng.uniform(7, 13), rng.uniform(1.3, 2.2)
        canvas.ellipse(float(x), float(y), float(r), float(r), colour)


_DECOR = {"window": _paint_window, "clock": _paint_clock, "plant": _paint_plant, "picture": _paint_picture}


def _paint_counter(canvas: Canvas, scene: Scene, rng: np.random.Generator) -> None:
    canvas.rect(0, 36, 64, 41, scene.counter)
    for _ in range(9):
        x, y, length = float(rng.uniform(0, 60)), float(rng.uniform(36.4, 40.4)), float(rng.uniform(2, 6))
        canvas.line([(x, y), (x + length, y)], 0.25, shade(scene.counter, 0.94))
    canvas.rect(0, 35.6, 64, 36.2, shade(scene.counter, 0.82))
    canvas.rect(0, 40.6, 64, 42, shade(scene.counter, 0.78))
    canvas.rect(0, 42, 64, 42.6, shade(scene.cabinet, 0.6))


def _paint_cabinets(canvas: Canvas, scene: Scene) -> None:
    canvas.rect(0, 42.6, 64, 60, scene.cabinet)
    seam = shade(scene.cabinet, 0.72)
    for x in (0, 24, 48):
        left, right = x + 0.8, x + (23.2 if x < 48 else 15.4)
        canvas.rect(left, 49, right, 58.6, shade(scene.cabinet, 0.86))
        canvas.rect(left + 0.8, 49.8, right - 0.8, 57.8, shade(scene.cabinet, 1.1))
        canvas.rect(x - 0.3, 42.6, x + 0.3, 60, seam)
    canvas.rect(50.4, 52, 51.2, 55, shade(scene.cabinet, 0.4))


def _paint_floor(canvas: Canvas, scene: Scene) -> None:
    canvas.rect(0, 59.4, 64, 60.4, shade(scene.cabinet, 0.45))
    canvas.rect(0, 60.4, 64, 64, scene.floor)
    for x in (6, 22, 38, 54):
        canvas.rect(x, 60.4, x + 0.4, 64, shade(scene.floor, 0.8))


def _paint_sink(canvas: Canvas) -> None:
    canvas.poly([(50, 37.2), (62.5, 37.2), (63.4, 40.2), (49, 40.2)], (176, 182, 190))
    canvas.poly([(51, 37.7), (61.6, 37.7), (62.2, 39.8), (50.3, 39.8)], (96, 104, 114))


def basket_back(canvas: Canvas, scene: Scene) -> None:
    x = column_x(scene.basket_column)
    canvas.ellipse(x, 33.4, 3.7, 1.3, shade(WOOD, 0.5))


def basket_front(canvas: Canvas, scene: Scene) -> None:
    """Draw the front of the basket, over what lies in it."""
    canvas.stamp(_record_basket(), 8.0 * scene.basket_column)


@lru_cache(maxsize=1)
def _record_basket() -> Sprite:
    return record(lambda canvas: _paint_basket(canvas, column_x(0)))


def _paint_basket(canvas: Canvas, x: float) -> None:
    canvas.poly([(x - 3.9, 32.6), (x + 3.9, 32.6), (x + 3.0, 39.7), (x - 3.0, 39.7)], shade(WOOD, 0.95))
    for row, y in enumerate((34.8, 36.3, 37.8, 39.2)):
        half = 3.7 - 0.14 * (y - 33.4)
        canvas.line([(x - half + 0.3, y), (x + half - 0.3, y)], 0.45, shade(WOOD, 0.62))
        for step in range(-2, 3):
            at = x + 1.5 * step + 0.75 * (row % 2)
            if abs(at - x) < half - 0.3:
                canvas.line([(at, y - 0.9), (at, y)], 0.45, shade(WOOD, 1.35))
    canvas.line([(x - 3.4, 32.75), (x + 3.4, 32.75)], 1.25, shade(WOOD, 1.25))
