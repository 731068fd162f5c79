"""The section `recorded` of params.yaml: the authors' own recorded replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from visdyn.params.reading import Name, Share, Within

Average = Literal["subsets", "pooled", "pooled_dropped_as_0"]  # rules of evaluation/recorded/evidence.py


Draws = Annotated[int, Within(1, 10_000_000)]


@dataclass(frozen=True)
class Tolerances:
    """Largest distance at which a printed cell counts as met: points of 0 to 10, shares of 255, cosines."""

    score: Annotated[float, Within(0, 10)]
    editing_success: Share
    minimal_editing: Share
    l1: Share
    clip_i: Share
    clip_t: Share
    dino: Share


@dataclass(frozen=True)
class TableAverages:
    """By which rule each table's averages are recomputed."""

    b_table2: Average
    b_table3: Average
    b_table4: Average
    b_table6: Average


@dataclass(frozen=True)
class Recorded:
    """What the authors' recorded replies say of their tables (Bootstrapping, Tables 2, 3, 4 and 6, Figure 11)."""

    tolerances: Tolerances
    averages: TableAverages
    resamples: Draws
    permutations: Draws
    repository: Name | None  # a clone of the authors' repository; None reads data/recorded alone
    aurora: Name | None  # AURORA's root, to check the clone's pictures; None leaves them unread
    pictures_l1: Share  # of values in [0, 1]
