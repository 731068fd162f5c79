"""Readers of `truth/*.jsonl`: the known states behind images, for measuring only; no model and no miner reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from visdyn.kitchen.scene import Transition
from visdyn.kitchen.state import Action, State, apply, valid_actions
from visdyn.kitchen.text import canonical

NAMES = ("aurora_train", "aurora_test", "epic_train", "epic_validation", "clips")


def load_truth(root: str | Path, name: str) -> list[dict[str, Any]]:
    """Read the truth records of one part of a kitchen tree.

    Args:
        root: the kitchen's folder (`data/kitchen`).
        name: one of `NAMES`.

    Returns:
        Records in file order. All have `id` (as the readers of the public layouts give it) and `scene`. Those of AURORA
        also have `subset`, `input`, `output`; ids of training items are unique
        within a subset only. Items of AURORA and EPIC have `start`, `end` (states),
        `action` (verb, noun, direction), `text` (canonical); those of test and validation also `candidates`, a list
        of {action, text, state} with every state that one valid action leads to (the true one included). Clips have
        `video` (relative to root), `dataset`, `class`, `fps`, `num_frames`, `states`, `actions`, `texts`, `settled` and
        `motion` ({first, last, index} with both frames included, counted from 0).

    Raises:
        ValueError: the name is unknown.
        FileNotFoundError: the tree has no such file.
    """
    if name not in NAMES:
        raise ValueError(f"no truth file is called {name!r}; names are {', '.join(NAMES)}")
    path = Path(root) / "truth" / f"{name}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; write the kitchen first (stage 00_world)")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def state_at(record: dict[str, Any], frame: int) -> int | None:
    """Return the index of the settled state that a clip shows at a frame, or None while the hand is at work."""
    for span in record["settled"]:
        if span["first"] <= frame <= span["last"]:
            return span["index"]
    return None


def transition_record(name: str, transition: Transition, candidates: bool) -> dict[str, Any]:
    """Make the truth record of one transition (see `load_truth`)."""
    record = {
        "id": name,
        "scene": transition.scene.to_json(),
        "start": transition.start.to_json(),
        "end": transition.end.to_json(),
        "action": transition.action.to_json(),
        "text": canonical(transition.action),
    }
    if candidates:
        record["candidates"] = [candidate_record(transition.start, a) for a in valid_actions(transition.start)]
    return record


def candidate_record(start: State, action: Action) -> dict[str, Any]:
    """Describe the state that an action leads to."""
    return {"action": action.to_json(), "text": canonical(action), "state": apply(start, action).to_json()}
