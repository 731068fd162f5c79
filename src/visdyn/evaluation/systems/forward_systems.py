"""AURORA-Bench: every system's image of every test item, from whatever the parameters name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from visdyn.compute.pool import map_processes
from visdyn.compute.seeds import item_seed
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.systems import baselines
from visdyn.evaluation.systems.editor_systems import UNAVAILABLE, editor_systems, located, outputs_root
from visdyn.evaluation.systems.image_folder import ImageFolder
from visdyn.evaluation.systems.outputs import (
    FORWARD,
    OutputFolder,
    SystemImages,
    Wanted,
    code_digest,
    model_digest,
    produce,
)
from visdyn.images import ImageRef
from visdyn.inference.generation import generate
from visdyn.inference.verification import chosen
from visdyn.models import load_model
from visdyn.pipeline.stage import Stage
from visdyn.training.runs import requested_runs, run_name, runs_in
from visdyn.trajectory import Trajectory

BENCH = "aurora"
_CODE = ("models", "inference/generation.py")
_TOKENS_AT_ONCE = 16_384  # image tokens sampled between two times of writing: 256 small images, 16 of 512 pixels


def forward_systems(stage: Stage, evaluation: ForwardEvaluation) -> list[SystemImages]:
    """Return copy, oracle and shuffled, the kit's own systems, the editors, and the imported folders, in this order.

    A system whose model, folder or endpoint is not there has no images and a note that says why.
    """
    items = evaluation.trajectories
    systems = baseline_systems(items, stage.seed)
    systems += _own(stage, items)
    wanted = [
        Wanted(_file(item), item.source, item.action, item_seed(stage.seed, item.subset, item.id)) for item in items
    ]
    for editor in editor_systems(stage, BENCH):
        images = {FORWARD: editor.images(wanted)}
        editor.release()
        systems.append(SystemImages(BENCH, editor.name, 0, editor.origin, editor.model, images, editor.note))
    imported = [entry for entry in stage.params.imported if entry.bench == BENCH]
    return systems + [from_folder(located(stage, one.folder), one.name, one.folder, items) for one in imported]


def baseline_systems(items: Sequence[Trajectory], seed: int) -> list[SystemImages]:
    """Return copy, oracle and shuffled."""
    return [_baseline(name, items, seed) for name in baselines.BASELINES]


def names(items: Sequence[Trajectory]) -> list[str]:
    """Return the files' names below a system's folder, in the order of the items."""
    return [_file(item) for item in items]


def score_forward(evaluation: ForwardEvaluation, systems: Sequence[SystemImages]) -> pd.DataFrame:
    """Score every system with images: columns system, seed, subset, id, metric, value."""
    filled = [system for system in systems if any(system.images.get(FORWARD, []))]
    tables = map_processes(ForwardEvaluation.score, [system.images[FORWARD] for system in filled], evaluation)
    parts = [table.assign(system=one.name, seed=one.seed) for one, table in zip(filled, tables, strict=True)]
    return pd.concat(parts, ignore_index=True)[["system", "seed", "subset", "id", "metric", "value"]]


def best_of_scores(stage: Stage) -> pd.DataFrame:
    """Add the verified systems `<arm>_best_of_<K>` from the judged candidates of stage `verification`, where asked."""
    columns = ["system", "seed", "subset", "id", "metric", "value"]
    if "best_of" not in stage.params.trained:
        return pd.DataFrame(columns=columns)
    table = stage.read_table("verification/candidates.csv").astype({"id": str})
    metrics = ["editing_success", "minimal_editing", "score", "success"]
    parts = []
    for k in stage.settings.verification.candidates[1:]:
        if len(table):
            best = chosen(table, k, "idm_log_likelihood")
            named = best.assign(system=best["arm"] + f"_best_of_{k}")
            parts.append(named.melt(["system", "seed", "subset", "id"], metrics, "metric", "value"))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _baseline(name: str, items: Sequence[Trajectory], seed: int) -> SystemImages:
    """Copy, oracle or shuffled; an item without a target has no oracle and is nobody's shuffled target."""
    known = [item for item in items if item.target is not None]
    note = "" if len(known) == len(items) else f"{len(items) - len(known)} items have no published target"
    images: list[ImageRef | None] = [None] * len(items)
    try:
        found = baselines.baseline(name, items if name == "copy" else known, seed)
    except ValueError as error:  # too few items to exchange targets
        return SystemImages(BENCH, name, 0, "baseline", "", {FORWARD: images}, str(error))
    if name == "copy":
        return SystemImages(BENCH, name, 0, "baseline", "", {FORWARD: list(found)})
    places = iter(found)
    images = [None if item.target is None else next(places) for item in items]
    return SystemImages(BENCH, name, 0, "baseline", "", {FORWARD: images}, note)


