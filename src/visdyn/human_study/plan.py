"""The pages of one annotator: items, their order, and the shuffled systems, a function of seed and number."""

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


def plan(study: Study, annotator: int) -> tuple[Task, ...]:
    """Return the pages of an annotator.

    Args:
        study: as loaded.
        annotator: 1 for the first to consent, 2 for the second, ... The same number gives the same pages.
    """
    settings = study.settings
    draw = random.Random(f"{settings.seed}:{annotator}")  # a string seeds by its SHA-512, whatever the process
    tasks = []
    index = {item.key: number for number, item in enumerate(study.items)}
    for item in _draw_items(study, annotator, draw):
        # Pairs take turns over items and over annotators, so that neither meets one pair only.
        for systems in _group_systems(study, annotator + index[item.key]):
            tasks.append(Task(item, tuple(draw.sample(systems, len(systems)))))
    draw.shuffle(tasks)
    return tuple(tasks)


def _draw_items(study: Study, annotator: int, draw: random.Random) -> list[Item]:
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
        order = random.Random(f"{settings.seed}:{subset}").sample(items, len(items))
        start = (annotator - 1) * count
        chosen += [order[(start + step) % len(order)] for step in range(count)]
    return chosen


def _group_systems(study: Study, turn: int) -> list[tuple[str, ...]]:
    if study.settings.kind != PAIRWISE:
        return [study.systems]
    pairs = list(itertools.combinations(study.systems, 2))
    return pairs if study.settings.pairs == "all" else [pairs[turn % len(pairs)]]
