"""The training jobs of the embedded profile's base models."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from visdyn.kitchen.state import NOUNS
from visdyn.kitchen.text import vocabulary
from visdyn.pipeline.stage import Stage
from visdyn.stages.references import write_reference
from visdyn.training.engine.launch import Job
from visdyn.training.tiny.generator import GeneratorData


def link_references(stage: Stage) -> dict[str, str]:
    """Write a model folder for each checkpoint that `base_models.references` names; return name -> checkpoint."""
    named = stage.params.references.named
    for name, value in named.items():
        write_reference(stage.path(f"models/{name}"), value, stage.root)
    return named


def base_jobs(stage: Stage) -> list[Job]:
    """Return the jobs of stage `base_models`, the longest chain first, without those of models that are only named.

    The image tokenizer is written to the stage's scratch folder: the base model holds its own copy.
    """
    params, seed = stage.params, stage.seed
    left = params.references.trained
    if not left:
        return []
    if stage.kitchen is None:
        raise ValueError(
            f"base_models.references names no {', '.join(left)}, and without the kitchen there is nothing to train "
            "them on; name a checkpoint for each"
        )
    captions = stage.path("data/kitchen/captions")
    images, texts, pairs = (str(captions / name) for name in ("images.npy", "captions.jsonl", "pairs.npy"))
    tokenizer = str(stage.scratch("tokenizer") / "vqgan")
    words, sizes = list(vocabulary()), asdict(params.tokenizer_model)

    def job(name: str, function: str, after: tuple[str, ...] = (), **arguments) -> Job:
        recipe = {**asdict(getattr(params, name)), "seed": seed}
        arguments = {"output": str(stage.path(f"models/{name}")), "recipe": recipe, **arguments}
        return Job(name, function, arguments, after)

    jobs = [
        job(
            "tokenizer", "visdyn.training.tiny.tokenizer:train_tokenizer", images=images, output=tokenizer, model=sizes
        ),
        job("autoencoder", "visdyn.training.tiny.autoencoder_recipe:train_autoencoder", images=images),
        job(
            "base",
            "visdyn.training.tiny.base_model:train_base",
            ("tokenizer",),
            images=images,
            captions=texts,
            pairs=pairs,
            vqgan=tokenizer,
            architecture=asdict(params.base_model),
            extra_words=words,
        ),
        job(
            "generator",
            "visdyn.training.tiny.generator:train_generator",
            ("autoencoder",),
            data=GeneratorData(
                autoencoder=str(stage.path("models/autoencoder")),
                captions=texts,
                frame_pairs=pairs,
                prompts=str(stage.path("data/kitchen/doundo/annotations_train.json")),
            ),
            model=params.generator_model,
            whole=list(NOUNS),
        ),
        job("clip", "visdyn.training.tiny.encoder_recipe:train_clip", images=images, captions=texts, extra_texts=words),
        job("dino", "visdyn.training.tiny.encoder_recipe:train_dino", images=images),
    ]
    return [job for job in jobs if job.name in left or (job.name == "tokenizer" and "base" in left)]


def training_curves(stage: Stage) -> pd.DataFrame:
    """Return the loss of every model that was trained here: columns model, step, loss."""
    columns = ["model", "step", "loss"]
    names = stage.params.references.trained
    curves = [pd.read_csv(stage.path(f"models/{name}") / "training.csv").assign(model=name) for name in names]
    return pd.concat(curves)[columns] if curves else pd.DataFrame(columns=columns)
