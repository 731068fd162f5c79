"""What stages `idm` and `fdm` share: where their data are encoded, and what they tell of themselves."""

from __future__ import annotations

from dataclasses import asdict

from visdyn.pipeline.stage import Stage
from visdyn.training.dynamics_data import DynamicsData


def open_data(stage: Stage) -> DynamicsData:
    """Resolve where a stage's triplets are encoded, with what, and how many of each subset."""
    codes = stage.settings.runtime.codes
    return DynamicsData(
        stage.reference(stage.params.base),
        stage.params.limits,
        stage.seed,
        stage.scratch("triplets"),
        codes=stage.located(codes, "runtime.codes") if codes else None,
        device=stage.device,
        log_seconds=stage.settings.runtime.log_seconds,
    )


def setting(stage: Stage) -> dict:
    """Describe what a stage fine-tunes, and how (idm/setting.json, fdm/setting.json)."""
    params = stage.params
    given, found = params.base, stage.reference(params.base)
    base = given if found == str(stage.root / given) else found
    return {
        "base": base,
        "adapter": params.lora and asdict(params.lora),
        "training": asdict(params.training),
        "seed": stage.seed,
    }
