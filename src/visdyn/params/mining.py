"""The section `mining` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from visdyn.params.reading import Count, Name, OneOrMore, Seconds, Within

Mode = Literal["top_then_space", "greedy_spaced", "quiet_around_peak"]


@dataclass(frozen=True)
class Mining:
    """Key-frames from clips and reversible pairs from EPIC-KITCHENS-100."""

    top_k: Count  # K_f, key-frames per clip
    min_interval: Count  # I_f, frames between two key-frames
    modes: OneOrMore[Mode]  # key-frame selections compared
    mode: Mode  # the one whose pairs are annotated
    flow: Literal["farneback", "dis", "dis_fast"]
    flow_size: Annotated[int, Within(16, 4096)]  # short side in pixels at which flow is measured
    first_pass: Annotated[int, Within(16, 4096)] | None  # short side of a rough flow that tells which need theirs
    vocabulary: Literal["v1", "v2"]  # reversible verbs
    clip_timeout: Seconds  # seconds of work on one clip
    clips_per_dataset: Count | None  # a seeded sample; None mines all
    frame_rate: Annotated[float, Within(0, 1000, above=True)]  # of clips that are folders of frames
    curator: Name  # `annotations`, or a VLM
    filter_model: Name | None  # another VLM for the quality filter
    expansion_model: Name | None  # another VLM for the long prompts
    vlm_batch: Count  # questions in one generate call
    test_split: Literal["all", "v1", "v2"]
    test_per_verb: Count | None  # pairs in split v1; None is as many as the rarest of the top 8 has

    def __post_init__(self) -> None:
        if self.mode not in self.modes:
            raise ValueError(f"mode {self.mode} is to be annotated, but modes has only {', '.join(self.modes)}")
