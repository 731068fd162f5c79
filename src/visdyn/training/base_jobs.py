"""The training jobs of the embedded profile's base models."""

from __future__ import annotations

from dataclasses import asdict

from visdyn.datasets.kitchen.text import vocabulary
from visdyn.stage import Stage
from visdyn.training.launch import Job


def base_jobs(stage: Stage) -> list[Job]:
    """Return the jobs of stage `base_models`, the longest chain first.

    The image tokenizer is written to the stage's scratch folder: the base model holds its own copy.
    """
    params, seed = stage.params, stage.seed
    captions = stage.path("data/kitchen/captions")
    images, texts, pairs = (str(captions / name) for name in ("images.npy", "captions.jsonl", "pairs.npy"))
    tokenizer = str(stage.scratch("tokenizer") / "vqgan")
    words, sizes = list(vocabulary()), asdict(params.tokenizer_model)

    def job(name: str, function: str, after: tuple[str, ...] = (), **arguments) -> Job:
        recipe = {**asdict(getattr(params, name)), "seed": seed}
        arguments = {"output": str(stage.path(f"models/{name}")), "recipe": recipe, **arguments}
        return Job(name, f"visdyn.training.{function}", arguments, after)

    return [
        job("tokenizer", "tokenizer:train_tokenizer", images=images, output=tokenizer, model=sizes),
        job("autoencoder", "autoencoder:train_autoencoder", images=images),
        job(
            "base",
            "base_model:train_base",
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
            "flow_editor:train_base_generator",
            ("autoencoder",),
            images=images,
            captions=texts,
            pairs=pairs,
            autoencoder=str(stage.path("models/autoencoder")),
        ),
        job("clip", "encoders:train_clip", images=images, captions=texts, extra_texts=words),
        job("dino", "encoders:train_dino", images=images),
    ]
