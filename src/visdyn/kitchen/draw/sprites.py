"""Sprites of what actions change: objects, drawers, cupboard, lamp, tap, hand. Each fits its 8-pixel token cells."""

from __future__ import annotations

from functools import lru_cache

from visdyn.kitchen.draw.canvas import Canvas, Colour, Sprite, record, shade
from visdyn.kitchen.scene import Scene

RGB: dict[str, Colour] = {
    "red": (208, 52, 48),
    "green": (64, 158, 76),
    "blue": (52, 100, 206),
    "yellow": (242, 196, 44),
}
DARK = (46, 38, 36)
STEEL = (190, 196, 204)
DRAWER_X = (8.0, 32.0)


def draw_object(canvas: Canvas, noun: str, x: float, bottom: float) -> None:
    """Draw an object, 8 units wide and high, standing at `bottom` with its centre at `x`."""
    canvas.stamp(_record_object(noun), x - 32.0, bottom - 32.0)


@lru_cache(maxsize=64)
def _record_object(noun: str) -> Sprite:
    colour, shape = noun.split()
    return record(lambda canvas: _OBJECTS[shape](canvas, RGB[colour], 32.0, 32.0))


def _paint_cup(canvas: Canvas, colour: Colour, x: float, y: float) -> None:
    x -= 0.7
    canvas.ring(x + 2.8, y - 3.6, 1.3, 1.6, 0.9, shade(colour, 0.6))
    canvas.poly([(x - 2.9, y - 6.6), (x + 2.9, y - 6.6), (x + 2.3, y - 0.3), (x - 2.3, y - 0.3)], shade(colour, 0.62))
    canvas.poly([(x - 2.6, y - 6.5), (x + 2.4, y - 6.5), (x + 1.8, y - 0.7), (x - 2.0, y - 0.7)], colour)
    canvas.poly([(x - 2.0, y - 5.5), (x - 1.0, y - 5.5), (x - 0.9, y - 1.4), (x - 1.6, y - 1.4)], shade(colour, 1.55))
    canvas.ellipse(x, y - 6.6, 2.9, 0.95, shade(colour, 1.35))
    canvas.ellipse(x, y - 6.5, 2.3, 0.6, shade(colour, 0.42))


def _paint_jar(canvas: Canvas, colour: Colour, x: float, y: float) -> None:
    canvas.rect(x - 2.7, y - 5.6, x + 2.7, y - 0.3, shade(colour, 0.6))
    canvas.rect(x - 2.3, y - 5.6, x + 1.9, y - 0.7, colour)
    canvas.rect(x - 2.0, y - 5.3, x - 1.2, y - 1.1, shade(colour, 1.55))
    canvas.rect(x - 1.5, y - 4.2, x + 1.7, y - 2.0, (246, 240, 226))
    canvas.rect(x - 0.8, y - 3.4, x + 1.0, y - 2.9, shade(colour, 0.6))
    canvas.rect(x - 2.2, y - 7.6, x + 2.2, y - 5.5, (84, 66, 56))
    canvas.rect(x - 1.9, y - 7.5, x + 1.6, y - 6.1, (140, 112, 92))


_OBJECTS = {"cup": _paint_cup, "jar": _paint_jar}


def draw_drawer(canvas: Canvas, name: str, side: int, openness: float) -> None:
    """Draw a drawer: closed it fills 16 x 6 units under the counter, open its front comes out and down by 8."""
    canvas.stamp(_record_drawer(name.split()[0], round(openness, 2)), DRAWER_X[side] - DRAWER_X[0])


@lru_cache(maxsize=512)
def _record_drawer(colour: str, openness: float) -> Sprite:
    return record(lambda canvas: _paint_drawer(canvas, RGB[colour], DRAWER_X[0], openness))


