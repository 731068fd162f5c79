"""Data records (`Trajectory`, `ReversiblePair`) and the sampling of negative trajectories."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from visdyn.images import ImageRef

NEGATIVE_KINDS = ("random_action", "random_observation", "copy_observation", "inverse_observation")


@dataclass(frozen=True)
class Trajectory:
    """One step of visual dynamics: `source` becomes `target` through `action`.

    Attributes:
        source: image before the action (o_s).
        action: what is done, in words (a).
        target: image after the action (o_t); None for a test item whose target was never published.
        subset: the dataset or subset it comes from.
        id: unique within the subset.
    """

    source: ImageRef
    action: str
    target: ImageRef | None
    subset: str
    id: str

    def __post_init__(self) -> None:
        if not isinstance(self.action, str) or not self.action.strip():
            raise ValueError(f"trajectory {self.subset}/{self.id} has no action text")


@dataclass(frozen=True)
class ReversiblePair:
    """A reversible action (Do-Undo's I_o, P_F, I_F, P_R) with its annotation.

    Attributes:
        start, end: images before and after the forward action.
        forward_prompt, reverse_prompt: long prompts that do and undo it.
        forward_short, reverse_short: short prompts; the narration and its inverse.
        narration, verb, noun: the annotation it was mined from.
        id: the segment's narration id.
    """

    start: ImageRef
    end: ImageRef
    forward_prompt: str
    reverse_prompt: str
    forward_short: str
    reverse_short: str
    narration: str
    verb: str
    noun: str
    id: str

    def __post_init__(self) -> None:
        for name in ("forward_prompt", "reverse_prompt"):
            if not getattr(self, name).strip():
                raise ValueError(f"reversible pair {self.id} has an empty {name}")

    def forward(self, length: str = "long") -> Trajectory:
        """Return the forward half (start, prompt, end)."""
        prompt = self.forward_prompt if length == "long" else self.forward_short
        return Trajectory(self.start, prompt, self.end, "doundo", f"{self.id}-forward")

    def reverse(self, length: str = "long") -> Trajectory:
        """Return the reverse half (end, prompt, start)."""
        prompt = self.reverse_prompt if length == "long" else self.reverse_short
        return Trajectory(self.end, prompt, self.start, "doundo", f"{self.id}-reverse")


def negatives(trajectories: Sequence[Trajectory], kind: str, seed: int) -> list[Trajectory]:
    """Return one negative for each trajectory, in order (Bootstrapping, section 2).

    - `random_action`: the action of another trajectory of the same subset whose text differs.
    - `random_observation`: the target of another trajectory of the same subset whose image differs.
    - `copy_observation`: the source as target.
    - `inverse_observation`: source and target swapped.

    Raises:
        ValueError: unknown kind, or a subset with no other action or target to draw.
    """
    if kind == "copy_observation":
        return [replace(item, target=item.source) for item in trajectories]
    if kind == "inverse_observation":
        return [replace(item, source=item.target, target=item.source) for item in trajectories]
    if kind not in NEGATIVE_KINDS:
        raise ValueError(f"unknown kind of negative {kind!r}; one of {', '.join(NEGATIVE_KINDS)}")
    field = "action" if kind == "random_action" else "target"
    generator = random.Random(f"{seed}-{kind}")  # kinds draw independently: leaving one out changes no other
    by_subset = defaultdict(list)
    for item in trajectories:
        by_subset[item.subset].append(item)
    return [_draw_replacement(item, by_subset[item.subset], field, generator) for item in trajectories]


def _draw_replacement(item: Trajectory, pool: Sequence[Trajectory], field: str, generator: random.Random) -> Trajectory:
    """Return `item` with the action or target of another trajectory of `pool`, one that differs from its own."""
    value = getattr(item, field)
    values = [getattr(other, field) for other in pool if other is not item]
    others = [other for other in values if not _is_same(other, value)]
    if not others:
        raise ValueError(f"subset {item.subset} has no other {field} than that of {item.id}: no negative can be drawn")
    return replace(item, **{field: generator.choice(others)})


def _is_same(left: ImageRef, right: ImageRef) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return np.array_equal(left, right)
    if isinstance(left, str) and isinstance(right, str):
        return left.strip().lower() == right.strip().lower()
    return left is right or (type(left) is type(right) and left == right)
