"""Test-time verification: of K sampled images, keep the one from which the IDM best reads the action (section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from visdyn.compute.store import Store, from_arrays, to_arrays
from visdyn.images import ImageRef, stacked
from visdyn.inference.candidates import KEYS, verifiers_of
from visdyn.inference.generation import generate, restore_geometry
from visdyn.models.protocols import ForwardDynamics, InverseDynamics
from visdyn.models.token.unified import TokenInverseDynamics
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
    """Sample `k` next images and keep the one with the highest IDM likelihood of the action (Bootstrapping, 3.3).

    The verification stage does the same for many items at a time: `score_candidates` draws and scores,
    `select_best_candidates` keeps.

    Raises:
        ValueError: `k` below 1, or no candidate has a likelihood that is a number.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    candidates = forward_model.sample(source, action, k, generator)
    rewards = inverse_model.log_likelihood([source] * k, candidates, [action] * k)
    if not torch.isfinite(rewards).any():
        raise ValueError(f"none of the {k} candidates' likelihoods is a finite number; nothing can be chosen by them")
    index = choose_best(rewards.cpu().numpy())
    return Verified(candidates[index], index, rewards)


def choose_best(rewards: np.ndarray) -> int:
    """Return the index of the largest of the rewards (K,); ties go to the first.

    An unknown reward (NaN: a judge that cannot be applied) counts as the least.
    """
    return int(np.argmax(np.nan_to_num(rewards, nan=-np.inf, posinf=np.inf, neginf=-np.inf)))


@dataclass(frozen=True)
class Candidates:
    """K candidates of N trajectories with both models' opinions.

    Attributes:
        images: as of `visdyn.inference.generation.generate`, in their sources' geometry.
        codes: int64 (N, K, h, w); None of an FDM without image tokens.
        inverse: float32 (N, K), log p_IDM(a | o_s, candidate), mean nats per action token.
        forward: float32 (N, K), log p_FDM(candidate | o_s, a), mean nats per image token.
    """

    images: np.ndarray
    codes: np.ndarray | None
    inverse: np.ndarray
    forward: np.ndarray


def score_candidates(
    forward_model: ForwardDynamics,
    inverse_model: InverseDynamics,
    trajectories: Sequence[Trajectory],
    k: int,
    seed: int,
) -> Candidates:
    """Sample `k` candidates for every trajectory and score each with the IDM and with the FDM itself.

    The IDM sees the decoded image, encoded again, as a user's verifier would. An item's candidates share one prefill
    and decode as one batch; with `shared_prefixes` the IDM computes the item's source once for all of them. Equal
    candidates of an item are one image, which is scored once. A model without image tokens is asked for its
    log-likelihoods, as `models.protocols` has them.
    """
    images, codes = generate(forward_model, trajectories, k, seed)
    inverse = score_actions(inverse_model, trajectories, images, codes)
    rows, first, copies = _find_distinct(images, codes)
    actions = [trajectories[row].action for row in rows]
    if codes is None:
        sources = [trajectories[row].source for row in rows]
        forward = forward_model.log_likelihood(sources, actions, _flatten(images, first))
    else:
        sources = forward_model.model.encode([item.source for item in trajectories])
        distinct = codes.reshape(-1, *codes.shape[2:])[first]  # (D, h, w)
        forward = forward_model.score_codes(sources[rows], actions, distinct).mean
    return Candidates(images, codes, inverse, forward.cpu().numpy()[copies].reshape(images.shape[:2]))


def score_actions(
    inverse_model: InverseDynamics,
    trajectories: Sequence[Trajectory],
    images: np.ndarray,
    codes: np.ndarray | None = None,
) -> np.ndarray:
    """Return log p(a | o_s, candidate) of every candidate by any model that reads actions, float32 (N, K).

    Args:
        images: of the candidates, as of `Candidates`; they are encoded again, for a verifier sees images.
        codes: of the FDM that drew them (N, K, h, w); equal ones of an item are one image, which is scored once. None:
            every image is scored.
    """
    rows, first, copies = _find_distinct(images, codes)
    actions, distinct = [trajectories[row].action for row in rows], _flatten(images, first)
    if isinstance(inverse_model, TokenInverseDynamics):
        sources = inverse_model.model.encode([item.source for item in trajectories])
        seen = inverse_model.model.encode(distinct)  # (D, h, w)
        means = inverse_model.score_codes(sources[rows], seen, actions).mean
    else:
        means = inverse_model.log_likelihood([trajectories[row].source for row in rows], distinct, actions)
    return means.cpu().numpy()[copies].reshape(images.shape[:2])


