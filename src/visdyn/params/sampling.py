"""How a token model's images are drawn: a part of the sections `verification` and `evaluation` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from visdyn.params.reading import Within


@dataclass(frozen=True)
class Sampling:
    """Of the image tokens of an FDM (Bootstrapping, appendix H.2)."""

    temperature: Annotated[float, Within(0.01, 100, zero=True)] = 1.0  # 0 takes the likeliest token
    top_p: Annotated[float, Within(0, 1, above=True)] = 1.0  # draws among the likeliest that hold this probability
