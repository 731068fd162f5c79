"""The pages of one annotator: items, their order, and the shuffled systems, drawn from the store's secret.

Seed and annotators' numbers are public, and so is this code: an annotator who has it could else work out which system
stands behind A. The export says what was shown.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from dataclasses import dataclass

from visdyn.human_study.study import Item, Study
from visdyn.human_study.study_criteria import PAIRWISE


@dataclass(frozen=True)
class Task:
    """One page of one annotator: an item, and the systems in the order shown (A, B, ...)."""

    item: Item
    shown: tuple[str, ...]

    @property
    def key(self) -> str:
        """Return what the answer is stored under: item and, as one item may ask about several pairs, its systems."""
        return f"{self.item.key}|{'|'.join(sorted(self.shown))}"


def plan(study: Study, annotator: int, secret: str = "") -> tuple[Task, ...]:
    """Return the pages of an annotator.

    Args:
        study: as loaded.
        annotator: 1 for the first to consent, 2 for the second, ... The same number gives the same pages.
        secret: `Store.draw`, which every study that is served passes. Without it the draw is one that anyone can make
            again: for looking at a study that nobody answers.
    """
    draw = _make_draw(study, secret, str(annotator))
    tasks = []
    index = {item.key: number for number, item in enumerate(study.items)}
    for item in _draw_items(study, annotator, secret, draw):
        # Pairs take turns over items and over annotators, so that neither meets one pair only.
        for systems in _group_systems(study, annotator + index[item.key], secret):
            tasks.append(Task(item, tuple(draw.sample(systems, len(systems)))))
    draw.shuffle(tasks)
    return tuple(tasks)


def _make_draw(study: Study, secret: str, what: str) -> random.Random:
    # A string seeds by its SHA-512, whatever the process.
    return random.Random(f"{secret}:{study.settings.seed}:{what}" if secret else f"{study.settings.seed}:{what}")


def _draw_items(study: Study, annotator: int, secret: str, draw: random.Random) -> list[Item]:
    settings, subsets = study.settings, defaultdict(list)
    for item in study.items:
        subsets[item.subset].append(item)
    chosen = []
    for subset, items in subsets.items():
        count = min(settings.items_per_subset or len(items), len(items))
        if settings.draw == "random":
            chosen += draw.sample(items, count)
            continue
        # One order for all annotators, taken in turns: item counts never differ by more than one.
        order = _make_draw(study, secret, subset).sample(items, len(items))
        start = (annotator - 1) * count
        chosen += [order[(start + step) % len(order)] for step in range(count)]
    return chosen


def _group_systems(study: Study, turn: int, secret: str) -> list[tuple[str, ...]]:
    if study.settings.kind != PAIRWISE:
        return [study.systems]
    pairs = list(itertools.combinations(study.systems, 2))
    if secret:
        _make_draw(study, secret, "pairs").shuffle(pairs)
    return pairs if study.settings.pairs == "all" else [pairs[turn % len(pairs)]]
