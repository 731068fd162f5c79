"""What measuring needs of the known states: reachable end states as images, and true captions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visdyn.kitchen.render import render_state
from visdyn.kitchen.state import State
from visdyn.kitchen.text import caption
from visdyn.kitchen.truth import load_truth, state_at


def by_id(root: str | Path, name: str) -> dict[str, dict[str, Any]]:
    """Read a truth file as a mapping from the readers' item id to its record."""
    return {record["id"]: record for record in load_truth(root, name)}


def reachable_images(records: Sequence[dict[str, Any]], size: int = 64) -> list[list[np.ndarray]]:
    """Render, for each record, every end state that one valid action leads to: uint8 (size, size, 3) each."""
    return [[render_state(item["state"], record["scene"], size) for item in record["candidates"]] for record in records]


def true_captions(states: Sequence[dict[str, Any]], seed: int = 0) -> list[str]:
    """Write a factual caption of each state, in the words that the captioned frames use."""
    return [
        caption(State.from_json(state), np.random.default_rng([seed, row]), 0.0) for row, state in enumerate(states)
    ]


def settled_ranges(root: str | Path) -> dict[tuple[str, str, str], list[tuple[int, int, str]]]:
    """Return, for each clip (dataset, class, video), the frame ranges (first, last, state) without hand or motion."""
    return {_clip_key(record): _ranges(record) for record in load_truth(root, "clips")}


def true_actions(root: str | Path, pairs: Sequence[tuple[tuple[str, str, str], int, int]]) -> list[str]:
    """Return the canonical action between two frames of a clip, or "" where there is not exactly one.

    Args:
        pairs: (clip key, earlier frame, later frame).
    """
    clips = {_clip_key(record): record for record in load_truth(root, "clips")}
    return [_single_action(clips[key], first, last) for key, first, last in pairs]


def _single_action(record: dict[str, Any], first: int, last: int) -> str:
    before, after = state_at(record, first), state_at(record, last)
    return record["texts"][before] if before is not None and after == before + 1 else ""


def _clip_key(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["dataset"], record["class"], Path(record["video"]).stem


def _ranges(record: dict[str, Any]) -> list[tuple[int, int, str]]:
    """Name states by what they are, so that a clip that returns to a state is recognised."""
    return [
        (span["first"], span["last"], json.dumps(record["states"][span["index"]], sort_keys=True))
        for span in record["settled"]
    ]
