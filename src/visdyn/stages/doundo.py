"""Stage `doundo`: a BAGEL learns to do and to undo."""

from __future__ import annotations

from dataclasses import fields, replace

from visdyn.compute.seeds import training_seed
from visdyn.params.doundo import BagelFineTuning, Doundo
from visdyn.pipeline.stage import Stage
from visdyn.training.bagel.records import BagelData
from visdyn.training.engine.launch import Job
from visdyn.training.runs import run_name


def doundo_jobs(stage: Stage) -> list[Job]:
    """Return one fine-tuning job for each variant and chain, from the chain's generator.

    Raises:
        ValueError: a kind of sample has a weight and no file.
    """
    params = stage.params
    data = data_files(stage)
    return [
        Job(
            run_name(variant, chain),
            "visdyn.training.bagel.recipe:train_bagel",
            {
                "config": replace(variant_config(params, variant), base=stage.reference(params.base, chain)),
                "data": data,
                "seed": training_seed(stage.seed, "doundo", chain),
                "output": str(stage.path("models/doundo") / run_name(variant, chain)),
            },
        )
        for chain in stage.chains
        for variant in params.lambdas
    ]


def variant_config(params: Doundo, variant: str) -> BagelFineTuning:
    """Return a variant's configuration: `doundo` measures the consistency loss that the others train on."""
    config = BagelFineTuning(**{field.name: getattr(params, field.name) for field in fields(BagelFineTuning)})
    if config.consistency is None:
        return config
    return replace(config, consistency=replace(config.consistency, weight=params.lambdas[variant]))


def data_files(stage: Stage) -> BagelData:
    """Return the data files: the mined pairs, and what else the mixture has a weight for."""
    weights, data = stage.params.mixture, stage.settings.data
    files = {}
    for kind, name in (("text_to_image", "captions"), ("understanding", "questions")):
        if getattr(weights, kind) > 0:
            if not getattr(data, name):
                raise ValueError(
                    f"doundo.mixture.{kind} is above 0, but data.{name} names no file; name one, or set the weight to 0"
                )
            files[name] = str(stage.data(name))
    pairs, frames = stage.path("data/mined/doundo_train.json"), stage.data("epic") / "frames"
    return BagelData(str(pairs), str(frames), **files)