def _paint_drawer(canvas: Canvas, colour: Colour, x: float, openness: float) -> None:
    if openness > 0.02:
        canvas.rect(x + 0.6, 42.6, x + 15.4, 48, (40, 32, 30))
        rim = 42.9 + 6.4 * openness
        for left, right in ((x + 0.6, x + 1.8), (x + 14.2, x + 15.4)):
            canvas.rect(left, 42.9, right, max(rim, 43.5), shade(colour, 0.7))
        if openness > 0.5:
            canvas.line([(x + 4, 45.4), (x + 7, 47.0)], 0.7, STEEL)
            canvas.line([(x + 9, 46.8), (x + 12, 45.0)], 0.7, STEEL)
    top = 42.8 + 5.5 * openness
    bottom = 47.8 + 7.7 * openness
    canvas.rect(x + 0.4, top, x + 15.6, bottom, shade(colour, 0.6))
    canvas.rect(x + 0.8, top + 0.4, x + 15.2, bottom - 0.5, colour)
    canvas.rect(x + 0.8, top + 0.4, x + 15.2, top + 1.1 + 0.3 * openness, shade(colour, 1.35))
    middle = (top + bottom) / 2 + 0.3
    canvas.line([(x + 6, middle), (x + 10, middle)], 1.0 + 0.3 * openness, (250, 246, 236))
    canvas.line([(x + 6, middle + 0.6), (x + 10, middle + 0.6)], 0.3, shade(colour, 0.4))


def draw_cupboard(canvas: Canvas, scene: Scene, openness: float) -> None:
    """Draw the wall cupboard, 16 x 16 units; its door is hinged on the left."""
    canvas.stamp(_record_cupboard(shade(scene.cabinet, 0.8), round(openness, 2)))


@lru_cache(maxsize=256)
def _record_cupboard(wood: Colour, openness: float) -> Sprite:
    return record(lambda canvas: _paint_cupboard(canvas, wood, openness))


def _paint_cupboard(canvas: Canvas, wood: Colour, openness: float) -> None:
    canvas.rect(8, 0, 24, 16, shade(wood, 0.55))
    if openness > 0.02:
        canvas.rect(9, 0.6, 23, 15.2, (52, 42, 38))
        canvas.rect(9, 7.6, 23, 8.4, shade(wood, 0.8))
        canvas.ellipse(19.5, 5.0, 2.6, 2.6, (236, 232, 222))
        canvas.ellipse(19.5, 5.0, 1.6, 1.6, (206, 204, 198))
        canvas.rect(17.4, 10.4, 19.4, 15.2, (226, 150, 92))
        canvas.rect(20.0, 11.6, 22.0, 15.2, (148, 190, 170))
    # An opening door swings towards the viewer: its free edge moves left and its outline grows.
    edge = 23 - 10.0 * openness
    lift = 0.55 * openness
    canvas.poly([(9, 0.6), (edge, 0.6 - lift), (edge, 15.2 + lift), (9, 15.2)], shade(wood, 0.72))
    inner = max(edge - 0.7, 9.4)
    canvas.poly([(9.4, 1.0), (inner, 0.9 - lift), (inner, 14.8 + lift), (9.4, 14.8)], shade(wood, 1.2))
    if openness < 0.6:
        inset = 9.4 + (inner - 9.4) * 0.16, 9.4 + (inner - 9.4) * 0.8
        canvas.rect(inset[0], 3, inset[1], 12.8, shade(wood, 1.05))
    canvas.ellipse(edge - 1.6 + 0.7 * openness, 9, 0.8, 0.8, DARK)


def draw_lamp(canvas: Canvas, scene: Scene, level: float) -> None:
    """Draw the pendant lamp with its pull cord; lit, it casts a cone of light on the wall."""
    if level > 0:
        canvas.glow([(33, 9), (39, 9), (47.4, 23.8), (24.6, 23.8)], (255, 236, 140), 0.75 * level)
    shell = scene.shade
    canvas.line([(36, 0), (36, 3)], 0.7, DARK)
    canvas.poly([(34.6, 2.6), (37.4, 2.6), (39.8, 8.4), (32.2, 8.4)], shade(shell, 0.6))
    canvas.poly([(34.9, 3.0), (36.6, 3.0), (38.2, 8.0), (32.9, 8.0)], shell)
    canvas.poly([(34.9, 3.6), (35.5, 3.6), (34.9, 7.8), (33.6, 7.8)], shade(shell, 1.4))
    canvas.ellipse(36, 8.8, 2.6, 1.9, (255, 250, 214) if level > 0 else (120, 116, 108))
    canvas.line([(38.6, 8.4), (38.6, 13.4)], 0.35, DARK)
    canvas.ellipse(38.6, 14.0, 0.8, 0.8, DARK)


