"""Stage `base_models`: the tiny models that stand for public checkpoints are trained, or named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from visdyn.kitchen.state import NOUNS
from visdyn.kitchen.text import vocabulary
from visdyn.pipeline.stage import REFERENCE, Stage
from visdyn.training.engine.launch import Job, run_jobs
from visdyn.training.tiny.generator import GeneratorData


def link_references(stage: Stage) -> dict[str, str]:
    """Write a model folder for each checkpoint that `base_models.references` names; return name -> checkpoint."""
    named = stage.params.references.named
    for name, value in named.items():
        write_reference(stage.path(f"models/{name}"), value, stage.root)
    return named


def write_reference(folder: str | Path, name_or_path: str, root: str | Path = ".") -> dict[str, str]:
    """Write `<folder>/reference.json`, which `Stage.reference` follows, and return its content.

    The digest of a local checkpoint's config.json is kept beside the name: DVC sees a checkpoint of another shape under
    the same path. Weights are not hashed (tens of gigabytes); give a changed checkpoint another name.

    Args:
        name_or_path: hub id or local folder.
        root: where a relative folder starts: the profile.

    Raises:
        FileNotFoundError: an absolute path that does not exist.
    """
    path = Path(root) / name_or_path
    if Path(name_or_path).is_absolute() and not path.exists():
        raise FileNotFoundError(f"base_models.references names {name_or_path}, which does not exist; fetch it first")
    content = {"name_or_path": name_or_path}
    configs = [path / name for name in ("config.json", "llm_config.json", "model_index.json")]
    if found := [config for config in configs if config.is_file()]:
        content["config_sha256"] = hashlib.sha256(b"".join(config.read_bytes() for config in found)).hexdigest()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REFERENCE).write_text(json.dumps(content, indent=1) + "\n")
    return content


def train(stage: Stage) -> dict[str, float]:
    """Train every model that `base_models.references` does not name; return the seconds that each job took."""
    return run_jobs(base_jobs(stage), stage.scratch("jobs"), stage.settings.runtime.hardware)


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
