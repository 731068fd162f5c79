"""The section `figures` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from visdyn.params.reading import Count


@dataclass(frozen=True)
class Figures:
    """Looks of the figures."""

    examples: Count  # rows of a qualitative figure
