"""Texts of the kitchen: canonical actions, captions of states, and long prompts.

All sentences come from templates written by us for this kit; none is taken from a data set or a language model.
The canonical text of an action ("open red drawer") is what models read and write everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from visdyn.kitchen.state import (
    COLOURS,
    KINDS,
    NOUNS,
    OBJECTS,
    SHAPES,
    SWITCHES,
    Action,
    KitchenError,
    State,
    action_of,
    valid_actions,
)

CANONICAL = {
    "open": "open {}",
    "close": "close {}",
    "turn-on": "turn on {}",
    "turn-off": "turn off {}",
    "pick-up": "pick up {}",
    "put-down": "put down {}",
    "place-in": "place {} in basket",
    "remove-from": "remove {} from basket",
    "move-left": "move {} left",
    "move-right": "move {} right",
    "stack": "stack {}",
    "unstack": "unstack {}",
}
NUMBERS = ("one", "two", "three", "four", "five")
MAX_CAPTION_WORDS = 12


def canonical(action: Action) -> str:
    """Return the canonical text of an action, lower case, two to five words."""
    return CANONICAL[action.kind].format(action.noun)


def nouns_of_kind(kind: str) -> tuple[str, ...]:
    """Return the nouns that a kind of action can have."""
    if kind in ("open", "close"):
        return tuple(noun for noun in NOUNS if noun.endswith("drawer") or noun == "cupboard")
    return SWITCHES if kind.startswith("turn") else OBJECTS


@lru_cache(maxsize=1)
def _actions_by_text() -> dict[str, Action]:
    actions = [action_of(kind, noun) for kind in KINDS for noun in nouns_of_kind(kind)]
    return {canonical(action): action for action in actions}


def all_actions() -> list[Action]:
    """List every action that exists, in a fixed order."""
    return list(_actions_by_text().values())


def parse_action(text: str) -> Action:
    """Return the action that a canonical text names; `parse_action(canonical(a)) == a`.

    Raises:
        KitchenError: the text names no action.
    """
    try:
        return _actions_by_text()[" ".join(text.lower().split())]
    except KeyError:
        raise KitchenError(f"{text!r} names no kitchen action; canonical texts look like 'open red drawer'") from None


def list_facts(state: State) -> list[str]:
    """List what can be seen in a state, as captions say it; objects first."""
    seen = []
    for column, stack in enumerate(state.columns):
        seen += [f"{noun} at {NUMBERS[column]}" for noun in stack[:1]]
        seen += [f"{upper} on {lower}" for lower, upper in pairwise(stack)]
    seen.append(f"basket at {NUMBERS[state.basket_column]}")
    if state.basket:
        seen.append(f"{state.basket} in basket")
    if state.held:
        seen.append(f"{state.held} in hand")
    for name, active in state.devices:
        words = ("off", "on") if name in SWITCHES else ("closed", "open")
        seen.append(f"{name} {words[active]}")
    return seen


def caption(state: State, rng: np.random.Generator, action_share: float = 0.5) -> str:
    """Write a caption of at most 12 words (full stops included): true facts, at times with a valid action last.

    Example: "red cup at two . lamp on . can open red drawer".

    Args:
        action_share: probability that the caption ends with what can be done. The base models learn the words of
            actions here, but never what an action does.
    """
    ending = ""
    if rng.random() < action_share:
        actions = valid_actions(state)
        ending = "can " + canonical(actions[int(rng.integers(len(actions)))])
    return _join_phrases(list_facts(state), ending, rng)


def caption_of_hand(state: State, action: Action, rng: np.random.Generator) -> str:
    """Write a caption of a frame in which a hand works: where it is, and facts that the action does not change."""
    seen = [fact for fact in list_facts(state) if action.noun not in fact]
    return _join_phrases(seen, f"hand at {action.noun}", rng)


def _join_phrases(seen: list[str], ending: str, rng: np.random.Generator) -> str:
    parts, room = [], MAX_CAPTION_WORDS - len(ending.split())
    for index in rng.permutation(len(seen)):
        words = len(seen[index].split()) + 1
        if words <= room + (not ending):
            parts.append(seen[index])
            room -= words
    return " . ".join([*parts, ending] if ending else parts)


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Return every word of canonical texts and captions, sorted (full stop included)."""
    words = set(NUMBERS) | set(COLOURS) | set(SHAPES) | {".", "at", "on", "off", "in", "hand", "closed", "open", "can"}
    for text in _actions_by_text():
        words |= set(text.split())
    return tuple(sorted(words))
