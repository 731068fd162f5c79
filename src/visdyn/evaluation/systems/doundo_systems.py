"""Do-Undo: every system's forward and reverse images of every pair, in the authors' file layout.

`<prompt>/<id>_fwd.png`, `<id>_rev.png` (undone from the true end image, as the authors' code does) and
`<id>_rev_generated.png` (undone from the generated image, as the paper's prose says).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pandas as pd

from visdyn.compute.pool import map_processes
from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.systems import baselines
from visdyn.evaluation.systems.editor_systems import UNAVAILABLE, EditorSystem
from visdyn.evaluation.systems.image_folder import ImageFolder
from visdyn.evaluation.systems.outputs import (
    Checkpoint,
    Key,
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
from visdyn.trajectory import ReversiblePair, Trajectory

BENCH = "doundo"
COLUMNS = ["system", "seed", "direction", "reverse_from", "prompt", "verb", "id", "metric", "value"]
_CODE = ("models", "models/editors/protocol.py", "models/editors/bagel_editor.py", "models/editors/__init__.py")
_AT_ONCE = 32
_SUFFIXES = {("forward", ""): "fwd", ("reverse", "gt"): "rev", ("reverse", "generated"): "rev_generated"}
Images = dict[Key, list[ImageRef | None]]


def baseline_systems(
    pairs: Sequence[ReversiblePair], sources: Sequence[str], seed: int, prompts: Sequence[str] = ("long",)
) -> list[SystemImages]:
    """Return copy, oracle and shuffled: the same images for every prompt length, beside the systems of that length."""
    return [_baseline(name, pairs, sources, seed, prompts) for name in baselines.BASELINES]


def names(pairs: Sequence[ReversiblePair], keys: Sequence[Key]) -> dict[Key, list[str]]:
    """Return the files' names below a system's folder, for each key in the order of the pairs."""
    return {key: [_file(Request(*key, pair.id)) for pair in pairs] for key in keys}


def images_of(
    pairs: Sequence[ReversiblePair],
    prompt: str,
    sources: Sequence[str],
    seed: int,
    images: Callable[[Sequence[Wanted]], Sequence[ImageRef | None]],
) -> Images:
    """Do and undo every pair (`visdyn.inference.do_undo.do_and_undo`) from each of `sources`, by key.

    Args:
        images: makes or finds the wanted images; None for one that cannot be had.
    """
    done, undone = do_and_undo(lambda edits: images([_wanted(edit) for edit in edits]), pairs, prompt, sources, seed)
    return {(prompt, "forward", ""): done} | {(prompt, "reverse", source): refs for source, refs in undone.items()}


def score_doundo(evaluation: EditingEvaluation, systems: Sequence[SystemImages]) -> pd.DataFrame:
    """Score every system with images: the columns of evaluation/doundo_scores.csv. A forward image is scored once."""
    calls, owners = [], []
    for system in systems:
        for prompt in dict.fromkeys(key[0] for key in system.images):
            forward = system.images[prompt, "forward", ""]
            reverse = {
                source: system.images[prompt, "reverse", source]
                for source in REVERSE_FROM
                if (prompt, "reverse", source) in system.images
            }
            if any(image is not None for refs in (forward, *reverse.values()) for image in refs):
                calls.append((forward, reverse, prompt))
                owners.append((system, prompt))
    scored = map_processes(_scored, calls, evaluation)
    parts = [
        table.assign(system=system.name, seed=system.seed, prompt=prompt)
        for table, (system, prompt) in zip(scored, owners, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def _scored(evaluation: EditingEvaluation, call: tuple) -> pd.DataFrame:
    return evaluation.score(*call)


def _baseline(
    name: str, pairs: Sequence[ReversiblePair], sources: Sequence[str], seed: int, prompts: Sequence[str]
) -> SystemImages:
    images: Images = {}
    try:
        forward, reverse = (_halves(name, pairs, half, seed) for half in ("forward", "reverse"))
    except ValueError as error:  # too few pairs to exchange targets
        return SystemImages(BENCH, name, 0, "baseline", "", {}, str(error))
    for prompt in prompts:
        images[prompt, "forward", ""] = forward
        for source in sources:
            # Copying the generated image gives the start back; the others do not depend on what they start from.
            images[prompt, "reverse", source] = forward if (name, source) == ("copy", "generated") else reverse
    return SystemImages(BENCH, name, 0, "baseline", "", images)


def _halves(name: str, pairs: Sequence[ReversiblePair], half: str, seed: int) -> list[ImageRef]:
    return list(baselines.baseline(name, [getattr(pair, half)() for pair in pairs], seed))


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
    # Processes share the prompt lengths; on a GPU, where there is one process, each checkpoint is loaded once.
    shares = [prompts] if device == "cuda" else [(prompt,) for prompt in prompts]
    jobs = [(checkpoint, share) for checkpoint in checkpoints for share in shares]
    systems: dict[tuple[str, int], SystemImages] = {}
    for system in map_processes(_edit_with_model, jobs, (list(pairs), outputs, device, sources, steps)):
        key = system.name, system.seed
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
    folder = OutputFolder.named(outputs, checkpoint.name, checkpoint.seed, recipe)
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


def _wanted(edit: Edit) -> Wanted:
    return Wanted(_file(edit.request), edit.source, edit.prompt, edit.seed)


def _file(request: Request) -> str:
    return f"{request.prompt}/{request.item}_{_SUFFIXES[request.direction, request.reverse_from]}.png"


def from_folder(
    folder: str | Path, name: str, shown: str, pairs: Sequence[ReversiblePair], prompt: str = "long"
) -> SystemImages:
    """Return a folder in the authors' layout as a system; `_rev_generated` files are read where it has some.

    Args:
        folder: of `<id>_fwd.png` and `<id>_rev.png`.
        name: of the system.
        shown: the folder as the parameters name it.
        prompt: length of the prompts that it was made with.
    """
    keys: list[Key] = [(prompt, *kind) for kind in _SUFFIXES]
    # The layout has no subset and one prompt length: the folder's own files are `<id>_fwd.png` and so on.
    items = [_as_item(pair, key) for key in keys for pair in pairs]
    try:
        report = ImageFolder(folder, name).find(items)
    except (FileNotFoundError, ValueError) as error:
        return SystemImages(BENCH, name, 0, "imported", shown, {}, f"not run: {error}")
    found = report.images()
    images = {key: found[place * len(pairs) : (place + 1) * len(pairs)] for place, key in enumerate(keys)}
    if not any(images[keys[-1]]):
        del images[keys[-1]]
    missing = sum(image is None for refs in images.values() for image in refs)
    note = f"{missing} of {len(pairs) * len(images)} images missing" if missing else ""
    print(f"{name}: {note or 'all images found'}")
    return SystemImages(BENCH, name, 0, "imported", shown, images, note)


def _as_item(pair: ReversiblePair, key: Key) -> Trajectory:
    name = _file(Request(*key, pair.id)).partition("/")[2].removesuffix(".png")
    return Trajectory(pair.start, pair.forward_prompt, pair.end, "", name)
