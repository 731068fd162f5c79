"""The section `spatial` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visdyn.params.reading import Count, Name, OneOrMore, Several


@dataclass(frozen=True)
class Spatial:
    """Multiple-choice questions about where things are (Bootstrapping, Table 2)."""

    models: Several[Name]  # folders or hub ids
    modes: OneOrMore[Literal["likelihood", "generation"]]
    max_new_tokens: Count  # of an answer in words
    spatialmqa: Name | None  # its test.jsonl; None leaves the benchmark out
    spatialmqa_images: Name | None  # folder of COCO's test2017
    embspatial: Name | None  # embspatial_bench.json; None leaves the benchmark out
