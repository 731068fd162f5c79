"""The section `figures` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from visdyn.params.reading import Within


@dataclass(frozen=True)
class Figures:
    """Looks of the figures."""

    examples: Annotated[int, Within(1, 100)]  # rows of a qualitative figure