def _flatten(images: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
    """Return the images at `places` of all candidates, item by item."""
    flat = [image for row in images for image in row]
    return [flat[place] for place in places]


def _find_distinct(images: np.ndarray, codes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the D distinct candidates, by their codes: their items, first places, and whose copy each place is."""
    rows = np.arange(len(images)).repeat(images.shape[1])
    if codes is None:
        return rows, np.arange(len(rows)), np.arange(len(rows))
    # Item-major, as `generate` orders its images: distinct rows of (N * K, 1 + h * w), the item's number first
    named = np.column_stack([rows, codes.reshape(len(rows), -1)])
    _, first, copies = np.unique(named, axis=0, return_index=True, return_inverse=True)
    return rows[first], first, copies


def score_candidates_in_parts(
    forward_model: ForwardDynamics,
    inverse_model: InverseDynamics,
    trajectories: Sequence[Trajectory],
    k: int,
    seed: int,
    folder: Path,
    items: int,
    report: Callable[[int], None] | None = None,
) -> Candidates:
    """As `score_candidates`, `items` trajectories at a time; finished parts lie in `folder` and are not drawn again.

    Codes are kept, not images: a resumed run decodes them again, and they take a five-hundredth of the room. Of a model
    without image tokens the images themselves are kept.
    """
    parts, store = [], Store(folder / "candidates.sqlite")
    for start in range(0, len(trajectories), items):
        part, key = trajectories[start : start + items], f"{start:06d}-{k}"
        if kept := store.get(key):
            scored = _unpack_candidates(kept, forward_model, part, k)
        else:
            scored = score_candidates(forward_model, inverse_model, part, k, seed)
            store.put(key, _pack_candidates(scored))
        parts.append(scored)
        if report:
            report(len(part))
    images = [image for part in parts for row in part.images for image in row]
    codes = None if parts[0].codes is None else np.concatenate([part.codes for part in parts])
    inverse, forward = (np.concatenate([getattr(part, name) for part in parts]) for name in ("inverse", "forward"))
    flat = stacked(images)
    return Candidates(flat.reshape(len(trajectories), k, *flat.shape[1:]), codes, inverse, forward)


def _pack_candidates(scored: Candidates) -> bytes:
    if scored.codes is not None:
        return to_arrays(codes=scored.codes, inverse=scored.inverse, forward=scored.forward)
    images = {f"image_{place}": image for place, image in enumerate(image for row in scored.images for image in row)}
    return to_arrays(**images, inverse=scored.inverse, forward=scored.forward)


def _unpack_candidates(value: bytes, model: ForwardDynamics, part: Sequence[Trajectory], k: int) -> Candidates:
    arrays = from_arrays(value)
    if "codes" in arrays:
        return Candidates(restore_geometry(model.model, part, arrays["codes"]), **arrays)
    flat = stacked([arrays[f"image_{place}"] for place in range(len(part) * k)])
    images = flat.reshape(len(part), k, *flat.shape[1:])
    return Candidates(images, None, arrays["inverse"], arrays["forward"])


def select_best_candidates(candidates: pd.DataFrame, k: int, column: str) -> pd.DataFrame:
    """Return the row of each item's first `k` candidates that `choose_best` takes by `column`.

    Args:
        candidates: rows of `verification/candidates.csv`.
    """
    drawn = candidates[candidates["candidate"] < k].sort_values([*KEYS, "candidate"]).reset_index(drop=True)
    return drawn.loc[[rewards.index[choose_best(rewards.to_numpy())] for _, rewards in drawn.groupby(KEYS)[column]]]


def agreement(candidates: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """Return how often a verifier chooses, of the first K candidates, the one that the IDM chooses.

    Args:
        candidates: rows of `verification/candidates.csv`.

    Returns:
        columns arm, chain, k, verifier (`VERIFIERS` without the IDM, and `random`: 1 / K), share (of items).
    """
    parts = []
    for k in ks:
        told = verifiers_of(candidates)
        chosen = {name: select_best_candidates(candidates, k, column) for name, column in told.items()}
        own = chosen["idm"][["arm", "chain"]].reset_index(drop=True)
        same = {
            name: (rows["candidate"].to_numpy() == chosen["idm"]["candidate"].to_numpy()).astype(float)
            for name, rows in chosen.items()
            if name != "idm"
        }
        for name, share in {**same, "random": np.full(len(own), 1 / k)}.items():
            means = own.assign(share=share).groupby(["arm", "chain"])["share"].mean().reset_index()
            parts.append(means.assign(k=k, verifier=name))
    return pd.concat(parts, ignore_index=True)[["arm", "chain", "k", "verifier", "share"]]
