"""Stage `idm`: two images to the action between them."""

from __future__ import annotations

import pandas as pd

from visdyn.pipeline.stage import Stage
from visdyn.stages.dynamics_settings import adapter_options, open_data, recipe_of
from visdyn.training.dynamics_data import Part
from visdyn.training.engine.fit import count_steps
from visdyn.training.engine.launch import Job, check_split


def idm_jobs(stage: Stage) -> tuple[list[Job], pd.DataFrame]:
    """Return the training jobs, and what they learn from (idm/data.csv); writes quarantine.csv.

    `idm` learns from AURORA and EPIC-KITCHENS, `idm_same_labels` from AURORA alone.
    """
    check_split(stage.settings.runtime.hardware, stage.params.training.batch_size)
    data = open_data(stage)
    aurora = data.encode(data.read_aurora(stage.data("aurora")), "aurora")
    models = {"idm": [aurora], "idm_same_labels": [aurora]}
    if stage.params.limits.epic >= 0:
        models["idm"] = [aurora, data.encode(data.read_epic(stage.data("epic")), "epic")]
    data.quarantine.write(stage.results() / "quarantine.csv")
    return [_idm_job(stage, name, parts) for name, parts in models.items()], data.table(models)


def _idm_job(stage: Stage, name: str, parts: list[Part]) -> Job:
    steps = count_steps(stage.params.training, sum(map(len, parts)))
    arguments = {
        "base": stage.reference(stage.params.base),
        "triplets": [part.path for part in parts],
        "task": "idm",
        "output": str(stage.path(f"models/{name}")),
        "recipe": {**recipe_of(stage.params.training), "steps": steps, "seed": stage.seed},
        **adapter_options(stage.params.lora),
    }
    return Job(name, "visdyn.training.dynamics:train_dynamics", arguments)
