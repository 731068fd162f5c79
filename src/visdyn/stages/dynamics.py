"""The training jobs of the IDM and FDM stages, and the tables that describe them."""

from __future__ import annotations

import math
from dataclasses import asdict

import pandas as pd

from visdyn.datasets.annotated import read_annotated
from visdyn.pipeline.stage import Stage
from visdyn.stages.arms import arm, fdm_jobs
from visdyn.stages.dynamics_data import DynamicsData, Part
from visdyn.training.engine.launch import Job, check_split
from visdyn.training.runs import requested_runs
from visdyn.trajectory import Trajectory


def idm_jobs(stage: Stage) -> tuple[list[Job], pd.DataFrame]:
    """Return the jobs of stage `idm`, and what they learn from (idm/data.csv).

    `idm` learns from AURORA and EPIC-KITCHENS, `idm_same_labels` from AURORA alone.
    """
    check_split(stage.settings.runtime.hardware, stage.params.training.batch_size)
    data = DynamicsData(stage)
    aurora = data.encoded(data.aurora(), "aurora")
    models = {"idm": [aurora], "idm_same_labels": [aurora]}
    if stage.params.limits.epic >= 0:
        models["idm"] = [aurora, data.encoded(data.epic(), "epic")]
    return [_idm_job(stage, name, parts) for name, parts in models.items()], data.table(models)


def _idm_job(stage: Stage, name: str, parts: list[Part]) -> Job:
    steps = steps_of(stage.params.training, sum(map(len, parts)))
    arguments = {
        "base": stage.reference(stage.params.base),
        "triplets": [part.path for part in parts],
        "task": "idm",
        "output": str(stage.path(f"models/{name}")),
        "recipe": {**_recipe(stage.params.training), "steps": steps, "seed": stage.seed},
        **_adapter(stage.params),
    }
    return Job(name, "visdyn.training.dynamics:train_dynamics", arguments)


def fdm_stage_jobs(stage: Stage) -> tuple[list[Job], dict[str, int], pd.DataFrame]:
    """Return the jobs of stage `fdm`, how many triplets each kind of data has, and the same by subset (fdm/data.csv).

    Raises:
        ValueError: an arm needs labels that are not there.
    """
    params = stage.params
    check_split(stage.settings.runtime.hardware, params.training.batch_size)
    data, runs = DynamicsData(stage), requested_runs(params)
    synthetic = _synthetic(stage, {arm(name).synthetic: name for name, _ in runs if arm(name).synthetic != "none"})
    parts = {"supervised": data.encoded(data.aurora(), "supervised")}
    parts |= {kind: data.encoded(items, kind) for kind, items in synthetic.items()}
    sizes = {kind: len(part) for kind, part in parts.items()}
    jobs = fdm_jobs(
        runs,
        {kind: part.path for kind, part in parts.items()},
        stage.reference(params.base),
        stage.path("models/fdm"),
        _recipe(params.training),
        params.floor,
        {name: steps_of(params.training, arm_size(name, sizes)) for name, _ in runs},
        **_adapter(params),
    )
    used = {name: [parts[kind] for kind in ("supervised", arm(name).synthetic) if kind in parts] for name, _ in runs}
    return jobs, sizes, data.table(used)


def _synthetic(stage: Stage, wanted: dict[str, str]) -> dict[str, list[Trajectory]]:
    """Read the synthetic triplets of each kind of labels that an arm asks for (kind to arm)."""
    rows, found = read_annotated(stage.path("data/annotated")), {}
    for kind, key in (("idm", "action"), ("true", "true_action")):
        if kind not in wanted:
            continue
        # A pair whose true action is not exactly one has no true label, so the upper bound does without it.
        found[kind] = [
            Trajectory(row["source"], row[key], row["target"], row["dataset"], f"{row['video']}-{row['pair']}")
            for row in rows
            if row[key]
        ]
        if not found[kind]:
            what = "known actions, which real data lack" if kind == "true" else "triplets labelled by the IDM"
            raise ValueError(f"arm {wanted[kind]!r} needs {what}: data/annotated has none; take it out of section fdm")
    return found


def arms_table(params, sizes: dict[str, int]) -> pd.DataFrame:
    """Describe every run: columns arm, seed, num_supervised, num_synthetic, weighting, floor, steps (fdm/arms.csv)."""
    rows = []
    for name, seed in requested_runs(params):
        chosen = arm(name)
        row = {"arm": name, "seed": seed, "num_supervised": sizes["supervised"]}
        row |= {"num_synthetic": sizes.get(chosen.synthetic, 0), "weighting": chosen.weighting}
        row |= {"floor": params.floor if chosen.floored and chosen.weighting == "recognition" else 0.0}
        rows.append({**row, "steps": steps_of(params.training, arm_size(name, sizes))})
    return pd.DataFrame(rows)


def arm_size(name: str, sizes: dict[str, int]) -> int:
    """Return how many triplets an arm learns from."""
    return sizes["supervised"] + sizes.get(arm(name).synthetic, 0)


def steps_of(training, examples: int) -> int:
    """Return the optimiser steps of a run: `steps`, or as many as `epochs` of the data take.

    Raises:
        ValueError: both are 0.
    """
    if training.epochs > 0:
        return training.epochs * math.ceil(examples / training.batch_size)
    if training.steps <= 0:
        raise ValueError("training.steps and training.epochs are both 0 in params.yaml; set one of them")
    return training.steps


def setting(stage: Stage) -> dict:
    """Describe what a stage fine-tunes, and how (idm/setting.json, fdm/setting.json)."""
    params = stage.params
    given, found = params.base, stage.reference(params.base)
    base = given if found == str(stage.root / given) else found
    return {"base": base, "adapter": asdict(params.lora), "training": asdict(params.training), "seed": stage.seed}


def _recipe(training) -> dict:
    values = asdict(training)
    del values["epochs"]
    return values


def _adapter(params) -> dict:
    """Return the arguments of `train_dynamics` for full fine-tuning, or for LoRA as in the paper."""
    lora = params.lora
    if lora.rank == 0:
        return {"adapter": "full"}
    settings = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    if lora.modules_to_save:
        settings["modules_to_save"] = list(lora.modules_to_save)
    return {"adapter": "lora", "lora": settings}
