"""Stage `base_models`: the tiny models that stand for public checkpoints are trained, or named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from visdyn.compute.seeds import training_seed
from visdyn.kitchen.state import NOUNS
from visdyn.kitchen.text import vocabulary
from visdyn.pipeline.stage import REFERENCE, Stage
from visdyn.readers import read_frame
from visdyn.training.engine.launch import Job, run_jobs
from visdyn.training.runs import member, members_in, run_name
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
    """Return the jobs of stage `base_models`, the longest first, without those of models that are only named.

    The instruments (tokenizer, autoencoder, encoders) are trained once, a base and a generator in every chain. The
    image tokenizer is written to the stage's scratch folder: each base holds its own copy.
    """
    params = stage.params
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

    def job(kind: str, function: str, chain: int | None = None, after: tuple[str, ...] = (), **arguments) -> Job:
        folder = stage.path(f"models/{kind}")
        recipe = {**asdict(getattr(params, kind)), "seed": training_seed(stage.seed, kind, chain)}
        output = str(folder if chain is None else member(folder, chain))
        name = kind if chain is None else run_name(kind, chain)
        return Job(name, function, {"output": output, "recipe": recipe, **arguments}, after)

    jobs = {
        "tokenizer": [
            job("tokenizer", "visdyn.training.tiny.tokenizer:train_tokenizer", images=images, output=tokenizer,
                model=sizes)
        ],
        "autoencoder": [
            job("autoencoder", "visdyn.training.tiny.autoencoder_recipe:train_autoencoder", images=images)
        ],
        "base": [
            job(
                "base",
                "visdyn.training.tiny.base_model:train_base",
                chain,
                ("tokenizer",),
                images=images,
                captions=texts,
                pairs=pairs,
                vqgan=tokenizer,
                architecture=asdict(params.base_model),
                extra_words=words,
            )
            for chain in stage.chains
        ],
        "generator": [
            job(
                "generator",
                "visdyn.training.tiny.generator:train_generator",
                chain,
                ("autoencoder",),
                data=GeneratorData(
                    autoencoder=str(stage.path("models/autoencoder")),
                    captions=texts,
                    frame_pairs=pairs,
                    prompts=str(stage.path("data/kitchen/doundo/annotations_train.json")),
                ),
                model=params.generator_model,
                whole=list(NOUNS),
            )
            for chain in stage.chains
        ],
        "clip": [
            job("clip", "visdyn.training.tiny.encoder_recipe:train_clip", images=images, captions=texts,
                extra_texts=words)
        ],
        "dino": [job("dino", "visdyn.training.tiny.encoder_recipe:train_dino", images=images)],
    }  # fmt: skip
    wanted = [name for name in jobs if name in left or (name == "tokenizer" and "base" in left)]
    return [job for name in wanted for job in jobs[name]]


def training_curves(stage: Stage) -> pd.DataFrame:
    """Return the loss of every model that was trained here: columns model, chain (empty: of all chains), step, loss."""
    columns, curves = ["model", "chain", "step", "loss"], []
    for name in stage.params.references.trained:
        folder = stage.path(f"models/{name}")
        for chain, path in members_in(folder) or [(None, folder)]:
            curves.append(read_frame(path / "training.csv").assign(model=name, chain=chain))
    return pd.concat(curves)[columns].astype({"chain": "Int64"}) if curves else pd.DataFrame(columns=columns)