def draw_tap(canvas: Canvas, level: float) -> None:
    """Draw the tap over the sink; running, water falls into the basin and the lever is up."""
    canvas.stamp(_record_tap(level > 0))


@lru_cache(maxsize=2)
def _record_tap(running: bool) -> Sprite:
    return record(lambda canvas: _paint_tap(canvas, running))


def _paint_tap(canvas: Canvas, running: bool) -> None:
    if running:
        canvas.rect(50.5, 28.4, 53.9, 38.8, (92, 178, 244))
        canvas.rect(51.3, 28.4, 52.5, 38.8, (206, 236, 255))
        canvas.ellipse(52.2, 38.6, 3.4, 1.1, (206, 236, 255))
        canvas.ellipse(52.2, 38.7, 2.2, 0.6, (150, 208, 250))
    dark, light = (112, 120, 132), (226, 230, 236)
    canvas.line([(59.5, 38.6), (59.5, 28.4), (58.2, 26.2), (54.0, 26.2), (52.4, 27.6)], 2.4, dark)
    canvas.line([(59.1, 38.4), (59.1, 28.5), (58.0, 26.2), (54.0, 26.0), (52.4, 27.6)], 1.1, light)
    canvas.rect(50.8, 27.4, 54.0, 28.8, dark)
    canvas.rect(57.4, 37.2, 61.8, 38.8, dark)
    tip = (63.0, 29.4) if running else (63.2, 33.8)
    canvas.line([(60.2, 32.6), tip], 1.2, dark)
    canvas.ellipse(tip[0] - 0.3, tip[1], 1.0, 1.0, (70, 140, 220) if running else (205, 70, 60))


def draw_forearm(canvas: Canvas, scene: Scene, x: float, y: float, root: float, lean: float) -> None:
    """Draw the arm from below the picture at `root` to the palm at (x, y), and the palm."""
    dark = shade(scene.skin, 0.62)
    for width, colour in ((0.6, dark), (0.0, scene.skin)):
        canvas.poly(_make_strip(x, y + 1.5, root, 70, 1.9 + width, 3.6 + width), colour)
    length = max(70 - y, 1e-3)
    part = min(1.0, max(0.0, (9.0 / length)))
    cuff = (x + (root - x) * part, y + 1.5 + (68.5 - y) * part)
    for width, colour in ((0.6, shade(scene.sleeve, 0.55)), (0.0, scene.sleeve)):
        canvas.poly(_make_strip(*cuff, root, 70, 2.9 + width, 4.6 + width), colour)
    canvas.line([(cuff[0] - 2.6, cuff[1]), (cuff[0] + 2.6, cuff[1])], 1.2, shade(scene.sleeve, 1.4))
    canvas.ellipse(x, y, 3.7, 3.3, dark)
    canvas.ellipse(x, y, 3.1, 2.7, scene.skin)


def _make_strip(x0: float, y0: float, x1: float, y1: float, half0: float, half1: float) -> list[tuple[float, float]]:
    return [(x0 - half0, y0), (x0 + half0, y0), (x1 + half1, y1), (x1 - half1, y1)]


def draw_fingers(canvas: Canvas, scene: Scene, x: float, y: float, grip: float) -> None:
    """Draw fingers and thumb of the hand with its palm at (x, y); grip 0 is spread, 1 is closed round an object."""
    dark = shade(scene.skin, 0.62)
    reach = 4.6 - 1.4 * grip
    fingers = [((x + dx, y - 1.0), (x + dx * (1.55 - 0.6 * grip), y - reach - lift)) for dx, lift in _FINGERS]
    thumb = ((x - 2.4, y + 0.4), (x - 4.6 + 1.7 * grip, y - 2.0 - 0.6 * grip))
    for start, end in (*fingers, thumb):
        canvas.line([start, end], 1.9, dark)
    for start, end in (*fingers, thumb):
        canvas.line([start, end], 1.15, scene.skin)


_FINGERS = ((-1.9, -0.2), (-0.6, 0.6), (0.8, 0.5), (2.1, -0.5))
