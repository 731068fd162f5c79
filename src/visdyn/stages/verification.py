"""Verification of every FDM run: candidates drawn, kept and scored by both models; resumable in parts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from visdyn.compute.pool import map_processes
from visdyn.compute.progress import Progress
from visdyn.compute.seeds import sampling_seed
from visdyn.inference.candidates import FOLDER, keep_candidates
from visdyn.inference.verification import score_candidates_in_parts
from visdyn.models.dynamics_pair import load_dynamics
from visdyn.params.verification import Verification
from visdyn.pipeline.stage import Stage
from visdyn.training.runs import run_name
from visdyn.trajectory import Trajectory

COLUMNS = ["arm", "chain", "draw", "subset", "id", "candidate", "idm_log_likelihood", "fdm_log_likelihood"]
_BATCHES_IN_A_PART = 4


@dataclass(frozen=True)
class _Job:
    """One draw of one FDM with the IDM that verifies it; pickled to the process that runs it."""

    arm: str
    chain: int
    folder: Path
    draw: int
    idm: str
    seed: int
    scratch: Path
    kept: Path
    settings: Verification
    device: str
    log_seconds: float


def candidate_tables(stage: Stage, runs: Sequence[tuple[str, int, Path]], items: Sequence[Trajectory]) -> pd.DataFrame:
    """Sample the candidates of every test item with every FDM, keep them, and score them by both models.

    The images lie in data/generated/candidates (`inference/candidates.py`), where stage `evaluation` judges them.
    Where the FDM and the IDM are adapters of one base, the base is loaded once.

    Args:
        runs: (arm, chain, folder) of the FDMs; each is verified by its own chain's IDM.

    Returns:
        verification/candidates.csv.
    """
    kept = stage.path(FOLDER)
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    jobs = [
        _Job(
            *run,
            draw=draw,
            idm=stage.reference("models/idm", run[1]),
            seed=sampling_seed(stage.seed, f"candidates/{draw}" if draw else "candidates", run[1]),
            scratch=stage.scratch(f"candidates/{run_name(*run[:2])}/{draw}"),
            kept=kept,
            settings=stage.params,
            device=stage.device,
            log_seconds=stage.settings.runtime.log_seconds,
        )
        for run in runs
        for draw in range(stage.params.repeats)
    ]
    return pd.concat(map_processes(_candidate_table, jobs, items), ignore_index=True)[COLUMNS]


def _candidate_table(items: Sequence[Trajectory], job: _Job) -> pd.DataFrame:
    settings = job.settings
    options = {"batch_size": settings.batch_size, "shared_prefixes": settings.shared_prefixes}
    forward, inverse = load_dynamics(job.folder, job.idm, job.device, **options)
    drawn = asdict(settings.sampling)
    forward = replace(forward, decoding=settings.decoding, block=settings.block, **drawn)
    k, part = max(settings.candidates), _BATCHES_IN_A_PART * settings.batch_size
    progress = Progress(f"{run_name(job.arm, job.chain)}: {k} candidates an item", len(items), job.log_seconds)
    scored = score_candidates_in_parts(forward, inverse, items, k, job.seed, job.scratch, part, progress.add)
    keep_candidates(job.kept, job.arm, job.chain, job.draw, items, scored.images)
    keys = {"subset": [item.subset for item in items], "id": [item.id for item in items]}
    tables = [
        pd.DataFrame(keys).assign(
            candidate=index, idm_log_likelihood=scored.inverse[:, index], fdm_log_likelihood=scored.forward[:, index]
        )
        for index in range(k)
    ]
    return pd.concat(tables, ignore_index=True).assign(arm=job.arm, chain=job.chain, draw=job.draw)
