"""Stage `idm`: two images to the action between them."""

from __future__ import annotations

import pandas as pd

from visdyn.compute.seeds import training_seed
from visdyn.pipeline.stage import Stage
from visdyn.stages.dynamics_settings import open_data
from visdyn.training.dynamics import run_config
from visdyn.training.dynamics_data import Part
from visdyn.training.engine.launch import Job, check_split
from visdyn.training.runs import member, run_name
from visdyn.training.triplets import DynamicsTriplets


def idm_jobs(stage: Stage) -> tuple[list[Job], pd.DataFrame]:
    """Return every chain's training jobs, and what they learn from (idm/data.csv); writes quarantine.csv.

    `idm` learns from AURORA and EPIC-KITCHENS; `idm_same_labels` from AURORA alone, where `idm.same_labels` asks for it
    (else its folder is empty).
    """
    check_split(stage.settings.runtime.hardware, stage.params.training.batch_size)
    data = open_data(stage)
    aurora = data.encode(data.read_aurora(stage.data("aurora")), "aurora")
    models = {"idm": [aurora]}
    if stage.params.limits.epic != 0:
        models["idm"] = [aurora, data.encode(data.read_epic(stage.data("epic")), "epic")]
    if stage.params.same_labels:
        models["idm_same_labels"] = [aurora]
    else:
        stage.path("models/idm_same_labels").mkdir(parents=True, exist_ok=True)  # dvc.yaml declares it
    data.quarantine.write(stage.results() / "quarantine.csv")
    runs = {(name, chain): parts for name, parts in models.items() for chain in stage.chains}
    return [_idm_job(stage, *run, parts) for run, parts in runs.items()], data.table(runs)


def _idm_job(stage: Stage, name: str, chain: int, parts: list[Part]) -> Job:
    arguments = {
        "config": run_config(stage.params, stage.reference(stage.params.base, chain), sum(map(len, parts))),
        "data": DynamicsTriplets(tuple(part.path for part in parts), "idm"),
        "seed": training_seed(stage.seed, "idm", chain),
        "output": str(member(stage.path(f"models/{name}"), chain)),
        "prompts": stage.settings.prompts,
    }
    return Job(run_name(name, chain), "visdyn.training.dynamics:train_dynamics", arguments)
