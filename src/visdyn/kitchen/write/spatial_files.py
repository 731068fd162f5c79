"""Questions about where things are, in SpatialMQA's layout: `test.jsonl` {image, question, options, answer, relation}.

The options are sentences in the words of the kitchen's captions, one of them true of the picture; none of the others
is. So a model that has learnt to caption can choose by likelihood, from the picture alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path

import numpy as np

from visdyn.kitchen.render import ImageSettings, render
from visdyn.kitchen.scene import make_scene, random_state
from visdyn.kitchen.state import SWITCHES, State
from visdyn.kitchen.text import NUMBERS
from visdyn.kitchen.write.files import write_jsonl, write_png

Question = tuple[str, list[str], str]  # question, options, the true one
FOLDER = "spatial"


def _ask_device(state: State, rng: np.random.Generator) -> Question:
    name, active = state.devices[int(rng.integers(len(state.devices)))]
    words = ("off", "on") if name in SWITCHES else ("closed", "open")
    return f"Is the {name} {words[1]} or {words[0]}?", [f"{name} {word}" for word in words], f"{name} {words[active]}"


def _ask_column(state: State, rng: np.random.Generator) -> Question | None:
    """Which of the five places of the counter; things stand there one to a column, the basket included."""
    places = [(stack[0], column) for column, stack in enumerate(state.columns) if stack]
    noun, column = [*places, ("basket", state.basket_column)][int(rng.integers(len(places) + 1))]
    options = [f"{noun} at {number}" for number in NUMBERS]
    return f"At which place of the counter, from the left, is the {noun}?", options, options[column]


def _ask_stack(state: State, rng: np.random.Generator) -> Question | None:
    stacked = [pair for stack in state.columns for pair in pairwise(stack)]
    if not stacked:
        return None
    lower, upper = stacked[0]
    options = [f"{upper} on {lower}", f"{lower} on {upper}"]
    return f"Which is on which, the {lower} or the {upper}?", options, options[0]


def _ask_side(state: State, rng: np.random.Generator) -> Question | None:
    """Left or right of another thing: words that no caption uses so; what is asked is a relation, not a place."""
    places = [(noun, column) for column, stack in enumerate(state.columns) for noun in stack]
    pairs = [(a, b) for a in places for b in places if a[1] != b[1]]
    if not pairs:
        return None
    (noun, place), (other, beside) = pairs[int(rng.integers(len(pairs)))]
    options = [f"{noun} left of {other}", f"{noun} right of {other}"]
    return f"On which side of the {other} is the {noun}?", options, options[int(place > beside)]


KINDS: dict[str, Callable[[State, np.random.Generator], Question | None]] = {
    "state": _ask_device, "place": _ask_column, "stack": _ask_stack, "side": _ask_side,
}  # fmt: skip


def write_spatial(out: Path, split: str, count: int, seed: int, settings: ImageSettings) -> int:
    """Write `spatial/test.jsonl` and `spatial/images/*.png`, the kinds in equal numbers, options in random order.

    Args:
        out: the kitchen's folder.
        split: whose scenes they are about, `test` or `dev`.
        count: number of questions; each has a scene and a picture of its own.
    """
    rng = np.random.default_rng([seed, {"test": 6, "dev": 7}[split]])
    kinds, records = cycle(KINDS), []
    for index in range(count):
        kind, scene = next(kinds), make_scene(seed, split, 500_000 + index)
        asked = None
        while asked is None:  # not every state has a stack
            state = random_state(rng, scene)
            asked = KINDS[kind](state, rng)
        question, options, answer = asked
        name = f"{index:06d}.png"
        image = render(state, scene, rng, settings.jitter, settings.noise, settings.size)
        write_png(out / FOLDER / "images" / name, image)
        shuffled = [options[place] for place in rng.permutation(len(options))]
        records.append({"image": name, "question": question, "options": shuffled, "answer": answer, "relation": kind})
    return write_jsonl(out / FOLDER / "test.jsonl", records)
