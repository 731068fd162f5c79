"""The sections `runtime` and `data` of params.yaml: where and how fast, and where the readers look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visdyn.params.reading import Count, Name, NotNegative


@dataclass(frozen=True)
class Runtime:
    """Where and how fast; never what. Not tracked by DVC."""

    hardware: Name  # file in hardware/
    device: Literal["auto", "cpu", "cuda"]
    threads: Count  # OMP threads of a stage's kernel
    offline: bool  # the Hugging Face hub is switched off
    log_seconds: NotNegative  # between two progress lines
    codes: Name | None  # folder of the shared cache of image codes


@dataclass(frozen=True)
class Data:
    """Roots of the public layouts, folders in the profile or absolute paths; None where the profile has none."""

    aurora: Name | None  # data/<subset>/train.json and test.json
    epic: Name | None  # EPIC_100_train.csv, EPIC_100_validation.csv and frames/
    clips: Name | None  # <dataset>/<class>/<video>
    doundo: Name | None  # annotations_train.json, annotations_test.json
    captions: Name | None  # file of captioned images
    questions: Name | None  # file of questions about images
