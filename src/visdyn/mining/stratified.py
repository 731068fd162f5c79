"""Stratified top-K sampling with action-class uniformity (Bootstrapping, Algorithm 1, appendix E)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import TypeVar

Item = TypeVar("Item")


def stratified_top_k(
    items: Iterable[Item],
    k: int,
    score: Callable[[Item], float] = attrgetter("score"),
    class_name: Callable[[Item], str] = attrgetter("class_name"),
    identity: Callable[[Item], str] = attrgetter("id"),
) -> list[Item]:
    """Take the best remaining item of each class in turn, until there are `k` (Bootstrapping, Algorithm 1).

    What the paper leaves open is settled so: ties in score go by id; classes take their turns in the order of their
    best item; and where there are fewer than k items, all are returned (the printed loop would never end). The
    algorithm's class_counts are never read, and left out.

    Args:
        items: triplets with a score, a class and an id, by attribute or through the key functions.
        k: number of items wanted, >= 0 (the paper: 7,000 for each dataset).
        score: mean log-likelihood of the predicted action (any finite number; higher is better).
        class_name: action class of the item's video.
        identity: what settles ties; should be unique.

    Returns:
        min(k, N) items, in the order in which they are drawn.

    Raises:
        ValueError: k < 0, or a score that is not finite.
    """
    if k < 0:
        raise ValueError(f"the number of items to sample is at least 0, not {k}")
    items = list(items)
    if bad := [item for item in items if not math.isfinite(score(item))]:
        raise ValueError(
            f"item {identity(bad[0])} has the score {score(bad[0])}; set items without a score aside first"
        )
    # Line 1: sort X by falling score. Kept class by class, so that line 5 finds its item without a search.
    unsampled: dict[str, deque[Item]] = {}
    for item in sorted(items, key=lambda item: (-score(item), identity(item))):
        unsampled.setdefault(class_name(item), deque()).append(item)
    selected: list[Item] = []  # line 2
    while len(selected) < min(k, len(items)):  # line 3
        for of_class in unsampled.values():  # line 4: all classes, in round-robin order
            if of_class:  # lines 5 and 6: the class's top unsampled item, if it has one
                selected.append(of_class.popleft())  # lines 7 and 8
            if len(selected) == k:  # line 11
                break
    return selected  # line 16
