"""What stages `idm` and `fdm` share: their data's settings, and how they are fine-tuned."""

from __future__ import annotations

from dataclasses import asdict

from visdyn.params import FineTuning, Lora
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
    return {"base": base, "adapter": asdict(params.lora), "training": asdict(params.training), "seed": stage.seed}


def recipe_of(training: FineTuning) -> dict:
    """Return the keys of `training.engine.fit.Recipe`; epochs have become steps."""
    values = asdict(training)
    del values["epochs"]
    return values


def adapter_options(lora: Lora) -> dict:
    """Return the arguments of `train_dynamics` for full fine-tuning, or for LoRA as in the paper."""
    if lora.rank == 0:
        return {"adapter": "full"}
    settings = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    if lora.modules_to_save:
        settings["modules_to_save"] = list(lora.modules_to_save)
    return {"adapter": "lora", "lora": settings}
