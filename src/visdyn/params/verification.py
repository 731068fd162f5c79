"""The section `verification` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visdyn.params.dynamics import ArmName
from visdyn.params.reading import Count, OneOrMore, Several
from visdyn.params.sampling import Sampling


@dataclass(frozen=True)
class Verification:
    """Best of K by the IDM (Bootstrapping, Figure 4)."""

    candidates: OneOrMore[Count]  # K, images drawn per item
    repeats: Count  # draws of those K images, each with a sampling seed of its own
    arms: Several[ArmName]  # FDMs that draw
    items_per_subset: Count | None  # test triplets; None takes those of `evaluation`
    sampling: Sampling
    decoding: Literal["plain", "draft"]
    block: Count  # codes checked in one pass of draft decoding
    shared_prefixes: bool  # compute an item's source once for its candidates
    batch_size: Count  # sequences scored in one pass
