"""Items to look at: filtered by subset, verb and score; worst, best, most disagreeing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from visdyn.explorer.opened import Opened

ORDERS = {"listed": "as in the test set", "worst": "worst first", "best": "best first",
          "disagreeing": "most disagreeing first"}  # fmt: skip


@dataclass(frozen=True)
class Filter:
    """Which items, in which order.

    Attributes:
        subset, verb: empty for all.
        system: whose score `low`, `high`, worst and best are about.
        metric: a metric of the tables.
        low, high: bounds of that score, both included; None for none. An item without a score passes no bound.
        order: one of `ORDERS`.
        compared: systems whose scores disagree: by the largest minus the smallest; empty for all.
    """

    subset: str = ""
    verb: str = ""
    system: str = ""
    metric: str = "score"
    low: float | None = None
    high: float | None = None
    order: str = "listed"
    compared: tuple[str, ...] = ()


def verb_of(action: str) -> str:
    """Return an action's verb: its first word, with the particle of a phrasal verb ("pick up", "turn off")."""
    words = action.lower().split()
    return " ".join(words[: 2 if words[1:2] in (["up"], ["down"], ["on"], ["off"], ["out"], ["away"]) else 1])


def verbs(opened: Opened, subset: str = "") -> list[str]:
    """List the verbs of a subset's items, or of all."""
    return sorted({verb_of(item.action) for item in opened.items if subset in ("", item.subset)})


def find_items(opened: Opened, wanted: Filter) -> pd.DataFrame:
    """Return the items that a filter passes, in its order; equal ones stay as the test set has them.

    Returns:
        columns subset, id, action, verb, score (of `wanted.system`; NaN unknown), spread (largest minus smallest of the
        compared systems; NaN with less than two scores).

    Raises:
        ValueError: an unknown order.
    """
    if wanted.order not in ORDERS:
        raise ValueError(f"unknown order {wanted.order!r}; one of {', '.join(ORDERS)}")
    table = pd.DataFrame([(item.subset, item.id, item.action, verb_of(item.action)) for item in opened.items],
                         columns=["subset", "id", "action", "verb"])  # fmt: skip
    said = opened.scores[opened.scores["metric"] == wanted.metric]
    wide = said.pivot_table(index=["subset", "id"], columns="system", values="value", aggfunc="first")
    wide = wide.reindex(pd.MultiIndex.from_frame(table[["subset", "id"]]))
    compared = [name for name in wanted.compared or wide.columns if name in wide]
    several = wide[compared].notna().sum(axis=1) > 1
    table["score"] = wide[wanted.system].to_numpy(float) if wanted.system in wide else np.nan
    table["spread"] = (wide[compared].max(axis=1) - wide[compared].min(axis=1)).where(several).to_numpy(float)
    passed = (table["subset"] == wanted.subset) | (wanted.subset == "")
    passed &= (table["verb"] == wanted.verb) | (wanted.verb == "")
    if wanted.low is not None:
        passed &= table["score"] >= wanted.low
    if wanted.high is not None:
        passed &= table["score"] <= wanted.high
    table = table[passed]
    if wanted.order == "listed":
        return table.reset_index(drop=True)
    column = "spread" if wanted.order == "disagreeing" else "score"
    falling = wanted.order == "disagreeing" or opened.is_better_high(wanted.metric) == (wanted.order == "best")
    table = table.dropna(subset=column)  # an unknown score is neither the worst nor the best
    return table.sort_values(column, ascending=not falling, kind="stable").reset_index(drop=True)


def scores_of(opened: Opened, subset: str, name: str, systems: Sequence[str], metric: str) -> dict[str, float]:
    """Return the systems' scores of one item in the tables; what was not measured is left out."""
    rows = opened.scores
    rows = rows[(rows["subset"] == subset) & (rows["id"].astype(str) == name) & (rows["metric"] == metric)]
    return {one.system: one.value for one in rows.itertuples() if one.system in systems and one.value == one.value}
