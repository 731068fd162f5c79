"""The training jobs of the Do-Undo stage."""

from __future__ import annotations

from dataclasses import asdict

from visdyn.pipeline.stage import Stage
from visdyn.training.engine.launch import Job
from visdyn.training.runs import run_name

# The weight of the consistency loss is what the variants differ by.
VARIANTS = ("doundo", "doundo_c")


def doundo_jobs(stage: Stage) -> list[Job]:
    """Return one fine-tuning job for each variant and seed.

    Raises:
        ValueError: an unknown variant, or a kind of sample has a weight and no file.
    """
    params = stage.params
    if unknown := set(params.variants) - set(VARIANTS):
        raise ValueError(f"unknown Do-Undo variant(s) {', '.join(sorted(unknown))}; known: {', '.join(VARIANTS)}")
    shared = {"base": stage.reference(params.base), **data_files(stage), **recipe_options(params)}
    return [
        Job(
            run_name(variant, seed),
            "visdyn.training.bagel.recipe:train_bagel",
            {
                **shared,
                "output": str(stage.path("models/doundo") / run_name(variant, seed)),
                "recipe": {**asdict(params.training), "seed": seed},
                "consistency_weight": params.consistency_weight if variant == "doundo_c" else 0.0,
            },
        )
        for seed in params.seeds
        for variant in params.variants
    ]


def data_files(stage: Stage) -> dict[str, str | None]:
    """Return the data arguments of `train_bagel`: the mined pairs, and what else the mixture has a weight for."""
    weights, data = stage.params.mixture, stage.settings.data
    files: dict[str, str | None] = {
        "pairs": str(stage.path("data/mined/doundo_train.json")),
        "frames": str(stage.data("epic") / "frames"),
    }
    for kind, name in (("text_to_image", "captions"), ("understanding", "questions")):
        if getattr(weights, kind) > 0:
            if not getattr(data, name):
                raise ValueError(
                    f"doundo.mixture.{kind} is above 0, but data.{name} names no file; name one, or set the weight to 0"
                )
            files[name] = str(stage.data(name))
    return files


def recipe_options(params) -> dict:
    """Return the other arguments of `train_bagel` that both variants share."""
    lora = {"r": params.lora.rank, "lora_alpha": params.lora.alpha, "lora_dropout": params.lora.dropout}
    return {
        "mixture": asdict(params.mixture),
        "adapter": params.adapter,
        "lora": lora if params.adapter == "lora" else None,
        "mse_weight": params.mse_weight,
        "ce_weight": params.ce_weight,
        "condition": params.condition,
        "space": params.space,
        "t_gate": params.t_gate if params.t_gate < 1 else None,  # every timestep is below 1
        "long_share": params.long_share,
        "timestep_shift": params.timestep_shift,
        "dropout": asdict(params.dropout),
        "average_decay": params.average_decay or None,
        "latents": params.latents or None,
    }