def _own(stage: Stage, items: Sequence[Trajectory]) -> list[SystemImages]:
    """The tokenizer's ceiling, the zero-shot base and every FDM run, as far as `evaluation.trained` names them."""
    base, wanted = stage.settings.fdm.base, stage.params.trained
    jobs: list[tuple] = []
    if "tokenizer_ceiling" in wanted:
        jobs.append(("tokenizer_ceiling", 0, located(stage, base), base))
    if "zero_shot" in wanted:
        jobs.append(("zero_shot", 0, located(stage, base), base))
    if "fdm" in wanted:
        jobs += [(arm, seed, str(folder), f"models/fdm/{folder.name}") for arm, seed, folder in _runs(stage)]
    shared = (list(items), outputs_root(stage, BENCH), stage.device, stage.seed)
    found = map_processes(_sampled, jobs, shared)
    return found + (_absent(stage) if "fdm" in wanted else [])


def _runs(stage: Stage) -> list[tuple[str, int, Path]]:
    return runs_in(stage.path("models/fdm"))


def _absent(stage: Stage) -> list[SystemImages]:
    there = {run[:2] for run in _runs(stage)}
    return [
        SystemImages(BENCH, arm, seed, "trained", f"models/fdm/{run_name(arm, seed)}", {},
                     f"not run: models/fdm/{run_name(arm, seed)} does not exist; run stage fdm")
        for arm, seed in requested_runs(stage.settings.fdm) if (arm, seed) not in there
    ]  # fmt: skip


def _sampled(shared: tuple, job: tuple[str, int, str, str]) -> SystemImages:
    """Sample, or find again, one model's images; a worker process runs this."""
    (items, parent, device, seed), (name, run_seed, reference, shown) = shared, job
    seed = run_seed if shown.startswith("models/fdm/") else seed
    recipe = {"model": model_digest(reference), "code": code_digest(*_CODE), "sample_seed": seed}
    folder = OutputFolder.named(parent, name, run_seed, recipe)
    ceiling = name == "tokenizer_ceiling"
    usable = [item for item in items if not ceiling or item.target is not None]
    by_file = {_file(item): item for item in usable}
    wanted = [Wanted(_file(item), item.target if ceiling else item.source, item.action, seed) for item in usable]
    try:
        if all(folder.has(one) for one in wanted):
            paths = folder.found(wanted)
        else:
            paths = _made(folder, wanted, by_file, reference, device, seed, ceiling)
    except UNAVAILABLE as error:
        return SystemImages(BENCH, name, run_seed, "trained", shown, {}, f"not run: {error}")
    places = dict(zip(by_file, paths, strict=True))
    return SystemImages(BENCH, name, run_seed, "trained", shown, {FORWARD: [places.get(_file(item)) for item in items]})


def _made(folder, wanted, by_file, reference: str, device: str, seed: int, ceiling: bool) -> list[Path | None]:
    model = load_model(reference, device=device)
    make = _decoder(model) if ceiling else _sampler(model, by_file, seed)
    tokens = model.encode([wanted[0].source])[0].size
    return produce(folder, wanted, make, max(1, _TOKENS_AT_ONCE // tokens))


def _sampler(model, by_file: dict[str, Trajectory], seed: int) -> Callable[[list[Wanted]], list[ImageRef]]:
    def make(wanted: list[Wanted]) -> list[ImageRef]:
        return list(generate(model.forward_dynamics, [by_file[one.file] for one in wanted], 1, seed)[0][:, 0])

    return make


def _decoder(model) -> Callable[[list[Wanted]], list[ImageRef]]:
    def make(wanted: list[Wanted]) -> list[ImageRef]:
        squares = model.decode(model.encode([one.source for one in wanted]))
        return [model.restore(square, one.source) for square, one in zip(squares, wanted, strict=True)]

    return make


def from_folder(folder: str | Path, name: str, shown: str, items: Sequence[Trajectory]) -> SystemImages:
    """Return a folder's images as a system (`inference.image_folder` has the layouts); prints what is missing.

    Args:
        folder: where the images are.
        name: of the system.
        shown: the folder as the parameters name it.
        items: test items.
    """
    try:
        report = ImageFolder(folder, name).find(items)
    except (FileNotFoundError, ValueError) as error:
        return SystemImages(BENCH, name, 0, "imported", shown, {}, f"not run: {error}")
    print(report.summary())
    whole = len(report.found) == len(items) and not report.unused
    note = "" if whole else report.summary().partition(": ")[2]
    return SystemImages(BENCH, name, 0, "imported", shown, {FORWARD: report.images()}, note)


def _file(item: Trajectory) -> str:
    return f"{item.subset}/{item.id}.png"
