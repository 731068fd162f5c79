"""The sections `runtime` and `data` of params.yaml: where and how fast, and where the readers look."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from visdyn.params.reading import Like, Name, Share, Within

HARDWARE_NAME = Like(r"[A-Za-z0-9_-]+", "the name of a file in hardware/, without .yaml")


@dataclass(frozen=True)
class StageHardware:
    """Hardware files of single stages, of those that train; one that is not named trains on `Runtime.hardware`."""

    base_models: Annotated[str, HARDWARE_NAME] | None = None
    idm: Annotated[str, HARDWARE_NAME] | None = None
    fdm: Annotated[str, HARDWARE_NAME] | None = None
    doundo: Annotated[str, HARDWARE_NAME] | None = None
    robust: Annotated[str, HARDWARE_NAME] | None = None


TRAINING_STAGES = tuple(field.name for field in fields(StageHardware))


@dataclass(frozen=True)
class Runtime:
    """Where and how fast; never what. Not tracked by DVC."""

    hardware: Annotated[str, HARDWARE_NAME]
    stage_hardware: StageHardware
    device: Literal["auto", "cpu", "cuda"]
    executor: Literal["local", "ray"]  # of all that is spread but training: this machine, or a Ray cluster
    threads: Annotated[int, Within(1, 1024)]  # OMP threads of a stage's kernel
    offline: bool  # the Hugging Face hub is switched off
    log_seconds: Annotated[float, Within(0, 86_400)]  # between two progress lines
    codes: Name | None  # folder of the shared cache of image codes
    most_set_aside: Share  # of a data set, before a stage fails


@dataclass(frozen=True)
class Data:
    """Roots of the public layouts, folders in the profile or absolute paths; None where the profile has none."""

    aurora: Name | None  # data/<subset>/train.json and test.json
    epic: Name | None  # EPIC_100_train.csv, EPIC_100_validation.csv and frames/
    clips: Name | None  # <dataset>/<class>/<video>
    doundo: Name | None  # annotations_train.json, annotations_test.json
    captions: Name | None  # file of captioned images
    questions: Name | None  # file of questions about images


def choose_hardware(runtime: Runtime, stage: str) -> str:
    """Return the name of the hardware file that a stage trains on.

    The environment goes first, the single stage before all: VISDYN_HARDWARE_<STAGE>, VISDYN_HARDWARE,
    `runtime.stage_hardware`, `runtime.hardware`.

    Args:
        stage: one that trains nothing has the file of the whole profile.
    """
    own = getattr(runtime.stage_hardware, stage, None)
    asked = os.environ.get(f"VISDYN_HARDWARE_{stage.upper()}") or os.environ.get("VISDYN_HARDWARE")
    return asked or own or runtime.hardware
