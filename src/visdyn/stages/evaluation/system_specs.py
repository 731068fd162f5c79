"""Which systems a section of params.yaml compares: its entries, resolved into runs, editors and folders."""

from __future__ import annotations

from pathlib import Path

from visdyn.evaluation.systems.editor_systems import EditorSystem, local_editor, remote_editor
from visdyn.evaluation.systems.outputs import Checkpoint
from visdyn.paths import expanded
from visdyn.pipeline.stage import Stage
from visdyn.training.runs import run_name, runs_in


def resolved_runs(
    stage: Stage, folder: str, requested: list[tuple[str, int]]
) -> tuple[list[Checkpoint], list[Checkpoint]]:
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


def named_editors(stage: Stage, bench: str) -> list[EditorSystem]:
    """Return the editors that the stage's `editors` and `api_editors` name; their images lie with the benchmark's."""
    outputs = outputs_folder(stage, bench)
    local = [
        local_editor(entry, located(stage, entry.model), outputs, stage.seed, stage.device)
        for entry in stage.params.editors
    ]
    return local + [remote_editor(entry, outputs, stage.seed) for entry in stage.params.api_editors]


def outputs_folder(stage: Stage, bench: str) -> Path:
    """Return where all images of a benchmark lie, whichever run made them."""
    return stage.root / "data/kept/outputs" / bench


def located(stage: Stage, name: str) -> str:
    """Return a model or folder of the parameters as a path: in the profile, or as it is, `$NAME` and `~` expanded."""
    return stage.reference(expanded(name))
