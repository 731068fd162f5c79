"""State and scene to image. A `Pose` is a state between states: where each thing is drawn, and the hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from visdyn.kitchen.draw import background as fixed
from visdyn.kitchen.draw import sprites
from visdyn.kitchen.draw.canvas import Canvas
from visdyn.kitchen.scene import Scene
from visdyn.kitchen.state import State

HELD_BOTTOM = 56.0  # a held object fills the seventh row of 8-pixel tokens, the hand the eighth
SUNK_BOTTOM = 33.2  # an object in the basket shows in the fourth row, its lower part behind the basket's front
Point = tuple[float, float]


@dataclass(frozen=True)
class Hand:
    """A hand with its palm at (x, y) in image units; grip 0 (spread) to 1 (closed); `root` is where the arm enters."""

    x: float
    y: float
    grip: float
    root: float


@dataclass(frozen=True)
class ImageSettings:
    """How images are taken and written.

    Attributes:
        size: side in pixels, a multiple of 8 from 16 to 256.
        jitter: largest camera shift between two images of one scene, in pixels of a 64-pixel image, along each axis.
        noise: standard deviation of the sensor noise, in grey levels of 255.
        jpeg_quality: of EPIC frames (4:4:4).
        fps: frames per second of clips.
        codec: four letters of the clips' codec. HuffYUV is lossless and quick (9.4 kB a frame; FFV1 7.7 kB but five
            times slower); MJPG and the MPEG-4 family halve the colour resolution, which costs 64-pixel images dear
            (30 dB).
        motion_frames: frames in which a hand performs an action.
        idle_frames: quiet frames before, between and after actions (or one more, at random).
    """

    size: int = 64
    jitter: float = 0.1
    noise: float = 2.5
    jpeg_quality: int = 98
    fps: int = 10
    codec: str = "HFYU"
    motion_frames: int = 16
    idle_frames: int = 6

    def __post_init__(self) -> None:
        if self.size not in range(16, 257, 8):
            raise ValueError(f"image size {self.size} is no multiple of 8 from 16 to 256; use 64")
        if not 0 <= self.jitter * self.size / 64 < 2:
            raise ValueError(f"jitter {self.jitter} is not between 0 and 2 pixels of the written image; use 0.1")


@dataclass
class Pose:
    """What to draw. Objects are (x, bottom) in image units; devices map names to 0 (closed, off) ... 1 (open, on)."""

    objects: dict[str, Point] = field(default_factory=dict)
    sunk: str = ""  # the object that lies behind the basket's front
    devices: dict[str, float] = field(default_factory=dict)
    hands: tuple[Hand, ...] = ()
    held: str = ""  # drawn between palm and fingers of the first hand


def resting_places(state: State) -> dict[str, Point]:
    """Return where each object of a state rests: centre x and bottom, in image units."""
    places = {}
    for column, stack in enumerate(state.columns):
        for level, noun in enumerate(stack):
            places[noun] = (fixed.column_x(column), fixed.COUNTER_TOP - 8.0 * level)
    if state.basket:
        places[state.basket] = (fixed.column_x(state.basket_column), SUNK_BOTTOM)
    if state.held:
        places[state.held] = (fixed.column_x(state.held_column), HELD_BOTTOM)
    return places


def holding_hand(noun: str, place: Point) -> Hand:
    """The hand that grips an object at `place`."""
    x, bottom = place
    lean = 8.0 + 0.65 * (32.0 - x)  # a raised arm comes from the middle; at rest it keeps to its own token cell
    return Hand(x, bottom + 2.2, 1.0, x + lean * min(1.0, max(0.0, (HELD_BOTTOM - bottom) / 16.0)))


def pose_of(state: State) -> Pose:
    """Return the settled pose of a state."""
    places = resting_places(state)
    hands = (holding_hand(state.held, places[state.held]),) if state.held else ()
    devices = {name: float(active) for name, active in state.devices}
    return Pose(places, state.basket, devices, hands, state.held)


def draw_devices(canvas: Canvas, scene: Scene, devices: dict[str, float]) -> None:
    for side, colour in enumerate(scene.drawers):
        if (name := f"{colour} drawer") in devices:
            sprites.draw_drawer(canvas, name, side, devices[name])
    if "cupboard" in devices:
        sprites.draw_cupboard(canvas, scene, devices["cupboard"])
    if "lamp" in devices:
        sprites.draw_lamp(canvas, scene, devices["lamp"])
    if "tap" in devices:
        sprites.draw_tap(canvas, devices["tap"])


def draw_things(canvas: Canvas, scene: Scene, pose: Pose) -> None:
    """Draw all objects but a held one; lower objects first, and one in the basket behind the basket's front."""
    if pose.sunk:
        sprites.draw_object(canvas, pose.sunk, *pose.objects[pose.sunk])
        fixed.basket_front(canvas, scene)
    for noun, place in sorted(pose.objects.items(), key=lambda item: -item[1][1]):
        if noun not in (pose.held, pose.sunk):
            sprites.draw_object(canvas, noun, *place)


