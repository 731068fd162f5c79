"""Probing many models one after the other, resumable: a finished model's rows are kept while the stage is not done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from visdyn.compute.gpus import map_gpus
from visdyn.compute.progress import Progress, say
from visdyn.inference.probing import COLUMNS, probe, supported_definitions
from visdyn.models import load_model
from visdyn.models.token.unified import UnifiedModel
from visdyn.params.probing import Probing
from visdyn.params.prompts import Prompts
from visdyn.paths import write_atomically
from visdyn.pipeline.stage import Stage
from visdyn.readers import read_frame
from visdyn.training.runs import run_name
from visdyn.trajectory import Trajectory


def probe_models(stage: Stage, trajectories: list[Trajectory]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Probe every model of `probing.models`, as the section's other parameters say.

    A model that has a run in each chain is probed in each (`Stage.in_chains`); where there are several GPUs, each takes
    one model after another. Rows of a finished model lie in the stage's scratch folder until the stage has succeeded. A
    model that cannot be loaded is listed with its reason (`visdyn.models.strict_load` turns whatever a library raises
    into it), and the others are probed; so is one of which no likelihood is a number.

    Returns:
        likelihoods: the table of `probe` for all models (no rows where none was found).
        missing: columns model, reason.
    """
    settings, folder, tables, missing = stage.settings, stage.scratch("likelihoods"), [], []
    options = stage.params, settings.prompts, stage.seed, stage.device, settings.runtime.log_seconds
    jobs = [
        _Job(label, chain, reference, folder / f"{run_name(label.replace('/', '--'), chain)}.csv", *options)
        for label, name in labels(stage.params.models).items()
        for chain, reference in stage.in_chains(name)
    ]
    # On cores one after another, with all of a stage's threads and one model's memory.
    for job, reason in zip(jobs, map_gpus(_probe_model, jobs, trajectories, processes=1), strict=True):
        if not reason:
            table = read_rows(job.path)
            if unknown := int(table["log_likelihood"].isna().sum()):
                say(f"probing {job.label}: {unknown} of {len(table)} likelihoods are no numbers, and stay unmeasured")
            if unknown < len(table):
                tables.append(table)
                continue
            reason = "none of its likelihoods is a finite number"
        missing.append({"model": job.label, "reason": reason})
    likelihoods = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
    return likelihoods, pd.DataFrame(missing, columns=["model", "reason"]).drop_duplicates()


def labels(names: Sequence[str]) -> dict[str, str]:
    """Name each model by the last parts of its path or hub id that tell it apart; a repeated one counts once."""
    parts = {name: name.rstrip("/").split("/") for name in dict.fromkeys(names)}
    found = {}
    for name, own in parts.items():
        others = [other for key, other in parts.items() if key != name]
        count = next((n for n in range(1, len(own)) if all(own[-n:] != other[-n:] for other in others)), len(own))
        found["/".join(own[-count:])] = name
    return found


def write_rows(table: pd.DataFrame, path: Path) -> None:
    """Write rows that `read_rows` gives back bit for bit; a file is there wholly or not at all."""
    floats = {name: table[name].astype(float) for name in table.select_dtypes("float").columns}
    write_atomically(path, table.assign(**floats).to_csv(index=False).encode())


def read_rows(path: Path) -> pd.DataFrame:
    """Read what `write_rows` wrote; ids stay text."""
    texts = {"id": str, "subset": str, "model": str}
    return read_frame(path, dtype=texts, float_precision="round_trip", keep_default_na=False, na_values=[""])


@dataclass(frozen=True)
class _Job:
    """One model of one chain; pickled to the process that probes it. Its rows go to `path`."""

    label: str
    chain: int
    reference: str
    path: Path
    settings: Probing
    prompts: Prompts
    seed: int
    device: str
    log_seconds: float


def _probe_model(trajectories: list[Trajectory], job: _Job) -> str:
    """Write a model's rows where they are not there yet; return why it cannot be loaded, or nothing."""
    if job.path.is_file():
        return ""
    settings, label = job.settings, job.label
    options = {"batch_size": settings.batch_size, "prompts": job.prompts}
    try:
        model = load_model(job.reference, device=job.device, **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        say(f"probing {label}: left out, {reason}")
        return reason
    if isinstance(model, UnifiedModel):
        model.shared_prefixes = settings.shared_prefixes
    left_out = [name for name in settings.definitions if not supported_definitions(model, [name])]
    if left_out:
        say(f"probing {label}: a model of its kind has no {', '.join(left_out)}")
    report = Progress(f"probing {label}", len(trajectories), job.log_seconds).add
    definitions, draws = settings.definitions, settings.draws
    write_rows(probe(model, trajectories, job.seed, label, definitions, draws, report, job.chain), job.path)
    return ""
