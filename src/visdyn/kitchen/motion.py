"""Clips: a hand enters, performs an action and leaves, with idle frames before, between and after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from visdyn.kitchen import render as rendering
from visdyn.kitchen.draw import background as fixed
from visdyn.kitchen.draw import sprites
from visdyn.kitchen.render import Hand, ImageSettings, Point, Pose
from visdyn.kitchen.scene import Scene
from visdyn.kitchen.state import SWITCHES, Action, State, apply

_REACH, _RELEASE = 0.32, 0.68  # the hand arrives at the first and lets go at the second share of an action
_LIFT = {"pick-up": 4.0, "put-down": 4.0, "place-in": 9.0, "remove-from": 9.0, "stack": 8.0, "unstack": 8.0}


def _ease_in_out(t: float) -> float:
    # Smoothstep: the hand starts and stops with speed 0, so that optical flow sees a peak between two rests.
    t = min(1.0, max(0.0, t))
    return t * t * (3 - 2 * t)


def _interpolate_points(a: Point, b: Point, t: float) -> Point:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t


def _split_into_phases(kind: str, t: float) -> tuple[float, float, float]:
    """Return how far hand-in, action and hand-out are (0 to 1) at time t; a held object shortens both ends."""
    reach = 0.0 if kind == "put-down" else _REACH
    release = 1.0 if kind == "pick-up" else _RELEASE
    come = 1.0 if reach == 0 else _ease_in_out(t / reach)
    act = _ease_in_out((t - reach) / (release - reach))
    return come, act, 0.0 if release == 1 else _ease_in_out((t - release) / (1 - release))


def _locate_palm(scene: Scene, action: Action, amount: float) -> Point:
    """Where the palm is while it works a device that is `amount` (0 to 1) open or on."""
    if action.noun == "lamp":
        return 39.6, 18.6
    if action.noun == "tap":
        return 61.0, 38.4 - 4.0 * amount
    if action.noun == "cupboard":
        return 21.8 - 9.3 * amount, 13.4
    side = scene.drawers.index(action.noun.split()[0])
    return sprites.DRAWER_X[side] + 8.0, 49.6 + 6.6 * amount


def _move_hand(palm: Point, come: float, leave: float, root: float) -> Hand:
    """The hand on its way from below the picture to `palm`, there, or on its way out."""
    outside = (root, 82.0)
    x, y = _interpolate_points(_interpolate_points(outside, palm, come), outside, leave)
    return Hand(x, y, 1.0 if come == 1 and leave == 0 else 0.25, root)


def _device_pose(state: State, scene: Scene, action: Action, t: float) -> Pose:
    pose = rendering.pose_of(state)
    # Each from 0 to 1: the hand comes, acts, leaves.
    come, act, leave = _split_into_phases(action.kind, t)
    turned_on = action.kind in ("open", "turn-on")
    amount = act if turned_on else 1 - act
    pose.devices[action.noun] = float(amount > 0.5) if action.noun in SWITCHES else amount
    palm = _locate_palm(scene, action, amount)
    if action.noun == "lamp":
        palm = palm[0], palm[1] + 2.5 * math.sin(math.pi * act)
    root = 26.0 + 0.45 * palm[0]
    if state.held:  # that hand stays; the other one comes from the side of the device
        root = 58.0 if palm[0] > fixed.column_x(state.held_column) else 8.0
    return replace(pose, hands=(*pose.hands, _move_hand(palm, come, leave, root)))


def _object_pose(state: State, action: Action, t: float) -> Pose:
    end = apply(state, action)
    pose = rendering.pose_of(state)
    # Each from 0 to 1: the hand comes, acts, leaves.
    come, act, leave = _split_into_phases(action.kind, t)
    start_place = rendering.resting_places(state)[action.noun]
    end_place = rendering.resting_places(end)[action.noun]
    x, bottom = _interpolate_points(start_place, end_place, act)
    bottom -= _LIFT.get(action.kind, 3.0) * math.sin(math.pi * act)
    pose.objects[action.noun] = (x, bottom)
    grip = rendering.holding_hand(action.noun, (x, bottom))
    hand = _move_hand((grip.x, grip.y), come, leave, grip.root)
    in_basket = bottom > 31.0 and abs(x - fixed.column_x(state.basket_column)) < 3.0
    carried = come == 1 and leave == 0 and not in_basket
    sunk = action.noun if in_basket else (state.basket if state.basket != action.noun else "")
    return replace(pose, hands=(hand,), held=action.noun if carried else "", sunk=sunk)


def action_pose(state: State, scene: Scene, action: Action, t: float) -> Pose:
    """Return what is drawn at time t (0 to 1) of an action that starts in `state`."""
    if any(action.noun == name for name, _ in state.devices):
        return _device_pose(state, scene, action, t)
    return _object_pose(state, action, t)


def _remove_noun(pose: Pose, noun: str) -> Pose:
    """Leave out of a pose what an action on `noun` moves, and the hands."""
    objects = {name: place for name, place in pose.objects.items() if name != noun}
    devices = {name: amount for name, amount in pose.devices.items() if name != noun}
    sunk = "" if pose.sunk == noun else pose.sunk
    return Pose(objects, sunk, devices, (), pose.held)


def _keep_noun(pose: Pose, noun: str) -> Pose:
    """Keep of a pose what an action on `noun` moves, and the hands with what they hold."""
    names = {noun, pose.held} & set(pose.objects)
    devices = {noun: pose.devices[noun]} if noun in pose.devices else {}
    sunk = noun if pose.sunk == noun else ""
    return replace(pose, objects={name: pose.objects[name] for name in names}, devices=devices, sunk=sunk)


def motion_images(state: State, scene: Scene, action: Action, frames: int = 16, size: int = 64) -> Iterator[np.ndarray]:
    """Yield the clean images strictly between the settled states before and after an action, uint8 (size, size, 3)."""
    # What does not move is painted once; each frame copies it and paints the moving thing and the hand on top.
    still = fixed.paint_background(scene).copy()
    base = _remove_noun(rendering.pose_of(state), action.noun)
    rendering.draw_devices(still, scene, base.devices)
    rendering.draw_things(still, scene, base)
    for index in range(1, frames + 1):
        pose = _keep_noun(action_pose(state, scene, action, index / (frames + 1)), action.noun)
        canvas = still.copy()
        rendering.draw_devices(canvas, scene, pose.devices)
        rendering.draw_things(canvas, scene, pose)
        rendering.draw_hands(canvas, scene, pose)
        yield canvas.image(size)


def render_moment(state: State, scene: Scene, action: Action, t: float, size: int = 64) -> np.ndarray:
    """Return the clean image at time t (0 to 1) of an action: uint8 (size, size, 3)."""
    return rendering.draw_pose(scene, action_pose(state, scene, action, t)).image(size)


@dataclass(frozen=True, slots=True)
class Span:
    """Frames `first` to `last` (both included, counted from 0) of settled state or action number `index`."""

    first: int
    last: int
    index: int


@dataclass(frozen=True, slots=True)
class Clip:
    """An unlabelled clip and what is known about it.

    Attributes:
        frames: uint8 (T, S, S, 3).
        states: the settled states, one more than actions.
        settled: for each state the frames that show it with nothing moving (a held object keeps its hand).
        motion: for each action the frames of the hand at work.
    """

    frames: np.ndarray
    scene: Scene
    states: tuple[State, ...]
    actions: tuple[Action, ...]
    settled: tuple[Span, ...]
    motion: tuple[Span, ...]


def film_actions(
    start: State,
    scene: Scene,
    actions: Sequence[Action],
    rng: np.random.Generator,
    settings: ImageSettings | None = None,
) -> Clip:
    """Film one or more consecutive actions, with quiet frames before, between and after."""
    settings = settings or ImageSettings()
    images, settled, motion, states = [], [], [], [start]

    def rest(state: State) -> None:
        clean = rendering.render(state, scene, None, size=settings.size)
        count = settings.idle_frames + int(rng.integers(2))
        settled.append(Span(len(images), len(images) + count - 1, len(settled)))
        images.extend([clean] * count)

    rest(start)
    for index, action in enumerate(actions):
        first = len(images)
        images.extend(motion_images(states[-1], scene, action, settings.motion_frames, settings.size))
        motion.append(Span(first, len(images) - 1, index))
        states.append(apply(states[-1], action))
        rest(states[-1])
    jitter = settings.jitter * settings.size / 64
    frames = np.stack([rendering.photograph(image, rng, jitter, settings.noise) for image in images])
    return Clip(frames, scene, tuple(states), tuple(actions), tuple(settled), tuple(motion))
