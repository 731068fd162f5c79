"""The training jobs of the IDM and FDM stages, and the tables that describe them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from visdyn.datasets.aurora import load_train
from visdyn.datasets.epic_kitchens import load_trajectories
from visdyn.models.unified import UnifiedModel
from visdyn.stage import Stage
from visdyn.training.arms import arm, fdm_jobs
from visdyn.training.dynamics import save_triplets
from visdyn.training.launch import Job
from visdyn.trajectory import Trajectory

# The paper trains on these four; WhatsUp is test only.
TRAIN_SUBSETS = ("magicbrush", "ag", "something", "kubric")


def supervised_trajectories(stage: Stage) -> list[Trajectory]:
    """Read AURORA's four training subsets."""
    root = stage.data("aurora")
    return [item for subset in TRAIN_SUBSETS for item in load_train(root, subset)]


def idm_jobs(stage: Stage) -> list[Job]:
    """Return the jobs of stage `idm`: `idm` learns from AURORA and EPIC, `idm_same_labels` from AURORA alone."""
    epic = stage.data("epic")
    files = {
        "aurora": _encoded(stage, supervised_trajectories(stage), "aurora"),
        "epic": _encoded(stage, load_trajectories(epic / "EPIC_100_train.csv", epic / "frames"), "epic"),
    }
    chosen = {"idm": ["aurora", "epic"], "idm_same_labels": ["aurora"]}
    return [_idm_job(stage, name, [files[part] for part in parts]) for name, parts in chosen.items()]


def _idm_job(stage: Stage, name: str, triplets: list[str]) -> Job:
    arguments = {
        "base": stage.reference(stage.params.base),
        "triplets": triplets,
        "task": "idm",
        "output": str(stage.path(f"models/{name}")),
        "recipe": {**_recipe(stage.params.training), "seed": stage.seed},
        **_adapter(stage.params),
    }
    return Job(name, "visdyn.training.dynamics:train_dynamics", arguments)


def fdm_stage_jobs(stage: Stage) -> tuple[list[Job], dict[str, int]]:
    """Return the jobs of stage `fdm`, and how many triplets each kind of data has."""
    lines = (stage.path("data/annotated") / "triplets.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    data = {"supervised": supervised_trajectories(stage)}
    for kind, key in (("idm", "action"), ("true", "true_action")):
        # A pair whose true action is not exactly one has no true label, so the upper bound does without it.
        data[kind] = [
            Trajectory(row["source"], row[key], row["target"], row["dataset"], f"{row['video']}-{row['pair']}")
            for row in rows
            if row[key]
        ]
    files = {kind: _encoded(stage, items, kind) for kind, items in data.items()}
    params = stage.params
    recipe = _recipe(params.training)
    jobs = fdm_jobs(
        fdm_runs(params),
        files,
        stage.reference(params.base),
        stage.path("models/fdm"),
        recipe,
        params.floor,
        **_adapter(params),
    )
    return jobs, {kind: len(items) for kind, items in data.items()}


def fdm_runs(params) -> list[tuple[str, int]]:
    """Return (arm, seed) of every run: all seeds for `arms`, the first one for `single_seed_arms`."""
    runs = [(name, seed) for seed in params.seeds for name in params.arms]
    return runs + [(name, params.seeds[0]) for name in params.single_seed_arms]


def arms_table(params, sizes: dict[str, int]) -> pd.DataFrame:
    """Describe every run: columns arm, seed, num_supervised, num_synthetic, weighting, floor, steps (fdm/arms.csv)."""
    rows = []
    for name, seed in fdm_runs(params):
        chosen = arm(name)
        row = {"arm": name, "seed": seed, "num_supervised": sizes["supervised"]}
        row |= {"num_synthetic": sizes.get(chosen.synthetic, 0), "weighting": chosen.weighting}
        row |= {"floor": params.floor if chosen.floored and chosen.weighting == "recognition" else 0.0}
        rows.append({**row, "steps": params.training.steps})
    return pd.DataFrame(rows)


def _encoded(stage: Stage, items: Sequence[Trajectory], name: str) -> str:
    """Encode trajectories once for all runs of a stage; return the triplet file, in the stage's scratch folder."""
    path = stage.scratch("triplets") / f"{name}.npz"
    if not path.is_file():
        model = UnifiedModel.from_pretrained(stage.reference(stage.params.base))
        unfinished = path.with_suffix(".part.npz")
        save_triplets(
            unfinished, model, *zip(*((item.source, item.target, item.action) for item in items), strict=True)
        )
        unfinished.rename(path)
    return str(path)


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
