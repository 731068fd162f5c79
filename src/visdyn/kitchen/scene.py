"""Scenes: the looks and the furniture that no action changes, and random states and transitions in them.

A scene is a function of (seed, split, index). Its layout (which objects, where the basket stands, which drawers)
belongs to exactly one split by a hash of the layout, so no two splits share one, whatever their sizes and seeds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from visdyn.kitchen.state import COLOURS, KINDS, NUM_COLUMNS, OBJECTS, Action, KitchenError, State, apply, valid_actions

SPLITS = ("train", "validation", "test", "dev")
# Shares of all layouts, out of ten.
_SPLIT_OF_BUCKET = ("train",) * 6 + ("validation", "dev") + ("test",) * 2
WALL_PATTERNS = ("plain", "tiles", "planks")
DECORS = ("window", "clock", "plant", "picture")
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Scene:
    """What no action changes in a kitchen; colours are RGB, 0 to 255.

    Attributes:
        id: `<split>-<seed>-<index>`.
        objects: the three or four objects present.
        basket_column: 0 to 3.
        drawers: colours of the left and right drawer.
        wall, counter, cabinet, floor, skin, sleeve, shade: colours.
        wall_pattern, decor: names from `WALL_PATTERNS` and `DECORS`.
        texture: seed of the small details (grain, the window's view, the picture).
    """

    id: str
    objects: tuple[str, ...]
    basket_column: int
    drawers: tuple[str, str]
    wall: Colour
    counter: Colour
    cabinet: Colour
    floor: Colour
    skin: Colour
    sleeve: Colour
    shade: Colour
    wall_pattern: str
    decor: str
    texture: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> Scene:
        return Scene(**{key: tuple(value) if isinstance(value, list) else value for key, value in record.items()})

    @property
    def layout(self) -> str:
        """A text that names the layout: objects, basket column and drawers."""
        return layout_name(self.objects, self.basket_column, self.drawers)


@dataclass(frozen=True, slots=True)
class Transition:
    """One action in a scene: the state before, the action, the state after."""

    scene: Scene
    start: State
    action: Action
    end: State


def split_of(layout: str) -> str:
    """Return the one split in which a layout may occur."""
    return _SPLIT_OF_BUCKET[int(hashlib.sha256(layout.encode()).hexdigest(), 16) % 10]


def fingerprint(scene: Scene, state: State) -> str:
    """Hash of all that is drawn: the static appearance (without the scene's id) and a state."""
    looks = {key: value for key, value in scene.to_json().items() if key != "id"}
    return hashlib.sha256(json.dumps([looks, state.to_json()], sort_keys=True).encode()).hexdigest()


def make_scene(seed: int, split: str, index: int) -> Scene:
    """Return scene number `index` of a split; the same arguments always give the same scene.

    Raises:
        KitchenError: the split is unknown.
    """
    if split not in SPLITS:
        raise KitchenError(f"unknown split {split!r}; splits are {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    # The split is a hash of the layout, so that no layout can occur in two splits; others are drawn again.
    while True:
        layout = _draw_layout(rng)
        if split_of(layout_name(*layout)) == split:
            return _draw_looks(rng, f"{split}-{seed}-{index}", *layout)


def layout_name(objects: tuple[str, ...], basket_column: int, drawers: tuple[str, str]) -> str:
    """Return a text that names a layout, whatever the order of the objects."""
    return json.dumps([sorted(objects), basket_column, drawers])


def _draw_layout(rng: np.random.Generator) -> tuple[tuple[str, ...], int, tuple[str, str]]:
    objects = rng.choice(len(OBJECTS), size=int(rng.integers(3, 5)), replace=False)
    left, right = rng.choice(len(COLOURS), size=2, replace=False)
    basket_column = int(rng.integers(0, NUM_COLUMNS - 1))
    return tuple(OBJECTS[i] for i in sorted(objects)), basket_column, (COLOURS[left], COLOURS[right])


@dataclass(frozen=True)
class _Style:
    """A kitchen's palette. There are few: a tokenizer of 256 codes must spend them on what actions change."""

    wall: Colour
    counter: Colour
    cabinet: Colour
    floor: Colour
    shade: Colour
    wall_pattern: str


_STYLES = (
    _Style((236, 226, 206), (196, 156, 112), (168, 186, 178), (122, 92, 70), (150, 84, 120), "plain"),
    _Style((196, 212, 226), (186, 186, 190), (206, 192, 170), (96, 100, 110), (70, 120, 130), "tiles"),
    _Style((214, 222, 196), (196, 156, 112), (176, 164, 190), (122, 92, 70), (180, 110, 60), "planks"),
)
_SKINS: tuple[Colour, ...] = ((224, 172, 132), (108, 70, 48))
_SLEEVES: tuple[Colour, ...] = ((52, 92, 120), (120, 60, 84))


def _draw_looks(
    rng: np.random.Generator, name: str, objects: tuple[str, ...], basket_column: int, drawers: tuple[str, str]
) -> Scene:
    """Give a layout its looks: a style, a decoration and a person's arm."""
    style = _STYLES[int(rng.integers(len(_STYLES)))]
    person, decor = int(rng.integers(len(_SKINS))), int(rng.integers(len(DECORS)))
    return Scene(
        id=name,
        objects=objects,
        basket_column=basket_column,
        drawers=drawers,
        skin=_SKINS[person],
        sleeve=_SLEEVES[person],
        decor=DECORS[decor],
        texture=decor,
        **vars(style),
    )


def random_state(rng: np.random.Generator, scene: Scene) -> State:
    """Draw a state of a scene: objects on the counter, at times in the basket, in the hand or on a stack."""
    objects = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    # Columns that nothing stands on yet; each thing that is set down takes one.
    free = [int(c) for c in rng.permutation(NUM_COLUMNS) if c != scene.basket_column]
    held = objects.pop() if rng.random() < 0.15 else ""
    held_column = free.pop() if held else -1
    basket = objects.pop() if rng.random() < 0.3 else ""
    columns: list[tuple[str, ...]] = [()] * NUM_COLUMNS
    if len(objects) >= 2 and rng.random() < 0.35:
        columns[free.pop()] = (objects.pop(), objects.pop())
    while objects:
        columns[free.pop()] = (objects.pop(),)
    names = (*(f"{colour} drawer" for colour in scene.drawers), "cupboard", "lamp", "tap")
    devices = tuple((name, bool(rng.random() < 0.5)) for name in names)
    return State(tuple(columns), scene.basket_column, basket, held, held_column, devices)


def actions_of_kind(state: State, kind: str) -> list[Action]:
    """List the valid actions of a kind (`move-left`) or of a verb (`move`)."""
    return [action for action in valid_actions(state) if kind in (action.kind, action.verb)]


def random_transition(rng: np.random.Generator, scene: Scene, verb: str | None = None) -> Transition:
    """Draw an action in a scene: the kind first (uniformly), then states until it applies.

    Args:
        verb: a verb, or one of `KINDS`; None draws one of the twelve kinds.

    Raises:
        KitchenError: the verb is unknown.
    """
    # Kind before state: else actions that need a rare state (a full basket, a stack) would be rare.
    kind = verb or KINDS[int(rng.integers(len(KINDS)))]
    if kind not in (*KINDS, "move"):
        raise KitchenError(f"unknown verb {kind!r}; verbs are move, {', '.join(KINDS)}")
    while True:
        start = random_state(rng, scene)
        if actions := actions_of_kind(start, kind):
            action = actions[int(rng.integers(len(actions)))]
            return Transition(scene, start, action, apply(start, action))


def kinds_cycle(rng: np.random.Generator, kinds: tuple[str, ...] = KINDS) -> Iterator[str]:
    """Yield kinds for ever, each round of all of them in a new random order, so that counts stay balanced."""
    while True:
        for index in rng.permutation(len(kinds)):
            yield kinds[index]
