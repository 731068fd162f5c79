"""Test-time verification: of K sampled images, keep the one from which the IDM best reads the action (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from visdyn.images import ImageRef
from visdyn.inference.generation import generate
from visdyn.models import load_model
from visdyn.models.protocols import ForwardDynamics, InverseDynamics
from visdyn.models.unified import TokenForwardDynamics, TokenInverseDynamics
from visdyn.parallel import map_processes
from visdyn.trajectory import Trajectory


@dataclass(frozen=True)
class Verified:
    """The chosen image, its index, and the reward of every candidate.

    Attributes:
        image: uint8 (H, W, 3).
        index: of the chosen candidate.
        rewards: float32 (K,), log p_IDM(a | o_s, candidate), mean nats per token.
    """

    image: np.ndarray
    index: int
    rewards: torch.Tensor


def best_of_k(
    forward_model: ForwardDynamics,
    inverse_model: InverseDynamics,
    source: ImageRef,
    action: str,
    k: int,
    generator: torch.Generator | None = None,
) -> Verified:
    """Sample `k` next images and keep the one with the highest IDM likelihood of the action; ties go to the first."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    candidates = forward_model.sample(source, action, k, generator)
    rewards = inverse_model.log_likelihood([source] * k, candidates, [action] * k)
    index = int(rewards.argmax())
    return Verified(candidates[index], index, rewards)


@dataclass(frozen=True)
class Candidates:
    """K candidates of N trajectories with both models' opinions.

    Attributes:
        images: uint8 (N, K, H, W, 3).
        inverse: float32 (N, K), log p_IDM(a | o_s, candidate), mean nats per action token.
        forward: float32 (N, K), log p_FDM(candidate | o_s, a), mean nats per image token.
    """

    images: np.ndarray
    inverse: np.ndarray
    forward: np.ndarray


def score_candidates(
    forward_model: TokenForwardDynamics,
    inverse_model: TokenInverseDynamics,
    trajectories: Sequence[Trajectory],
    k: int,
    seed: int,
) -> Candidates:
    """Sample `k` candidates for every trajectory and score each with the IDM and with the FDM itself.

    The IDM sees the decoded image, encoded again, as a user's verifier would.
    """
    images, codes = generate(forward_model, trajectories, k, seed)
    sources = forward_model.model.encode([item.source for item in trajectories]).repeat(k, 0)
    actions = [item.action for item in trajectories for _ in range(k)]
    flat = images.reshape(-1, *images.shape[2:])
    inverse_sources = inverse_model.model.encode([item.source for item in trajectories]).repeat(k, 0)
    inverse = inverse_model.score_codes(inverse_sources, inverse_model.model.encode(list(flat)), actions)
    forward = forward_model.score_codes(sources, actions, codes.reshape(-1, *codes.shape[2:]))
    shape = images.shape[:2]
    return Candidates(images, inverse.mean.numpy().reshape(shape), forward.mean.numpy().reshape(shape))


def candidate_tables(runs: Sequence[tuple[str, int, Path]], idm: Path, evaluation, k: int) -> pd.DataFrame:
    """Sample, score and judge `k` candidates of every test item with every FDM: verification/candidates.csv.

    Args:
        runs: (arm, seed, folder) of the FDMs.
        idm: folder of the IDM.
        evaluation: a `visdyn.evaluation.forward.ForwardEvaluation`.
    """
    tables = map_processes(_candidate_table, [(*run, idm, k) for run in runs], evaluation)
    return pd.concat(tables, ignore_index=True)


def _candidate_table(evaluation, run: tuple[str, int, Path, Path, int]) -> pd.DataFrame:
    arm, seed, folder, idm, k = run
    models = load_model(folder, "fdp"), load_model(idm, "idp")
    candidates = score_candidates(*models, evaluation.trajectories, k, seed)
    tables = []
    for index in range(k):
        judged = evaluation.judge(candidates.images[:, index]).drop(columns="copied")
        own = {"idm_log_likelihood": candidates.inverse[:, index], "fdm_log_likelihood": candidates.forward[:, index]}
        tables.append(judged.assign(arm=arm, seed=seed, candidate=index, **own))
    return pd.concat(tables, ignore_index=True)


KEYS = ["arm", "seed", "subset", "id"]


def chosen(candidates: pd.DataFrame, k: int, column: str) -> pd.DataFrame:
    """Return the row of each item's first `k` candidates with the largest `column`; ties go to the first.

    Args:
        candidates: as `candidate_table` returns it, with `arm` and `seed`.
    """
    drawn = candidates[candidates["candidate"] < k].sort_values([*KEYS, "candidate"]).reset_index(drop=True)
    return drawn.loc[drawn.groupby(KEYS)[column].idxmax()]


def best_curves(candidates: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """Return the mean score of the best of the first K candidates, by who chooses (one draw; the report averages all).

    Args:
        candidates: as `candidate_table` returns it, with `arm` and `seed`.

    Returns:
        columns arm, seed, k, chosen_by (IDM, FDM, oracle, random), score.
    """
    judges = {"IDM": "idm_log_likelihood", "FDM": "fdm_log_likelihood", "oracle": "score"}
    tables = []
    for k in ks:
        picked = {name: chosen(candidates, k, column) for name, column in judges.items()}
        for name, rows in {**picked, "random": candidates[candidates["candidate"] < k]}.items():
            means = rows.groupby(["arm", "seed"])["score"].mean().reset_index()
            tables.append(means.assign(k=k, chosen_by=name))
    return pd.concat(tables, ignore_index=True)
