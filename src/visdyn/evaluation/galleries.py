"""The images that figures show: small .npz files under data/generated/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.datasets.kitchen.measuring import by_id
from visdyn.datasets.kitchen.render import render_state
from visdyn.datasets.kitchen.state import State, apply, valid_actions
from visdyn.datasets.kitchen.text import canonical
from visdyn.evaluation.editing import EditingEvaluation
from visdyn.evaluation.forward import ForwardEvaluation
from visdyn.evaluation.systems import Edited, Images
from visdyn.images import to_array, to_pixels
from visdyn.inference.rollout import roll_out
from visdyn.models import load_model
from visdyn.stage import Stage
from visdyn.training.losses import recognition_weights

Gallery = dict[str, np.ndarray]
UNSEEN_VERBS = ("stack", "unstack", "remove-from")


def save_gallery(path: Path, arrays: Gallery) -> None:
    """Write a gallery; the same arrays give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def forward_galleries(stage: Stage, evaluation: ForwardEvaluation, images: Images) -> dict[str, Gallery]:
    """Return `fdm_examples` (Fig. 6), `recognition_weights` (Fig. 3) and `sequence` (Fig. 5)."""
    rows = _spread(len(evaluation.trajectories), stage.params.gallery)
    captions = np.array([evaluation.trajectories[row].action for row in rows])
    seed = stage.settings.fdm.seeds[0]
    examples = {"source": evaluation.sources[rows], "target": evaluation.targets[rows], "captions": captions}
    systems = ("zero_shot", "supervised", "synthetic_weighted")
    examples |= {name: images[name, 0 if name == "zero_shot" else seed][rows] for name in systems}
    return {
        "fdm_examples": examples,
        "recognition_weights": _weights(stage, evaluation, rows, captions),
        "sequence": _sequence(stage),
    }


def _weights(stage: Stage, evaluation: ForwardEvaluation, rows: np.ndarray, captions: np.ndarray) -> Gallery:
    vqgan = load_model(stage.reference(stage.settings.fdm.base)).vqgan
    source, target = evaluation.sources[rows], evaluation.targets[rows]
    features = [vqgan.features(to_pixels(part)).detach() for part in (source, target)]
    weights = recognition_weights(*features).reshape(len(rows), *features[0].shape[2:]).numpy()
    return {"source": source, "target": target, "weights": weights, "captions": captions}


def _sequence(stage: Stage, steps: int = 4, scenes: int = 4) -> Gallery:
    """Steer the FDM through random valid actions; each step starts from the image it has just generated."""
    truth = list(by_id(stage.path("data/kitchen"), "aurora_test").values())
    records = [truth[row] for row in _spread(len(truth), scenes)]
    model = load_model(stage.path(f"models/fdm/synthetic_weighted-s{stage.settings.fdm.seeds[0]}"), "fdp")
    random = np.random.default_rng(stage.seed)
    actions = [_walk(State.from_json(record["start"]), steps, random) for record in records]
    sources = np.stack([render_state(record["start"], record["scene"]) for record in records])
    images = roll_out(model, list(sources), actions, stage.seed)
    gallery = {"source": sources, "captions": np.array([", ".join(texts) for texts in actions])}
    for step in range(steps):
        gallery[f"step_{step + 1}"] = images[:, step]
        gallery[f"step_{step + 1}_text"] = np.array([texts[step] for texts in actions])
    return gallery


def _walk(state: State, steps: int, random: np.random.Generator) -> list[str]:
    """Draw actions that are valid one after the other."""
    texts = []
    for _ in range(steps):
        actions = valid_actions(state)
        action = actions[int(random.integers(len(actions)))]
        state = apply(state, action)
        texts.append(canonical(action))
    return texts


def doundo_galleries(
    stage: Stage, evaluation: EditingEvaluation, edited: Edited, scores: pd.DataFrame
) -> dict[str, Gallery]:
    """Return the strips of Do-Undo's Figures 6, 8 and 11 to 14; `scores` is what `score_doundo` returned."""
    size, verbs = stage.params.gallery, np.array([pair.verb for pair in evaluation.pairs])
    everything = np.arange(len(verbs))
    names, counts = np.unique(verbs, return_counts=True)
    rare = np.isin(verbs, names[np.argsort(counts, kind="stable")][:3])
    rows = {
        "doundo_examples": everything,
        "doundo_more": everything[1:],
        "doundo_rare": everything[rare],
        "doundo_unseen": everything[np.isin(verbs, UNSEEN_VERBS)],
        "doundo_judged": everything,
        "doundo_metrics": everything[2:],
    }
    return {
        name: _strip(stage, evaluation, edited, scores, chosen[_spread(len(chosen), size)], name)
        for name, chosen in rows.items()
        if len(chosen)
    }


def _strip(
    stage: Stage, evaluation: EditingEvaluation, edited: Edited, scores: pd.DataFrame, rows: np.ndarray, name: str
) -> Gallery:
    pairs = [evaluation.pairs[row] for row in rows]
    gallery = {"source": to_array([pair.start for pair in pairs]), "target": to_array([pair.end for pair in pairs])}
    gallery["captions"] = np.array([pair.forward_short for pair in pairs])
    for system, seed in (
        ("base", 0),
        *((variant, stage.settings.doundo.seeds[0]) for variant in stage.settings.doundo.variants),
    ):
        forward, reverse = edited[system, seed, "long", "generated"]
        gallery[f"{system}_forward"], gallery[f"{system}_reverse"] = forward[rows], reverse[rows]
        if name in ("doundo_judged", "doundo_metrics"):
            own = scores[(scores["system"] == system) & (scores["seed"] == seed) & (scores["prompt"] == "long")]
            gallery |= _texts(own, system, [pair.id for pair in pairs], name)
    return gallery


def _texts(scores: pd.DataFrame, system: str, ids: list[str], name: str) -> Gallery:
    """Return the line below each image: the judge's two scores, or the similarity metrics."""
    shown = ("editing_success", "minimal_editing") if name == "doundo_judged" else ("dino", "l1")
    shown_rows = scores[scores["reverse_from"].isin(["", "generated"]) & scores["metric"].isin(shown)]
    values = shown_rows.pivot(index=["direction", "id"], columns="metric", values="value")
    texts = {}
    for direction in ("forward", "reverse"):
        lines = [
            " ".join(
                f"{label} {values.loc[(direction, row), key]:.2g}"
                for label, key in zip(_LABELS[shown], shown, strict=True)
            )
            for row in ids
        ]
        texts[f"{system}_{direction}_text"] = np.array(lines)
    return texts


_LABELS = {("editing_success", "minimal_editing"): ("ES", "ME"), ("dino", "l1"): ("DINO", "L1")}


def _spread(length: int, count: int) -> np.ndarray:
    """Return at most `count` row numbers, evenly spread over `length`."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))
