"""The section `probing` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visdyn.params.reading import Count, Name, OneOrMore, Several


@dataclass(frozen=True)
class Probing:
    """Preference for real trajectories (Bootstrapping, section 2)."""

    models: Several[Name]  # folders or hub ids
    definitions: OneOrMore[Literal["auto", "D1", "D2", "D2-target", "D3"]]  # of next-image likelihood
    draws: Count  # random actions and observations for each trajectory
    shared_prefixes: bool  # compute what a reference and its negatives share once
    batch_size: Count  # sequences in one pass
