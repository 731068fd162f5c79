"""Preference probing: does a model find real trajectories likelier than manipulated ones? (Bootstrapping, section 2)"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from visdyn.images import ImageRef
from visdyn.models.protocols import has_role, role_of
from visdyn.models.token.scoring import Scores
from visdyn.models.token.unified import UnifiedModel
from visdyn.models.understanding.understanding_model import DEFINITIONS, UnderstandingModel
from visdyn.trajectory import NEGATIVE_KINDS, Trajectory, negatives

KINDS = ("reference", *NEGATIVE_KINDS)
TASKS = ("fdp", "idp")
COLUMNS = ("model", "chain", "definition", "task", "subset", "id", "kind", "log_likelihood", "num_tokens")
AUTO, IMAGE_CODES, ACTION = "auto", "D1", "action"
OWN = "own"  # what a model of the user's own answers to `log_likelihood`
_DRAWN = ("random_action", "random_observation")

Row = tuple[str, Trajectory]  # kind and what is scored
Scored = dict[tuple[str, str], Scores]  # (task, definition)


def probe(
    model: Any,
    trajectories: Sequence[Trajectory],
    seed: int,
    name: str | None = None,
    definitions: Sequence[str] = (AUTO,),
    draws: int = 1,
    report: Callable[[int], None] | None = None,
    chain: int = 0,
) -> pd.DataFrame:
    """Score every trajectory and its four negatives as FDP (next image) and IDP (action).

    IDP is the mean log-probability of the action's tokens. FDP is one of several definitions, and each row says which:
    D1, the mean log-probability of the target's image codes renormalised over the image vocabulary, of a model that has
    one; D2, D2-target and D3 of the others (`visdyn.models.understanding.understanding_model`); `own`, whatever a model
    of your own answers.

    Args:
        model: a `UnifiedModel`, an `UnderstandingModel`, or anything in one or both roles of `visdyn.models.protocols`,
            which is asked in those that it has.
        definitions: of FDP; `auto` is D1 where there is an image vocabulary and D2 elsewhere. What a model does not
            have is left out (`supported_definitions` says what remains).
        draws: how many random actions and random observations meet each trajectory; draw k is of seed + k.
        report: called with the number of trajectories finished since its last call.
        chain: that the model belongs to. The negatives are part of the test set, the same in every chain.

    Returns:
        columns model, chain, definition, task, subset, id, kind, log_likelihood (mean nats per token; NaN where the
        model's answer is no finite number), num_tokens (NaN where the model does not say).

    Raises:
        ValueError: the model answers in neither role.
    """
    if isinstance(model, UnifiedModel):
        score = _make_token_scorer(model, trajectories)
    elif isinstance(model, UnderstandingModel):
        score = _make_understanding_scorer(model)
    else:
        score = _make_role_scorer(model)
    wanted = supported_definitions(model, definitions)
    rows, tables = _draw_negatives(trajectories, seed, draws), []
    for group, finished in _group_for_scoring(rows, model):
        for (task, definition), scores in score([item for _, item in group], wanted).items():
            tables.append(_make_table(group, task, definition, scores))
        if report and finished:
            report(finished)
    table = pd.concat(tables, ignore_index=True)
    name = name or getattr(model, "name", type(model).__name__)
    return table.assign(model=name, chain=chain)[list(COLUMNS)]


def supported_definitions(model: Any, definitions: Sequence[str]) -> tuple[str, ...]:
    """Return which of the definitions of next-observation likelihood a model has, `auto` resolved, without repeats.

    Raises:
        ValueError: a definition that no model has.
    """
    known = (AUTO, IMAGE_CODES, *DEFINITIONS)
    if unknown := [name for name in definitions if name not in known]:
        raise ValueError(f"unknown definition {unknown[0]!r} of next-observation likelihood; one of {', '.join(known)}")
    if isinstance(model, UnifiedModel):
        supported = (IMAGE_CODES,)
    else:
        supported = DEFINITIONS if isinstance(model, UnderstandingModel) else (OWN,)
    resolved = [supported[0] if name == AUTO else name for name in definitions]
    return tuple(dict.fromkeys(name for name in resolved if name in supported))


def _draw_negatives(trajectories: Sequence[Trajectory], seed: int, draws: int) -> dict[str, list[list[Trajectory]]]:
    """Return for each kind its draws, each a list in the order of the trajectories."""
    rows = {"reference": [list(trajectories)]}
    for kind in NEGATIVE_KINDS:
        count = draws if kind in _DRAWN else 1
        rows[kind] = [negatives(trajectories, kind, seed + draw) for draw in range(count)]
    return rows


def _group_for_scoring(rows: dict, model: Any) -> Iterator[tuple[list[Row], int]]:
    """Yield what is scored together, and how many trajectories are then finished.

    A reference and its negatives belong together where they share images or prefixes; scored plainly, sequences of like
    length do.
    """
    total = len(rows["reference"][0])
    # Kind by kind: sequences of one kind have like lengths, so that batches are padded little.
    if isinstance(model, UnifiedModel) and not model.shared_prefixes:
        lists = [(kind, items) for kind, drawn in rows.items() for items in drawn]
        for number, (kind, items) in enumerate(lists, 1):
            yield [(kind, item) for item in items], total if number == len(lists) else 0
        return
    size = getattr(model, "batch_size", 64)
    for start in range(0, total, size):
        at = slice(start, start + size)
        parts = [(kind, items[at]) for kind, drawn in rows.items() for items in drawn]
        # One trajectory's rows stand side by side, so that a batch needs few images.
        yield [(kind, items[row]) for row in range(len(parts[0][1])) for kind, items in parts], len(parts[0][1])


def _make_table(group: list[Row], task: str, definition: str, scores: Scores) -> pd.DataFrame:
    columns = {
        "definition": definition,
        "task": task,
        "subset": [item.subset for _, item in group],
        "id": [item.id for _, item in group],
        "kind": [kind for kind, _ in group],
    }
    means = scores.mean.numpy()
    means = np.where(np.isfinite(means), means, np.float32(np.nan))  # no number: unmeasured, an empty cell
    return pd.DataFrame(columns | {"log_likelihood": means, "num_tokens": scores.num_tokens.numpy()})


def _make_token_scorer(model: UnifiedModel, trajectories: Sequence[Trajectory]) -> Callable[..., Scored]:
    codes = encode_once(model, trajectories)

    def score_items(items: Sequence[Trajectory], definitions: Sequence[str]) -> Scored:
        sources, targets = (
            np.stack([codes[_image_key(getattr(item, end))] for item in items]) for end in ("source", "target")
        )
        actions = [item.action for item in items]
        forward = {("fdp", name): model.forward_dynamics.score_codes(sources, actions, targets) for name in definitions}
        return forward | {("idp", ACTION): model.inverse_dynamics.score_codes(sources, targets, actions)}

    return score_items


def _make_understanding_scorer(model: UnderstandingModel) -> Callable[..., Scored]:
    def score_items(items: Sequence[Trajectory], definitions: Sequence[str]) -> Scored:
        sources, actions, targets = ([getattr(item, part) for item in items] for part in ("source", "action", "target"))
        roles = {name: replace(model.forward_dynamics, definition=name) for name in definitions}
        forward = {("fdp", name): role.score(sources, actions, targets) for name, role in roles.items()}
        return forward | {("idp", ACTION): model.inverse_dynamics.score(sources, targets, actions)}

    return score_items


def _make_role_scorer(model: Any) -> Callable[..., Scored]:
    roles = {task: role_of(model, task) for task in TASKS if has_role(model, task)}
    if not roles:
        role_of(model, "fdp")  # says what is lacking

    def score_items(items: Sequence[Trajectory], definitions: Sequence[str]) -> Scored:
        sources, actions, targets = ([getattr(item, part) for item in items] for part in ("source", "action", "target"))
        said = {}
        if "fdp" in roles and OWN in definitions:
            said["fdp", OWN] = roles["fdp"].log_likelihood(sources, actions, targets)
        if "idp" in roles:
            said["idp", ACTION] = roles["idp"].log_likelihood(sources, targets, actions)
        unknown = torch.full((len(items),), torch.nan)
        return {key: Scores(mean.detach().cpu().float(), unknown, unknown) for key, mean in said.items()}

    return score_items


def encode_once(model: UnifiedModel, trajectories: Sequence[Trajectory]) -> dict[str | int, np.ndarray]:
    """Encode every image of the trajectories once, to int64 codes (h, w); keys are paths as text, or identities."""
    references = {_image_key(ref): ref for item in trajectories for ref in (item.source, item.target)}
    return dict(zip(references, model.encode(list(references.values())), strict=True))


def _image_key(ref: ImageRef) -> str | int:
    return str(ref) if isinstance(ref, str | Path) else id(ref)


def preferences(likelihoods: pd.DataFrame) -> pd.DataFrame:
    """Return, for each model, chain, definition, task and negative, how often the reference is strictly likelier.

    Returns:
        columns model, chain, definition, task, kind, preferred (percent), ties (percent), n (comparisons), unmeasured
        (comparisons of which a likelihood is unknown; they are in no other column). Without a comparison the
        percentages are NaN.
    """
    keys = ["model", "chain", "definition", "task", "subset", "id"]
    # A draw of a negative is compared with the reference of its own trajectory; ties are no preference.
    reference = likelihoods[likelihoods["kind"] == "reference"].set_index(keys)["log_likelihood"].rename("reference")
    rows = likelihoods[likelihoods["kind"] != "reference"].join(reference, on=keys)
    # A table without a row has columns of no type.
    known = np.isfinite(rows[["reference", "log_likelihood"]].astype(float)).all(axis=1)
    rows = rows.assign(
        preferred=(rows["reference"] > rows["log_likelihood"]).astype(float).where(known),
        ties=(rows["reference"] == rows["log_likelihood"]).astype(float).where(known),
        known=known,
    )
    grouped = rows.groupby(["model", "chain", "definition", "task", "kind"], sort=True)
    table, n = grouped[["preferred", "ties"]].mean() * 100, grouped["known"].sum()
    return table.assign(n=n, unmeasured=grouped.size() - n).reset_index()
