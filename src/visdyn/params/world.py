"""The section `world` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from visdyn.params.reading import Whole, Within


@dataclass(frozen=True)
class DevSizes:
    """How many items `data/dev` has, on which choices are made (`kitchen.write.write_dev`)."""

    aurora_per_subset: Whole  # labelled triplets in each of the five subsets
    epic: Whole  # segments, of which Do-Undo pairs are mined
    clips_per_dataset: Whole  # unlabelled clips
    spatial: Whole  # questions


@dataclass(frozen=True)
class World:
    """The kitchen world on disk; the counts are `kitchen.write.KitchenSizes`."""

    kind: Literal["kitchen", "external"]  # rendered here, or real data
    image_size: Annotated[int, Within(16, 1024)]  # pixels of a side
    jitter: Annotated[float, Within(0, 16)]  # pixels of camera shift
    noise: Annotated[float, Within(0, 255)]  # standard deviation of the sensor's, of 255
    aurora_train_per_subset: Whole  # labelled triplets
    aurora_test_per_subset: Whole  # labelled triplets
    epic_train: Whole  # segments
    epic_validation: Whole  # segments
    clips_per_dataset: Whole  # unlabelled
    captions: Whole  # captioned frames
    pairs: Whole  # unlabelled pairs of frames
    spatial: Whole  # questions
    dev: DevSizes
