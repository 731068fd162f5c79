"""Do-Undo: every system's forward and reverse images of every pair, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pandas as pd

from visdyn.compute.gpus import map_gpus
from visdyn.evaluation.benches.bench import DOUNDO_BENCH
from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.systems.editor_systems import UNAVAILABLE, EditorSystem
from visdyn.evaluation.systems.image_folder import ImageFolder
from visdyn.evaluation.systems.outputs import (
    Checkpoint,
    Images,
    OutputFolder,
    SystemImages,
    Wanted,
    code_digest,
    model_digest,
    produce,
)
from visdyn.images import ImageRef
from visdyn.inference.do_undo import do_and_undo
from visdyn.models.editors import load_editor
from visdyn.models.editors.protocol import REVERSE_FROM, Edit, Request
from visdyn.quarantine import Quarantine
from visdyn.trajectory import ReversiblePair, Trajectory

BENCH = DOUNDO_BENCH.name
COLUMNS = ["system", "chain", "direction", "reverse_from", "prompt", "verb", "familiarity", "id", "metric", "value"]
_CODE = ("models", "models/editors/protocol.py", "models/editors/bagel_editor.py", "models/editors/__init__.py")
_AT_ONCE = 32


def images_of(
    pairs: Sequence[ReversiblePair],
    prompt: str,
    sources: Sequence[str],
    seed: int,
    images: Callable[[Sequence[Wanted]], Sequence[ImageRef | None]],
) -> Images:
    """Do and undo every pair (`visdyn.inference.do_undo.do_and_undo`) from each of `sources`, by request.

    Args:
        images: makes or finds the wanted images; None for one that cannot be had.
    """
    by_id = {pair.id: pair for pair in pairs}

    def make(edits: Sequence[Edit]) -> Sequence[ImageRef | None]:
        files = [DOUNDO_BENCH.file(by_id[edit.request.item], edit.request) for edit in edits]
        return images([Wanted(file, e.source, e.prompt, e.seed) for file, e in zip(files, edits, strict=True)])

    done, undone = do_and_undo(make, pairs, prompt, sources, seed)
    return {Request(prompt): done} | {Request(prompt, "reverse", source): refs for source, refs in undone.items()}


def score_doundo(evaluation: EditingEvaluation, systems: Sequence[SystemImages]) -> pd.DataFrame:
    """Score every system with images: the columns of doundo_scores.csv. A forward image is scored once."""
    calls, owners = [], []
    for system in systems:
        for prompt in dict.fromkeys(request.prompt for request in system.images):
            forward = system.images[Request(prompt)]
            reverse = {
                source: system.images[Request(prompt, "reverse", source)]
                for source in REVERSE_FROM
                if Request(prompt, "reverse", source) in system.images
            }
            if any(image is not None for refs in (forward, *reverse.values()) for image in refs):
                calls.append((forward, reverse, prompt))
                owners.append((system, prompt))
    scored = map_gpus(_scored, calls, evaluation)
    parts = [
        table.assign(system=system.name, chain=system.chain, prompt=prompt)
        for table, (system, prompt) in zip(scored, owners, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def _scored(evaluation: EditingEvaluation, call: tuple) -> pd.DataFrame:
    return evaluation.score(*call)


def edit_with_models(
    pairs: Sequence[ReversiblePair],
    checkpoints: Sequence[Checkpoint],
    outputs: Path,
    device: str,
    prompts: Sequence[str],
    sources: Sequence[str],
    steps: int | None = None,
) -> list[SystemImages]:
    """Return every BAGEL's forward and reverse images, made or found again.

    Args:
        outputs: folder under which every system's images lie.
        prompts: lengths, `long` and `short`.
        sources: what is undone from, `gt` and `generated`.
        steps: of the sampler; None is the model's own.
    """
    # Cores share the prompt lengths; on GPUs each checkpoint is one call, and so loaded once.
    shares = [prompts] if device == "cuda" else [(prompt,) for prompt in prompts]
    jobs = [(checkpoint, share) for checkpoint in checkpoints for share in shares]
    systems: dict[tuple[str, int], SystemImages] = {}
    for system in map_gpus(_edit_with_model, jobs, (list(pairs), outputs, device, sources, steps)):
        key = system.name, system.chain
        old = systems.get(key)
        systems[key] = system if old is None else replace(old, images=old.images | system.images)
    return list(systems.values())


def edit_pairs(
    editor: EditorSystem, pairs: Sequence[ReversiblePair], prompts: Sequence[str], sources: Sequence[str], seed: int
) -> SystemImages:
    """Return an editor's forward and reverse images, made or found again; its memory is freed afterwards."""
    images: Images = {}
    for prompt in prompts:
        images |= images_of(pairs, prompt, sources, seed, editor.images)
    editor.release()
    return SystemImages(BENCH, editor.name, 0, editor.origin, editor.model, images, editor.note)