def draw_hands(canvas: Canvas, scene: Scene, pose: Pose) -> None:
    """Draw the hands, and the held object between palm and fingers."""
    for hand in pose.hands:
        sprites.draw_forearm(canvas, scene, hand.x, hand.y, hand.root, 0.0)
        if pose.held and hand is pose.hands[0]:
            sprites.draw_object(canvas, pose.held, *pose.objects[pose.held])
        sprites.draw_fingers(canvas, scene, hand.x, hand.y, hand.grip)


def draw_pose(scene: Scene, pose: Pose) -> Canvas:
    """Draw a whole picture."""
    canvas = fixed.paint_background(scene).copy()
    draw_devices(canvas, scene, pose.devices)
    draw_things(canvas, scene, pose)
    draw_hands(canvas, scene, pose)
    return canvas


@lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    return np.random.default_rng(20_260).standard_normal(2**21, dtype=np.float32)


def _make_shift_kernel(delta: float) -> np.ndarray:
    """Kernel that moves a line of pixels by less than one pixel, by linear interpolation."""
    return np.array([max(delta, 0.0), 1 - abs(delta), max(-delta, 0.0)], np.float32)


def photograph(image: np.ndarray, rng: np.random.Generator | None, jitter: float, noise: float) -> np.ndarray:
    """Shift a clean image by a fraction of a pixel and add sensor noise.

    Args:
        image: uint8 (S, S, 3).
        rng: source of the shift and the noise; None returns a copy of the image.
        jitter: each axis moves by up to jitter / 2 pixels, so two images differ by at most `jitter`.
        noise: standard deviation in grey levels.
    """
    if rng is None:
        return image.copy()
    if jitter:
        dx, dy = rng.uniform(-jitter / 2, jitter / 2, 2)
        image = cv2.sepFilter2D(
            image, -1, _make_shift_kernel(dx), _make_shift_kernel(dy), borderType=cv2.BORDER_REPLICATE
        )
    if noise:
        bank = _noise_bank()
        start = int(rng.integers(len(bank) - image.size))
        grain = bank[start : start + image.size].reshape(image.shape) * np.float32(noise)
        image = cv2.add(image, grain, dtype=cv2.CV_8U)
    return image


def render(
    state: State,
    scene: Scene,
    rng: np.random.Generator | None = None,
    jitter: float = 0.1,
    noise: float = 2.5,
    size: int = 64,
) -> np.ndarray:
    """Return the image of a settled state as uint8 (size, size, 3), RGB.

    Args:
        rng: source of camera shift and sensor noise; None gives the clean image.
        jitter, noise: see `ImageSettings`.
    """
    clean = draw_pose(scene, pose_of(state)).image(size)
    return photograph(clean, rng, jitter * size / 64, noise)


def render_state(state: dict[str, Any], scene: dict[str, Any], size: int = 64) -> np.ndarray:
    """Render a state and a scene as they stand in truth files, without shift and noise: uint8 (size, size, 3)."""
    return render(State.from_json(state), Scene.from_json(scene), None, size=size)
