"""The training jobs of the Do-Undo stage."""

from __future__ import annotations

from dataclasses import asdict

from visdyn.datasets.doundo_bench import load
from visdyn.stage import Stage
from visdyn.training.flow_editor import save_pairs
from visdyn.training.launch import Job
from visdyn.training.runs import run_name

# The weight of the consistency loss is what the variants differ by.
VARIANTS = ("doundo", "doundo_c")


def doundo_jobs(stage: Stage) -> list[Job]:
    """Return one fine-tuning job for each variant and seed."""
    params = stage.params
    if unknown := set(params.variants) - set(VARIANTS):
        raise ValueError(f"unknown Do-Undo variant(s) {', '.join(sorted(unknown))}; known: {', '.join(VARIANTS)}")
    pairs = stage.scratch("pairs") / "train.npz"
    if not pairs.is_file():
        frames = stage.data("epic") / "frames"
        unfinished = pairs.with_suffix(".part.npz")
        save_pairs(unfinished, load(stage.path("data/mined/doundo_train.json"), frames))
        unfinished.rename(pairs)
    return [
        Job(
            run_name(variant, seed),
            "visdyn.training.flow_editor:train_doundo",
            {
                "base": stage.reference(params.base),
                "pairs": str(pairs),
                "output": str(stage.path("models/doundo") / run_name(variant, seed)),
                "recipe": {**asdict(params.training), "seed": seed},
                "consistency_weight": params.consistency_weight if variant == "doundo_c" else 0.0,
                "condition": params.condition,
                "space": params.space,
            },
        )
        for seed in params.seeds
        for variant in params.variants
    ]
