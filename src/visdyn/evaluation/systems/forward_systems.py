"""AURORA-Bench: every system's image of every test item, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from visdyn.compute.gpus import map_gpus
from visdyn.compute.seeds import item_seed
from visdyn.evaluation.benches.bench import AURORA_BENCH
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.systems.editor_systems import UNAVAILABLE, EditorSystem
from visdyn.evaluation.systems.image_folder import ImageFolder
from visdyn.evaluation.systems.outputs import (
    FORWARD,
    Checkpoint,
    OutputFolder,
    SystemImages,
    Wanted,
    code_digest,
    model_digest,
    produce,
)
from visdyn.images import ImageRef
from visdyn.inference.generation import generate
from visdyn.models import load_model
from visdyn.models.token.unified import TokenForwardDynamics
from visdyn.params.prompts import Prompts
from visdyn.params.sampling import Sampling
from visdyn.quarantine import Quarantine
from visdyn.trajectory import Trajectory

BENCH = AURORA_BENCH.name
_CODE = ("models", "inference/generation.py")
_TOKENS_AT_ONCE = 16_384  # image tokens sampled between two times of writing: 256 small images, 16 of 512 pixels


def score_forward(evaluation: ForwardEvaluation, systems: Sequence[SystemImages]) -> pd.DataFrame:
    """Score every system with images: columns system, chain, subset, id, metric, value."""
    filled = [system for system in systems if any(system.images.get(FORWARD, []))]
    tables = map_gpus(ForwardEvaluation.score, [system.images[FORWARD] for system in filled], evaluation)
    parts = [table.assign(system=one.name, chain=one.chain) for one, table in zip(filled, tables, strict=True)]
    columns = ["system", "chain", "subset", "id", "metric", "value"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def sample_models(
    items: Sequence[Trajectory],
    checkpoints: Sequence[Checkpoint],
    outputs: Path,
    device: str,
    sampling: Sampling,
    prompts: Prompts,
) -> list[SystemImages]:
    """Return every model's image of every item, sampled or found again; one model a worker process.

    The system `tokenizer_ceiling` decodes the codes of the target instead: no model of these codes can do better.

    Args:
        outputs: folder under which every system's images lie.
        sampling: of their image tokens.
        prompts: the words for a model that brings none of its own.
    """
    return map_gpus(_sample_model, checkpoints, (list(items), outputs, device, sampling, prompts))


def edit_items(editor: EditorSystem, items: Sequence[Trajectory], seed: int) -> SystemImages:
    """Return an editor's image of every item, made or found again; its memory is freed afterwards."""
    wanted = [Wanted(_file(item), item.source, item.action, item_seed(seed, item.subset, item.id)) for item in items]
    images = {FORWARD: editor.images(wanted)}
    editor.release()
    return SystemImages(BENCH, editor.name, 0, editor.origin, editor.model, images, editor.note)


def _sample_model(shared: tuple, checkpoint: Checkpoint) -> SystemImages:
    items, outputs, device, sampling, prompts = shared
    seed, reference = checkpoint.noise_seed, checkpoint.path
    recipe = {"model": model_digest(reference), "code": code_digest(*_CODE), "sample_seed": seed}
    recipe |= {"sampling": asdict(sampling), "prompts": asdict(prompts)}
    folder = OutputFolder.named(outputs, checkpoint.name, checkpoint.chain, recipe)
    ceiling = checkpoint.name == "tokenizer_ceiling"
    usable = [item for item in items if not ceiling or item.target is not None]
    by_file = {_file(item): item for item in usable}
    wanted = [Wanted(_file(item), item.target if ceiling else item.source, item.action, seed) for item in usable]
    try:
        if all(folder.has(one) for one in wanted):
            paths = folder.found(wanted)
        else:
            model = load_model(reference, device=device, prompts=prompts)
            forward = replace(model.forward_dynamics, **asdict(sampling))
            make = _decoder(model) if ceiling else _sampler(forward, by_file, seed)
            tokens = model.encode([wanted[0].source])[0].size
            paths = produce(folder, wanted, make, max(1, _TOKENS_AT_ONCE // tokens))
    except UNAVAILABLE as error:
        return checkpoint.left_out(BENCH, f"not run: {error}")
    places = dict(zip(by_file, paths, strict=True))
    return checkpoint.with_images(BENCH, {FORWARD: [places.get(_file(item)) for item in items]})


def _sampler(
    forward: TokenForwardDynamics, by_file: dict[str, Trajectory], seed: int
) -> Callable[[list[Wanted]], list[ImageRef]]:
    def make(wanted: list[Wanted]) -> list[ImageRef]:
        return list(generate(forward, [by_file[one.file] for one in wanted], 1, seed)[0][:, 0])

    return make


def _decoder(model) -> Callable[[list[Wanted]], list[ImageRef]]:
    def make(wanted: list[Wanted]) -> list[ImageRef]:
        squares = model.decode(model.encode([one.source for one in wanted]))
        return [model.restore(square, one.source) for square, one in zip(squares, wanted, strict=True)]

    return make


def from_folder(
    folder: str | Path, name: str, shown: str, items: Sequence[Trajectory], quarantine: Quarantine | None = None
) -> SystemImages:
    """Return a folder's images as a system (`inference.image_folder` has the layouts); prints what is missing.

    Args:
        folder: where the images are.
        name: of the system.
        shown: the folder as the parameters name it.
        items: test items.
        quarantine: takes each image that is not there or cannot be read, with the reason.
    """
    try:
        report = ImageFolder(folder, name).find(items)
    except (FileNotFoundError, ValueError) as error:
        return SystemImages(BENCH, name, 0, "imported", shown, {}, f"not run: {error}")
    print(report.summary())
    for entry in report.entries if quarantine is not None else ():
        if entry.status != "found":
            quarantine.add(f"{name}/{entry.subset}/{entry.id}", entry.reason)
    whole = len(report.found) == len(items) and not report.unused
    note = "" if whole else report.summary().partition(": ")[2]
    return SystemImages(BENCH, name, 0, "imported", shown, {FORWARD: report.images()}, note)


def _file(item: Trajectory) -> str:
    return AURORA_BENCH.file(item, FORWARD)
