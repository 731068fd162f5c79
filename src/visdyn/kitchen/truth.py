"""`Truth`: what is known of the kitchen's images, for measuring only; no model and no miner reads it.

`open_truth(kitchen)` opens it once, in a stage; on real data (`open_truth(None)`) every question is answered with None,
so that what measures need not know which profile it runs in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from visdyn.compute.seeds import named_seeds
from visdyn.kitchen.render import ImageSettings, render, render_state
from visdyn.kitchen.scene import Scene, Transition
from visdyn.kitchen.state import Action, State, apply, inverse, valid_actions
from visdyn.kitchen.text import canonical, caption
from visdyn.readers import parse_json, read_records

MARKER = "kitchen.json"  # written last: what the folder was made with
NAMES = ("aurora_train", "aurora_test", "epic_train", "epic_validation", "clips")


class Truth:
    """The known states behind images; a `part` is one of `NAMES`, an id is what the readers of the public layouts give.

    Attributes:
        kitchen: folder of the rendered world (`data/kitchen`), or None for real data: then every method returns None.
    """

    def __init__(self, kitchen: Path | None) -> None:
        self.kitchen = kitchen
        self._image = cache(lambda: load_image_settings(kitchen))
        self._records = cache(lambda part: {record["id"]: record for record in load_truth(kitchen, part)})

    @property
    def known(self) -> bool:
        """Whether the true states are known."""
        return self.kitchen is not None

    def captions(self, part: str, ids: Sequence[str], end: str = "end", seed: int = 0) -> list[str] | None:
        """Write a factual caption of each item's state, in the words that the captioned frames use.

        Args:
            end: `start` (before the action) or `end`.
            seed: of the choice and order of the facts, together with an item's place among `ids`.
        """
        if self.kitchen is None:
            return None
        states = [State.from_json(self._records(part)[name][end]) for name in ids]
        return [caption(state, np.random.default_rng([seed, row]), 0.0) for row, state in enumerate(states)]

    def reachable_images(self, part: str, ids: Sequence[str], backwards: bool = False) -> list[list[np.ndarray]] | None:
        """Render, for each item, every state that one valid action leads to: uint8 (S, S, 3), of the items' size S.

        Args:
            part: one whose items were written with their candidates (`aurora_test`, `epic_validation`).
            backwards: from the item's end state, as when its action is to be undone; else from its start state.
        """
        if self.kitchen is None:
            return None
        records = [self._records(part)[name] for name in ids]
        if backwards:
            records = [_reverse_record(record) for record in records]
        size = self._image().size
        return [[render_state(item["state"], record["scene"], size) for item in record["candidates"]]
                for record in records]  # fmt: skip

    def photograph_again(self, part: str, ids: Sequence[str], seed: int) -> list[np.ndarray] | None:
        """Render each item's end state once more, with other noise and another camera shift: uint8 (H, W, 3) each."""
        if self.kitchen is None:
            return None
        images, settings = [], self._image()
        for name in ids:
            record = self._records(part)[name]
            state, scene = State.from_json(record["end"]), Scene.from_json(record["scene"])
            rng = np.random.default_rng(named_seeds(seed, name))
            images.append(render(state, scene, rng, settings.jitter, settings.noise, settings.size))
        return images

    def random_walks(
        self, part: str, count: int, steps: int, seed: int
    ) -> tuple[list[np.ndarray], list[list[str]]] | None:
        """Draw sequences of `steps` actions, each valid after the one before, from `count` items spread over a part.

        Returns:
            The start states rendered, uint8 (H, W, 3) each, and the actions' canonical texts.
        """
        if self.kitchen is None:
            return None
        records = list(self._records(part).values())
        rows = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
        random = np.random.default_rng(seed)
        walks = []
        for row in rows:
            state, texts = State.from_json(records[row]["start"]), []
            for _ in range(steps):
                actions = valid_actions(state)
                action = actions[int(random.integers(len(actions)))]
                state = apply(state, action)
                texts.append(canonical(action))
            walks.append(texts)
        size = self._image().size
        return [render_state(records[row]["start"], records[row]["scene"], size) for row in rows], walks

    def settled_ranges(self) -> dict[tuple[str, str, str], list[tuple[int, int, str]]] | None:
        """Return, for each clip (dataset, class, video), the frame ranges (first, last, state) without hand or motion.

        States are named by what they are, so that a clip that returns to a state is recognised.
        """
        if self.kitchen is None:
            return None
        return {
            _clip_key(record): [
                (span["first"], span["last"], json.dumps(record["states"][span["index"]], sort_keys=True))
                for span in record["settled"]
            ]
            for record in load_truth(self.kitchen, "clips")
        }

    def true_actions(self, pairs: Sequence[tuple[tuple[str, str, str], int, int]]) -> list[str] | None:
        """Return the canonical action between two frames of a clip, or "" where there is not exactly one.

        Args:
            pairs: (clip key, earlier frame, later frame).
        """
        if self.kitchen is None:
            return None
        clips = {_clip_key(record): record for record in load_truth(self.kitchen, "clips")}
        actions = []
        for key, first, last in pairs:
            before, after = state_at(clips[key], first), state_at(clips[key], last)
            single = before is not None and after == before + 1
            actions.append(clips[key]["texts"][before] if single else "")
        return actions


def open_truth(kitchen: Path | None) -> Truth:
    """Open what is known of a rendered kitchen; of real data (None) nothing is."""
    return Truth(kitchen)


def load_image_settings(root: str | Path) -> ImageSettings:
    """Return how the images of a kitchen tree were taken.

    Raises:
        FileNotFoundError: the tree has no marker.
    """
    marker = Path(root) / MARKER
    return ImageSettings(**parse_json(marker.read_text(encoding="utf-8"), str(marker), dict)["image"])


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
    return read_records(path)


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


def _clip_key(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["dataset"], record["class"], Path(record["video"]).stem


def _reverse_record(record: dict[str, Any]) -> dict[str, Any]:
    """Turn a transition's record round: it starts at the end state, and its candidates are what follows from there."""
    end, back = State.from_json(record["end"]), inverse(Action.from_json(record["action"]))
    return {**record, "start": record["end"], "end": record["start"], "action": back.to_json(),
            "candidates": [candidate_record(end, action) for action in valid_actions(end)]}  # fmt: skip
