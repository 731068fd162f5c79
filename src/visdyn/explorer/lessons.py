"""What the notebooks of `notebooks/learn` measure: likelihoods as preferences, weights on a change, verifiers ranked.

Each function answers one question of a lesson with the kit's own functions, on the models that are open (a profile's,
or its pack's) or on the profile's results. Intervals are over chains and items, as those of the claims.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
import torch

from visdyn.evaluation.chains import Estimate, estimate_over_chains
from visdyn.evaluation.measurements import SELECTORS, best_of_k
from visdyn.evaluation.metrics.region_judge import changed_regions
from visdyn.explorer.asks import token_log_likelihoods, token_model
from visdyn.explorer.opened import Opened
from visdyn.images import to_array
from visdyn.inference.candidates import KEYS, VERIFIERS
from visdyn.reporting.ledger import printed_rows, read_ledger
from visdyn.reporting.summaries import preference_pairs
from visdyn.training.losses import normalise_weights, recognition_weights
from visdyn.trajectory import Trajectory

LEDGER = "reports/claims.csv"


def estimate_preferences(likelihoods: pd.DataFrame, model: str = "base") -> pd.DataFrame:
    """Return how often a model finds the real trajectory likelier, by task and kind of negative.

    Args:
        likelihoods: rows of `probing/likelihoods.csv`; each chain answers the same items.

    Returns:
        columns task, kind, estimate, low, high (shares), chains, n.
    """
    pairs = preference_pairs(likelihoods[likelihoods["model"] == model])
    pairs = pairs.assign(preferred=(pairs["reference"] > pairs["negative"]).astype(float))
    rows = []
    for (task, kind), own in pairs.groupby(["task", "kind"]):
        rows.append({"task": task, "kind": kind, **_numbers(_over_chains(own, "preferred"))})
    return pd.DataFrame(rows)


def weigh_items(opened: Opened, name: str, items: Sequence[Trajectory], floor: float = 0.0) -> np.ndarray:
    """Return the recognition weights (Bootstrapping, Eq. 2) of items by an arm's image tokenizer, float32 (N, L)."""
    model = token_model(opened, name).model
    with torch.inference_mode():
        before, after = (
            model.vqgan.features(model.pixels([getattr(item, end) for item in items]).to(model.vqgan.device))
            for end in ("source", "target")
        )  # (N, C, h, w)
        return recognition_weights(before, after, floor).cpu().numpy()


def cover_change(items: Sequence[Trajectory], side: int) -> np.ndarray:
    """Return how much of each image token's place truly changed, float (N, side * side) in [0, 1].

    Changed is what the region judge calls so, on the images' own pixels.
    """
    sources, targets = (to_array([getattr(item, end) for item in items]) for end in ("source", "target"))
    changed = changed_regions(sources, targets)  # (N, H, W)
    count, height, width = changed.shape
    blocks = changed.reshape(count, side, height // side, side, width // side)
    return blocks.mean(axis=(2, 4)).reshape(count, side * side)


def share_inside(weights: np.ndarray, inside: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """Return the share of each image's weight that lies where it changed, float (N,).

    Args:
        weights: (N, L), recognition weights without a floor.
        inside: (N, L), from `cover_change`.
        floor: the uniform part that is mixed in.
    """
    mixed = normalise_weights(torch.as_tensor(weights), floor).numpy()
    return (mixed * inside).sum(1) / mixed.sum(1)


def compare_by_place(
    opened: Opened, name: str, other: str, items: Sequence[Trajectory], inside: np.ndarray
) -> pd.DataFrame:
    """Return how much likelier an arm finds the true image's tokens than another arm does, where it changed and not.

    Returns:
        an item a row: subset, id, changed, unchanged (mean difference in nats a token, tokens weighed by how much of
        their place changed, or did not).
    """
    models = [token_model(opened, one).model for one in (name, other)]
    rows = []
    for item, change in zip(items, inside, strict=True):
        own, rival = (token_log_likelihoods(model, item.source, item.action, item.target).ravel() for model in models)
        means = {place: float(np.average(own - rival, weights=share))
                 for place, share in (("changed", change), ("unchanged", 1 - change)) if share.any()}  # fmt: skip
        rows.append({"subset": item.subset, "id": item.id, **means})
    return pd.DataFrame(rows)


def gain_of_choosing(candidates: pd.DataFrame, k: int, metric: str = "score") -> pd.DataFrame:
    """Return by how much the best of K by each verifier is better than a sample at random.

    Args:
        candidates: of one arm, from `measurements.with_scores`.

    Returns:
        columns selector, estimate, low, high, chains, n.
    """
    chance, rows = best_of_k(candidates, "random", [k], metric)[k], []
    for selector in (name for name in SELECTORS if name != "random"):
        gains = (best_of_k(candidates, selector, [k], metric)[k] - chance).rename("gain").reset_index()
        rows.append({"selector": selector, **_numbers(_over_chains(gains, "gain"))})
    return pd.DataFrame(rows)


def rank_with_judge(candidates: pd.DataFrame, metric: str = "score") -> pd.DataFrame:
    """Return how well each verifier orders an item's candidates: the rank correlation with a metric, mean over items.

    An item whose candidates are all alike to the verifier or to the metric has an order of neither: it counts 0.

    Returns:
        columns selector, estimate, low, high, chains, n.
    """
    rows = []
    for selector, column in VERIFIERS.items():
        ranks = candidates.groupby(KEYS)[[column, metric]].rank()
        table = candidates[KEYS].assign(one=ranks[column], two=ranks[metric])
        items = table.groupby(KEYS).apply(_correlate).rename("correlation").reset_index()
        rows.append({"selector": selector, **_numbers(_over_chains(items, "correlation"))})
    return pd.DataFrame(rows)


def describe_side(row: pd.Series, neutral: float, digits: int = 2) -> str:
    """Say an estimate with its interval, and on which side of a neutral value that lies.

    Args:
        row: with `estimate`, `low` and `high`.
    """
    if row["low"] > neutral:
        side = "above"
    elif row["high"] < neutral:
        side = "below"
    else:
        side = "not told apart from"
    return f"{row['estimate']:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f}): {side} {neutral:g}"


def read_verdicts(opened: Opened, names: Collection[str]) -> pd.DataFrame:
    """Return the profile's ledger of some claims, as it is printed; what was not measured is left out."""
    ledger = read_ledger(opened.stage.root / LEDGER)
    return printed_rows(ledger[ledger["id"].isin(list(names))], measured_only=True, notes=False)


def _correlate(group: pd.DataFrame) -> float:
    if group["one"].nunique() < 2 or group["two"].nunique() < 2:
        return 0.0
    return float(np.corrcoef(group["one"], group["two"])[0, 1])


def _over_chains(items: pd.DataFrame, column: str) -> Estimate:
    wide = items.pivot_table(index="chain", columns=["subset", "id"], values=column)  # the mean over draws
    return estimate_over_chains(wide.to_numpy(), list(wide.columns))


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {"estimate": estimate.value, "low": estimate.low, "high": estimate.high, "chains": estimate.chains,
            "n": estimate.n}  # fmt: skip