def _edit_with_model(shared: tuple, job: tuple[Checkpoint, Sequence[str]]) -> SystemImages:
    (pairs, outputs, device, sources, steps), (checkpoint, prompts) = shared, job
    noise = checkpoint.noise_seed
    recipe = {"model": model_digest(checkpoint.path), "code": code_digest(*_CODE), "steps": steps, "noise_seed": noise}
    folder = OutputFolder.named(outputs, checkpoint.name, checkpoint.chain, recipe)
    load = cache(lambda: load_editor(checkpoint.path, device=device))  # when the first image is missing

    def make(wanted: list[Wanted]) -> Sequence[ImageRef]:
        starts, texts = [one.source for one in wanted], [one.prompt for one in wanted]
        return load().edit(starts, texts, [one.seed for one in wanted], steps)

    images: Images = {}
    try:
        for prompt in prompts:
            images |= images_of(pairs, prompt, sources, noise, partial(produce, folder, make=make, chunk=_AT_ONCE))
    except UNAVAILABLE as error:
        return checkpoint.left_out(BENCH, f"not run: {error}")
    return checkpoint.with_images(BENCH, images)


def from_folder(
    folder: str | Path,
    name: str,
    shown: str,
    pairs: Sequence[ReversiblePair],
    prompt: str = "long",
    quarantine: Quarantine | None = None,
) -> SystemImages:
    """Return a folder in the authors' layout as a system; `_rev_generated` files are read where it has some.

    Args:
        folder: of `<id>_fwd.png` and `<id>_rev.png`.
        name: of the system.
        shown: the folder as the parameters name it.
        prompt: length of the prompts that it was made with.
        quarantine: takes each image that is not there or cannot be read, with the reason.
    """
    requests = DOUNDO_BENCH.requests([prompt], REVERSE_FROM)
    # The layout has no subset and one prompt length: the folder's own files are `<id>_fwd.png` and so on.
    items = [_as_item(pair, request) for request in requests for pair in pairs]
    try:
        report = ImageFolder(folder, name).find(items)
    except (FileNotFoundError, ValueError) as error:
        return SystemImages(BENCH, name, 0, "imported", shown, {}, f"not run: {error}")
    found = report.images()
    images = {key: found[place * len(pairs) : (place + 1) * len(pairs)] for place, key in enumerate(requests)}
    if not any(images[requests[-1]]):
        del images[requests[-1]]
    for entry in report.entries[: len(pairs) * len(images)] if quarantine is not None else ():
        if entry.status != "found":
            quarantine.add(f"{name}/{entry.id}", entry.reason)
    missing = sum(image is None for refs in images.values() for image in refs)
    note = f"{missing} of {len(pairs) * len(images)} images missing" if missing else ""
    print(f"{name}: {note or 'all images found'}")
    return SystemImages(BENCH, name, 0, "imported", shown, images, note)


def _as_item(pair: ReversiblePair, request: Request) -> Trajectory:
    name = DOUNDO_BENCH.file(pair, request).partition("/")[2].removesuffix(".png")
    return Trajectory(pair.start, pair.forward_prompt, pair.end, "", name)
