"""The state of a kitchen, and its 12 actions in 6 inverse pairs with their effects.

Things happen on five counter columns. One column carries the basket. An object goes into the basket, or onto a
stack, from the column directly to the right, and comes back out to that column. So every action has exactly one
outcome, its inverse restores the state exactly, and nothing is hidden: all of the state can be seen in an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

NUM_COLUMNS = 5
COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("cup", "jar")
OBJECTS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
DRAWERS = tuple(f"{colour} drawer" for colour in COLOURS)
SWITCHES = ("lamp", "tap")
NOUNS = OBJECTS + DRAWERS + ("cupboard", *SWITCHES)

# Kinds of action: the verb, and for `move` the direction. Neighbours are each other's inverse.
INVERSE_KINDS = (
    ("open", "close"),
    ("turn-on", "turn-off"),
    ("pick-up", "put-down"),
    ("place-in", "remove-from"),
    ("move-left", "move-right"),
    ("stack", "unstack"),
)
KINDS = tuple(kind for pair in INVERSE_KINDS for kind in pair)
INVERSE_OF = {a: b for pair in INVERSE_KINDS for a, b in (pair, pair[::-1])}


class KitchenError(ValueError):
    """An action does not apply, or a name is unknown; the message says which and what would."""


@dataclass(frozen=True, slots=True)
class Action:
    """One action: EPIC-style verb (`open`, `turn-on`, `move`, ...), noun, and for `move` a direction."""

    verb: str
    noun: str
    direction: str = ""

    @property
    def kind(self) -> str:
        """The action's kind, one of `KINDS`: the verb, with the direction for `move`."""
        return f"{self.verb}-{self.direction}" if self.direction else self.verb

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, str]) -> Action:
        return Action(**record)


@dataclass(frozen=True, slots=True)
class State:
    """Everything in a kitchen that an action can change, and the basket's column.

    Attributes:
        columns: five stacks of object names, bottom first, at most two high.
        basket_column: the column of the basket, 0 to 3; its stack is empty.
        basket: the object in the basket, or "".
        held: the object in the hand, or "".
        held_column: the column over which it is held (kept free for it), or -1.
        devices: (name, is open or on) of the left drawer, the right drawer, cupboard, lamp, tap.
    """

    columns: tuple[tuple[str, ...], ...]
    basket_column: int
    basket: str
    held: str
    held_column: int
    devices: tuple[tuple[str, bool], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> State:
        columns = tuple(tuple(stack) for stack in record["columns"])
        devices = tuple((name, bool(active)) for name, active in record["devices"])
        return State(**{**record, "columns": columns, "devices": devices})

    def is_free(self, column: int) -> bool:
        """Whether an object can be set down on the counter at `column`."""
        inside = 0 <= column < NUM_COLUMNS and column not in (self.basket_column, self.held_column)
        return inside and not self.columns[column]


def action_of(kind: str, noun: str) -> Action:
    """Build an action from one of `KINDS` and a noun."""
    if kind not in KINDS:
        raise KitchenError(f"unknown kind of action {kind!r}; kinds are {', '.join(KINDS)}")
    verb, _, direction = kind.partition("-") if kind.startswith("move") else (kind, "", "")
    return Action(verb, noun, direction)


def inverse(action: Action) -> Action:
    """Return the action that undoes `action`."""
    return action_of(INVERSE_OF[action.kind], action.noun)


def _device_actions(state: State) -> Iterator[Action]:
    for name, active in state.devices:
        verbs = ("turn-on", "turn-off") if name in SWITCHES else ("open", "close")
        yield Action(verbs[active], name)


def _single_actions(state: State, column: int, noun: str) -> Iterator[Action]:
    """Actions on an object that stands alone on its column, with the hand empty."""
    yield Action("pick-up", noun)
    left = column - 1
    if left == state.basket_column and not state.basket:
        yield Action("place-in", noun)
    if left >= 0 and len(state.columns[left]) == 1:
        yield Action("stack", noun)
    for direction, target in (("left", left), ("right", column + 1)):
        if state.is_free(target):
            yield Action("move", noun, direction)


def valid_actions(state: State) -> list[Action]:
    """List the actions that apply in `state`, in a fixed order (about eight)."""
    actions = list(_device_actions(state))
    if state.held:
        return [*actions, Action("put-down", state.held)]
    for column, stack in enumerate(state.columns):
        if len(stack) == 1:
            actions += _single_actions(state, column, stack[0])
        elif len(stack) == 2 and state.is_free(column + 1):
            actions.append(Action("unstack", stack[1]))
    if state.basket and state.is_free(state.basket_column + 1):
        actions.append(Action("remove-from", state.basket))
    return actions


def column_of(state: State, noun: str) -> int:
    """Return the counter column whose stack contains `noun`.

    Raises:
        KitchenError: no stack contains it.
    """
    for column, stack in enumerate(state.columns):
        if noun in stack:
            return column
    raise KitchenError(f"{noun} is not on the counter")


def _with_stacks(state: State, changes: dict[int, tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(changes.get(column, stack) for column, stack in enumerate(state.columns))


def apply(state: State, action: Action) -> State:
    """Return the state after `action`; `apply(apply(s, a), inverse(a)) == s`.

    Raises:
        KitchenError: the action does not apply in this state.
    """
    if action not in valid_actions(state):
        names = ", ".join(f"{a.kind} {a.noun}" for a in valid_actions(state))
        raise KitchenError(f"{action.kind} {action.noun} does not apply in this state; what applies: {names}")
    noun, kind = action.noun, action.kind
    if kind in ("open", "close", "turn-on", "turn-off"):
        return replace(state, devices=tuple((name, active ^ (name == noun)) for name, active in state.devices))
    if kind == "put-down":
        columns = _with_stacks(state, {state.held_column: (noun,)})
        return replace(state, columns=columns, held="", held_column=-1)
    if kind == "remove-from":
        return replace(state, columns=_with_stacks(state, {state.basket_column + 1: (noun,)}), basket="")
    return _from_counter(state, kind, noun)


def _from_counter(state: State, kind: str, noun: str) -> State:
    """Apply an action on an object that stands on the counter."""
    column = column_of(state, noun)
    left, right = column - 1, column + 1
    if kind == "pick-up":
        return replace(state, columns=_with_stacks(state, {column: ()}), held=noun, held_column=column)
    if kind == "place-in":
        return replace(state, columns=_with_stacks(state, {column: ()}), basket=noun)
    if kind == "stack":
        return replace(state, columns=_with_stacks(state, {column: (), left: (*state.columns[left], noun)}))
    if kind == "unstack":
        return replace(state, columns=_with_stacks(state, {column: state.columns[column][:1], right: (noun,)}))
    target = left if kind == "move-left" else right
    return replace(state, columns=_with_stacks(state, {column: (), target: (noun,)}))
