"""The hardware files that a profile's stages train on, read before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterable

from visdyn.params import Params, ParamsError
from visdyn.params.runtime import TRAINING_STAGES, Runtime, choose_hardware
from visdyn.training.engine.launch import Hardware


def read_hardware(runtime: Runtime, stages: Iterable[str], name: str | None = None) -> dict[str, Hardware]:
    """Return the hardware of each of the stages that trains, by `choose_hardware`.

    Args:
        name: of one file for all of them, whatever parameters and environment say.

    Raises:
        ParamsError, FileNotFoundError: as `Hardware.load`; the message begins with the stage.
    """
    found = {}
    for stage in (one for one in stages if one in TRAINING_STAGES):
        try:
            found[stage] = _load_exactly(name or choose_hardware(runtime, stage))
        except (ParamsError, FileNotFoundError) as error:
            raise type(error)(f"stage {stage}: {error}") from None
    return found


def refuse_optimizers(params: Params, hardware: dict[str, Hardware]) -> None:
    """Refuse trainings that cannot run on the hardware of their stage: Muon takes whole matrices.

    Raises:
        ParamsError: a training has `optimizer: muon`, and its stage's hardware file a DeepSpeed configuration.
    """
    trainings = {f"{stage}.training": getattr(params, stage).training for stage in ("idm", "fdm", "doundo")}
    bases = params.base_models
    trainings |= {f"base_models.{name}": getattr(bases, name) for name in bases.references.trained}
    for key, training in trainings.items():
        stage = key.partition(".")[0]
        if training.optimizer == "muon" and stage in hardware and "deepspeed" in hardware[stage].trainer:
            raise ParamsError(
                f"{key} has optimizer: muon, which takes whole matrices, and DeepSpeed cuts them apart; write adamw "
                "there, or train on a hardware file without deepspeed"
            )


def _load_exactly(name: str) -> Hardware:
    """Read `hardware/<name>.yaml`, though VISDYN_HARDWARE names another for stages that have none of their own."""
    before = os.environ.pop("VISDYN_HARDWARE", None)
    try:
        return Hardware.load(name)
    finally:
        if before is not None:
            os.environ["VISDYN_HARDWARE"] = before
