"""Verification of every FDM run: candidates drawn, scored by both models and judged; resumable in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.compute.pool import map_processes
from visdyn.compute.progress import Progress, say
from visdyn.compute.seeds import sampling_seed
from visdyn.images import stacked
from visdyn.inference.verification import Candidates, score_candidates_in_parts
from visdyn.models.dynamics_pair import load_dynamics
from visdyn.params.verification import Verification
from visdyn.pipeline.stage import Stage
from visdyn.training.runs import run_name

JUDGED = ("editing_success", "minimal_editing", "score", "success")
COLUMNS = ["arm", "chain", "subset", "id", "candidate", "idm_log_likelihood", "fdm_log_likelihood", *JUDGED]
_BATCHES_IN_A_PART = 4


@dataclass(frozen=True)
class _Job:
    """One FDM with the IDM that verifies it; pickled to the process that runs it."""

    arm: str
    chain: int
    folder: Path
    idm: str
    seed: int
    scratch: Path
    settings: Verification
    device: str
    log_seconds: float
    must_judge: bool


def candidate_tables(stage: Stage, runs: Sequence[tuple[str, int, Path]], evaluation) -> pd.DataFrame:
    """Sample, score and judge the candidates of every test item with every FDM: verification/candidates.csv.

    With real data there may be no judge that knows the truth: then its columns are empty, and the log says why. Where
    the FDM and the IDM are adapters of one base, the base is loaded once.

    Args:
        runs: (arm, chain, folder) of the FDMs; each is verified by its own chain's IDM.
        evaluation: a `visdyn.evaluation.benches.bench_aurora.ForwardEvaluation`.
    """
    jobs = [
        _Job(
            *run,
            idm=stage.reference("models/idm", run[1]),
            seed=sampling_seed(stage.seed, "candidates", run[1]),
            scratch=stage.scratch(f"candidates/{run_name(*run[:2])}"),
            settings=stage.params,
            device=stage.device,
            log_seconds=stage.settings.runtime.log_seconds,
            must_judge=stage.kitchen is not None,
        )
        for run in runs
    ]
    return pd.concat(map_processes(_candidate_table, jobs, evaluation), ignore_index=True)[COLUMNS]


def _candidate_table(evaluation, job: _Job) -> pd.DataFrame:
    settings, items = job.settings, evaluation.trajectories
    options = {"batch_size": settings.batch_size, "shared_prefixes": settings.shared_prefixes}
    forward, inverse = load_dynamics(job.folder, job.idm, job.device, **options)
    drawn = asdict(settings.sampling)
    forward = replace(forward, decoding=settings.decoding, block=settings.block, **drawn)
    k, part = max(settings.candidates), _BATCHES_IN_A_PART * settings.batch_size
    progress = Progress(f"{run_name(job.arm, job.chain)}: {k} candidates an item", len(items), job.log_seconds)
    scored = score_candidates_in_parts(forward, inverse, items, k, job.seed, job.scratch, part, progress.add)
    tables = [_one_candidate(evaluation, job, scored, index) for index in range(k)]
    return pd.concat(tables, ignore_index=True)


def _one_candidate(evaluation, job: _Job, scored: Candidates, index: int) -> pd.DataFrame:
    judged = _judged(evaluation, stacked([row[index] for row in scored.images]), job.must_judge)
    own = {"idm_log_likelihood": scored.inverse[:, index], "fdm_log_likelihood": scored.forward[:, index]}
    return judged.assign(arm=job.arm, chain=job.chain, candidate=index, **own)


def _judged(evaluation, images: np.ndarray, must: bool) -> pd.DataFrame:
    try:
        return evaluation.judge(images)
    except ValueError as error:  # images of a geometry that the judge cannot compare with the target
        if must:
            raise
        say(f"verification: the candidates are not judged, {' '.join(str(error).split())}")
        items = evaluation.trajectories
        keys = {"subset": [item.subset for item in items], "id": [item.id for item in items]}
        return pd.DataFrame(keys).assign(**dict.fromkeys(JUDGED, np.nan))
