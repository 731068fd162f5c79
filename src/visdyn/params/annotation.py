"""The section `annotation` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from visdyn.params.reading import Count, Name, Within


@dataclass(frozen=True)
class Annotation:
    """Labelling key-frame pairs and the stratified selection (Bootstrapping, Algorithm 1)."""

    model: Name  # the IDM that labels
    top_k_per_dataset: Count  # pairs kept
    decoding: Literal["greedy", "sample"]
    temperature: Annotated[float, Within(0.01, 100)]  # of `sample`
    max_new_tokens: Count  # longest label
    batch_size: Count  # pairs decoded at a time
