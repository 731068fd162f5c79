"""Which systems a section of params.yaml compares: its entries, resolved into runs, editors and folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from visdyn.compute.seeds import sampling_seed
from visdyn.evaluation.systems.editor_systems import EditorSystem, local_editor, remote_editor
from visdyn.evaluation.systems.outputs import Checkpoint, SystemImages
from visdyn.paths import expanded
from visdyn.pipeline.stage import Stage
from visdyn.training.runs import run_name, runs_in


def resolved_runs(
    stage: Stage, folder: str, requested: list[tuple[str, int]]
) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Return the runs below a folder of the profile, each sampled with its chain's seed, and those not there."""
    found = [
        checkpoint(stage, name, chain, str(path), f"{folder}/{path.name}")
        for name, chain, path in runs_in(stage.path(folder))
    ]
    known = {(run.name, run.chain) for run in found}
    absent = [
        checkpoint(stage, name, chain, "", f"{folder}/{run_name(name, chain)}")
        for name, chain in requested
        if (name, chain) not in known
    ]
    return found, absent


def checkpoint(stage: Stage, name: str, chain: int, path: str, shown: str) -> Checkpoint:
    """Return a chain's model that makes images, with the seed of what the chain's models draw."""
    return Checkpoint(name, chain, path, shown, sampling_seed(stage.seed, "images", chain))


def base_checkpoints(stage: Stage, name: str, base: str) -> list[Checkpoint]:
    """Return the models before their last fine-tuning, in every chain that has its own."""
    return [checkpoint(stage, name, chain, path, base) for chain, path in stage.in_chains(expanded(base))]


def of_first_chain(stage: Stage, systems: Sequence[SystemImages]) -> list[SystemImages]:
    """Return systems that no chain draws (copies, editors, images made elsewhere) under the first chain."""
    return [replace(one, chain=stage.chains[0]) for one in systems]


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
