"""Which systems a profile's evaluation compares: its parameters, resolved into checkpoints, editors and folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from visdyn.evaluation.benches.bench import AURORA_BENCH, DOUNDO_BENCH
from visdyn.evaluation.systems import doundo_systems as doundo
from visdyn.evaluation.systems import forward_systems as aurora
from visdyn.evaluation.systems.baselines import baseline_systems
from visdyn.evaluation.systems.editor_systems import EditorSystem, local_editor, remote_editor
from visdyn.evaluation.systems.outputs import Checkpoint, SystemImages
from visdyn.inference.verification import select_best_candidates
from visdyn.paths import expanded
from visdyn.pipeline.stage import Stage
from visdyn.training.runs import requested_runs, run_name, runs_in
from visdyn.trajectory import ReversiblePair, Trajectory


def aurora_systems(stage: Stage, items: Sequence[Trajectory]) -> list[SystemImages]:
    """Return copy, oracle and shuffled, the kit's own systems, the editors, and the imported folders, in this order.

    A system whose model, folder or endpoint is not there has no images and a note that says why.
    """
    checkpoints, absent = _aurora_checkpoints(stage)
    systems = baseline_systems(AURORA_BENCH, items, AURORA_BENCH.requests(), stage.seed)
    systems += aurora.sample_models(items, checkpoints, _outputs(stage, "aurora"), stage.device)
    systems += [run.left_out("aurora", f"not run: {run.model} does not exist; run stage fdm") for run in absent]
    systems += [aurora.edit_items(editor, items, stage.seed) for editor in _editors(stage, "aurora")]
    imported = [entry for entry in stage.params.imported if entry.bench == "aurora"]
    return systems + [aurora.from_folder(_located(stage, one.folder), one.name, one.folder, items) for one in imported]


def doundo_systems(stage: Stage, pairs: Sequence[ReversiblePair]) -> list[SystemImages]:
    """Return copy, oracle and shuffled, the base and its fine-tuned runs, the editors, and the imported folders."""
    prompts, sources = stage.params.prompts, stage.params.reverse_from
    systems = baseline_systems(DOUNDO_BENCH, pairs, DOUNDO_BENCH.requests(prompts, sources), stage.seed)
    if "doundo" in stage.params.trained:
        checkpoints, absent = _doundo_checkpoints(stage)
        systems += doundo.edit_with_models(
            pairs,
            checkpoints,
            _outputs(stage, "doundo"),
            stage.device,
            prompts,
            sources,
            stage.params.flow_steps or None,
        )
        systems += [run.left_out("doundo", f"not run: {run.model} does not exist; run stage doundo") for run in absent]
    systems += [doundo.edit_pairs(editor, pairs, prompts, sources, stage.seed) for editor in _editors(stage, "doundo")]
    imported = [entry for entry in stage.params.imported if entry.bench == "doundo"]
    return systems + [
        doundo.from_folder(_located(stage, one.folder), one.name, one.folder, pairs, one.prompt) for one in imported
    ]


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
            best = select_best_candidates(table, k, "idm_log_likelihood")
            named = best.assign(system=best["arm"] + f"_best_of_{k}")
            parts.append(named.melt(["system", "seed", "subset", "id"], metrics, "metric", "value"))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _aurora_checkpoints(stage: Stage) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Return what `evaluation.trained` names (tokenizer's ceiling, zero-shot base, FDM runs), and runs not there."""
    base, wanted = stage.settings.fdm.base, stage.params.trained
    found = [
        Checkpoint(name, 0, _located(stage, base), base, stage.seed)
        for name in ("tokenizer_ceiling", "zero_shot")
        if name in wanted
    ]
    if "fdm" not in wanted:
        return found, []
    requested = [(arm, seed) for arm, seed in requested_runs(stage.settings.fdm)]
    there, absent = _runs(stage, "models/fdm", requested)
    return found + there, absent


def _doundo_checkpoints(stage: Stage) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Return the base generator and its fine-tuned runs, and runs that are not there."""
    settings = stage.settings.doundo
    base = Checkpoint("base", 0, _located(stage, settings.base), settings.base, stage.seed)
    requested = [(name, seed) for name in settings.variants for seed in settings.seeds]
    there, absent = _runs(stage, "models/doundo", requested)
    return [base, *there], absent


def _runs(stage: Stage, folder: str, requested: list[tuple[str, int]]) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Return the runs below a folder of the profile, each sampled with its own seed, and requested ones not there."""
    found = [
        Checkpoint(name, seed, str(path), f"{folder}/{path.name}", seed)
        for name, seed, path in runs_in(stage.path(folder))
    ]
    known = {(run.name, run.seed) for run in found}
    absent = [
        Checkpoint(name, seed, "", f"{folder}/{run_name(name, seed)}", seed)
        for name, seed in requested
        if (name, seed) not in known
    ]
    return found, absent


def _editors(stage: Stage, bench: str) -> list[EditorSystem]:
    """Return the editors that `evaluation.editors` and `evaluation.api_editors` name for a benchmark."""
    outputs = _outputs(stage, bench)
    local = [
        local_editor(entry, _located(stage, entry.model), outputs, stage.seed, stage.device)
        for entry in stage.params.editors
        if bench in entry.benches
    ]
    return local + [
        remote_editor(entry, outputs, stage.seed) for entry in stage.params.api_editors if bench in entry.benches
    ]


def _outputs(stage: Stage, bench: str) -> Path:
    """Return where all images of a benchmark lie, whichever run made them."""
    return stage.root / "data/kept/outputs" / bench


def _located(stage: Stage, name: str) -> str:
    """Return a model or folder of the parameters as a path: in the profile, or as it is, `$NAME` and `~` expanded."""
    return stage.reference(expanded(name))
