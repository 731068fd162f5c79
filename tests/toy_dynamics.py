"""Arguments of `train_dynamics` for tests: what a stage's job would hold, at toy size."""

from __future__ import annotations

from visdyn.params.dynamics import DynamicsFineTuning, FineTuning, Lora
from visdyn.training.triplets import DynamicsTriplets


def lora_of(**changes) -> Lora:
    """A small adapter."""
    return Lora(**{"rank": 2, "alpha": 4, "dropout": 0.0, "modules_to_save": (), **changes})


def fine_tuning(base, lora: Lora | None = None, **training) -> DynamicsFineTuning:
    """A configuration; `training` changes its two steps of four triplets."""
    values = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.0, "warmup_steps": 0}
    values |= {"epochs": None, "precision": "fp32", "log_every": 1, **training}
    return DynamicsFineTuning(base=str(base), lora=lora, training=FineTuning(**values))


def job_arguments(base, triplets, folder, *, data=None, lora=None, training=None, **places) -> dict:
    """The arguments of one run: `data` changes its triplets' task and weighting; output and scratch lie in `folder`."""
    return {
        "config": fine_tuning(base, lora, **(training or {})),
        "data": DynamicsTriplets((str(triplets),), **{"task": "fdm", **(data or {})}),
        "seed": 0,
        "output": str(folder / "out"),
        "scratch": str(folder / "state"),
        **places,
    }
