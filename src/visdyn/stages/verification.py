"""Verification of every FDM run: candidates drawn, kept and scored by both models; resumable in parts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.compute.gpus import map_gpus
from visdyn.compute.progress import Progress
from visdyn.compute.seeds import sampling_seed
from visdyn.inference.candidates import FOLDER, KEYS, VERIFIERS, keep_candidates
from visdyn.inference.verification import score_actions, score_candidates_in_parts
from visdyn.models import load_model
from visdyn.models.dynamics_pair import load_dynamics
from visdyn.models.token.unified import TokenForwardDynamics
from visdyn.params.prompts import SENTENCES, Prompts
from visdyn.params.verification import Verification
from visdyn.pipeline.stage import Stage
from visdyn.training.runs import run_name
from visdyn.trajectory import Trajectory

COLUMNS = [*KEYS, "candidate", *VERIFIERS.values()]
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
    rivals: dict[str, str] = field(default_factory=dict)
    prompts: Prompts = SENTENCES  # of a rival that brings no words


def candidate_tables(stage: Stage, runs: Sequence[tuple[str, int, Path]], items: Sequence[Trajectory]) -> pd.DataFrame:
    """Sample every FDM's candidates of every test item, keep them, and score them by both models and two controls.

    The images lie in data/generated/candidates (`inference/candidates.py`), where stage `evaluation` judges them.
    Where the FDM and the IDM are adapters of one base, the base is loaded once.

    Args:
        runs: (arm, chain, folder) of the FDMs; each is verified by its own chain's IDM.

    Returns:
        verification/candidates.csv.
    """
    # Controls of the IDM; the column of one that is not trained stays empty.
    rivals = {"zero_shot": stage.settings.idm.base}
    rivals |= {"idm_same_labels": "models/idm_same_labels"} if stage.settings.idm.same_labels else {}
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
            prompts=stage.settings.prompts,
            rivals={name: stage.reference(folder, run[1]) for name, folder in rivals.items()},
        )
        for run in runs
        for draw in range(stage.params.repeats)
    ]
    return pd.concat(map_gpus(_candidate_table, jobs, items), ignore_index=True)[COLUMNS]


def _candidate_table(items: Sequence[Trajectory], job: _Job) -> pd.DataFrame:
    settings = job.settings
    options = {"batch_size": settings.batch_size, "shared_prefixes": settings.shared_prefixes}
    forward, inverse = load_dynamics(job.folder, job.idm, job.device, **options)
    if isinstance(forward, TokenForwardDynamics):  # another model samples as it was written to
        forward = replace(forward, decoding=settings.decoding, block=settings.block, **asdict(settings.sampling))
    k, part = max(settings.candidates), _BATCHES_IN_A_PART * settings.batch_size
    progress = Progress(f"{run_name(job.arm, job.chain)}: {k} candidates an item", len(items), job.log_seconds)
    scored = score_candidates_in_parts(forward, inverse, items, k, job.seed, job.scratch, part, progress.add)
    keep_candidates(job.kept, job.arm, job.chain, job.draw, items, scored.images)
    keys = {"subset": [item.subset for item in items], "id": [item.id for item in items]}
    said = dict.fromkeys(VERIFIERS, np.full((len(items), k), np.nan))
    said |= {"idm": scored.inverse, "likelihood": scored.forward}
    del forward, inverse  # at full size there is no room for a third
    for name, folder in job.rivals.items():
        rival = load_model(folder, "idp", job.device, prompts=job.prompts, **options)
        parts = [slice(start, start + part) for start in range(0, len(items), part)]
        codes = [None if scored.codes is None else scored.codes[at] for at in parts]
        said[name] = np.concatenate(
            [score_actions(rival, items[at], scored.images[at], own) for at, own in zip(parts, codes, strict=True)]
        )
    tables = [
        pd.DataFrame(keys).assign(
            candidate=index, **{column: said[name][:, index] for name, column in VERIFIERS.items()}
        )
        for index in range(k)
    ]
    return pd.concat(tables, ignore_index=True).assign(arm=job.arm, chain=job.chain, draw=job.draw)
