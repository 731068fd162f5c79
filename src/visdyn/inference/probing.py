"""Preference probing: does a model find real trajectories likelier than manipulated ones? (Bootstrapping, section 2)"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.images import ImageRef
from visdyn.models.unified import UnifiedModel
from visdyn.trajectory import NEGATIVE_KINDS, Trajectory, negatives

KINDS = ("reference", *NEGATIVE_KINDS)
TASKS = ("fdp", "idp")


def probe(model: UnifiedModel, trajectories: Sequence[Trajectory], seed: int, name: str | None = None) -> pd.DataFrame:
    """Score every trajectory and its four negatives as FDP (next image) and IDP (action).

    FDP uses definition D1: the mean log-probability of the target's image codes, renormalised over the image
    vocabulary. IDP is the mean log-probability of the action's tokens.

    Returns:
        columns model, definition, task, subset, id, kind, log_likelihood (mean nats per token), num_tokens.
    """
    codes = encode_once(model, trajectories)
    tables = []
    for kind in KINDS:
        items = list(trajectories) if kind == "reference" else negatives(trajectories, kind, seed)
        sources, targets = (
            np.stack([codes[_key(getattr(item, end))] for item in items]) for end in ("source", "target")
        )
        actions = [item.action for item in items]
        scores = {
            "fdp": model.forward_dynamics.score_codes(sources, actions, targets),
            "idp": model.inverse_dynamics.score_codes(sources, targets, actions),
        }
        for task in TASKS:
            columns = {
                "task": task,
                "subset": [item.subset for item in items],
                "id": [item.id for item in items],
                "kind": kind,
            }
            columns |= {"log_likelihood": scores[task].mean.numpy(), "num_tokens": scores[task].num_tokens.numpy()}
            tables.append(pd.DataFrame(columns))
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "definition", np.where(table["task"] == "fdp", "D1", "action"))
    table.insert(0, "model", name or model.name)
    return table


def encode_once(model: UnifiedModel, trajectories: Sequence[Trajectory]) -> dict[str | int, np.ndarray]:
    """Encode every image of the trajectories once, to int64 codes (h, w); keys are paths as text, or identities."""
    references = {_key(ref): ref for item in trajectories for ref in (item.source, item.target)}
    return dict(zip(references, model.encode(list(references.values())), strict=True))


def _key(ref: ImageRef) -> str | int:
    return str(ref) if isinstance(ref, str | Path) else id(ref)


def preferences(likelihoods: pd.DataFrame) -> pd.DataFrame:
    """Return, for each model, task and negative, how often the reference is strictly likelier.

    Returns:
        columns model, definition, task, kind, preferred (percent), ties (percent), n.
    """
    keys = ["model", "definition", "task", "subset", "id"]
    reference = likelihoods[likelihoods["kind"] == "reference"].set_index(keys)["log_likelihood"].rename("reference")
    rows = likelihoods[likelihoods["kind"] != "reference"].join(reference, on=keys)
    rows = rows.assign(
        preferred=rows["reference"] > rows["log_likelihood"], ties=rows["reference"] == rows["log_likelihood"]
    )
    grouped = rows.groupby(["model", "definition", "task", "kind"], sort=True)
    table = grouped[["preferred", "ties"]].mean() * 100
    return table.assign(n=grouped.size()).reset_index()
