"""The images that figures show: small .npz files under data/generated/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ImageOps

from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.systems.outputs import FORWARD, SystemImages
from visdyn.images import ImageRef, from_pixels, load, to_array, to_pixels
from visdyn.inference.rollout import roll_out
from visdyn.kitchen.truth import Truth, open_truth
from visdyn.models import load_model
from visdyn.models.editors.protocol import Request
from visdyn.pipeline.stage import Stage
from visdyn.training.losses import recognition_weights

Gallery = dict[str, np.ndarray]
UNSEEN_VERBS = ("stack", "unstack", "remove-from")  # of the kitchen: in the test pairs only
FDM_SHOWN = ("zero_shot", "supervised", "synthetic_weighted")
OTHERS = ("diffusers", "api", "imported")
SHOWN_SIDE = 256  # pixels; larger images are shrunk for the figures


def save_galleries(folder: Path, galleries: dict[str, Gallery]) -> None:
    """Write each gallery as `<folder>/<name>.npz`; the same arrays give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in galleries.items():
        np.savez_compressed(folder / f"{name}.npz", **arrays)


def forward_galleries(
    stage: Stage, evaluation: ForwardEvaluation, systems: Sequence[SystemImages]
) -> dict[str, Gallery]:
    """Return `fdm_examples` (Fig. 6), `recognition_weights` (Fig. 3) and `sequence` (Fig. 5).

    The last needs the kitchen and a trained FDM, the second a base model: what is not there is left out.
    """
    found = {one.name: one for one in systems if one.seed in (0, stage.settings.fdm.seeds[0])}
    shown = [found[name] for name in FDM_SHOWN if name in found and any(found[name].images.get(FORWARD, []))]
    shown += [one for one in systems if one.origin in OTHERS and any(one.images.get(FORWARD, []))]
    places = [
        row for row, target in enumerate(evaluation.targets)
        if target is not None and all(one.images[FORWARD][row] is not None for one in shown)
    ]  # fmt: skip
    rows = [places[place] for place in _spread(len(places), stage.params.gallery)] if places else []
    if not rows:
        return {}
    captions = np.array([evaluation.trajectories[row].action for row in rows])
    sources, targets = ([images[row] for row in rows] for images in (evaluation.sources, evaluation.targets))
    examples = {"source": pictures(sources), "target": pictures(targets), "captions": captions}
    examples |= {one.name: pictures([one.images[FORWARD][row] for row in rows]) for one in shown}
    galleries = {"fdm_examples": examples}
    base = stage.reference(stage.settings.fdm.base)
    if Path(base).is_dir() or not stage.settings.runtime.offline:
        galleries["recognition_weights"] = _weights(base, stage.device, sources, targets, captions)
    run = stage.path(f"models/fdm/synthetic_weighted-s{stage.settings.fdm.seeds[0]}")
    truth = open_truth(stage.kitchen)
    if truth.known and run.is_dir():
        galleries["sequence"] = _sequence(truth, run, stage.seed)
    return galleries


def pictures(refs: Sequence[ImageRef], side: int = SHOWN_SIDE) -> np.ndarray:
    """Return images as uint8 (N, H, W, 3): as they are where small and of one size, else on white squares."""
    images = [load(ref) for ref in refs]
    if len({image.size for image in images}) == 1 and max(images[0].size) <= side:
        return to_array(images)
    return to_array([ImageOps.pad(image, (side, side), color="white") for image in images])


def _weights(base: str, device: str, sources: list, targets: list, captions: np.ndarray) -> Gallery:
    model = load_model(base, device=device)
    squares = [model.pixels(images) if hasattr(model, "pixels") else to_pixels(to_array(images))
               for images in (sources, targets)]  # fmt: skip
    features = [model.vqgan.features(part.to(device)).detach().cpu() for part in squares]
    weights = recognition_weights(*features).reshape(len(sources), *features[0].shape[2:]).numpy()
    plain = len({load(ref).size for ref in [*sources, *targets]}) == 1
    source, target = (
        (pictures(refs) if plain else from_pixels(part)) for refs, part in zip((sources, targets), squares, strict=True)
    )
    return {"source": source, "target": target, "weights": weights, "captions": captions}


def _sequence(truth: Truth, run: Path, seed: int, steps: int = 4, scenes: int = 4) -> Gallery:
    """Steer the FDM through random valid actions; each step starts from the image it has just generated."""
    sources, actions = truth.random_walks("aurora_test", scenes, steps, seed)
    model = load_model(run, "fdp")
    images = roll_out(model, sources, actions, seed)
    gallery = {"source": np.stack(sources), "captions": np.array([", ".join(texts) for texts in actions])}
    for step in range(steps):
        gallery[f"step_{step + 1}"] = images[:, step]
        gallery[f"step_{step + 1}_text"] = np.array([texts[step] for texts in actions])
    return gallery


def doundo_galleries(
    stage: Stage, evaluation: EditingEvaluation, systems: Sequence[SystemImages], scores: pd.DataFrame
) -> dict[str, Gallery]:
    """Return the strips of Do-Undo's Figures 6, 8 and 11 to 14; `scores` is what `score_doundo` returned."""
    shown = _shown_editors(stage, systems)
    complete = [row for row in range(len(evaluation.pairs))
                if all(pair[half][row] is not None for pair in shown.values() for half in (0, 1))]  # fmt: skip
    if not shown or not complete:
        return {}
    size, everything = stage.params.gallery, np.array(complete)
    verbs = np.array([evaluation.pairs[row].verb for row in complete])
    names, counts = np.unique(verbs, return_counts=True)
    rare = np.isin(verbs, names[np.argsort(counts, kind="stable")][:3])
    rows = {
        "doundo_examples": everything,
        "doundo_more": everything[1:],
        "doundo_rare": everything[rare],
        "doundo_unseen": everything[np.isin(verbs, UNSEEN_VERBS)],
        "doundo_judged": everything if scores["metric"].isin(["editing_success"]).any() else everything[:0],
        "doundo_metrics": everything[2:],
    }
    return {
        name: _strip(evaluation, shown, scores, chosen[_spread(len(chosen), size)], name)
        for name, chosen in rows.items()
        if len(chosen)
    }


def _shown_editors(stage: Stage, systems: Sequence[SystemImages]) -> dict[tuple[str, int, str, str], tuple]:
    """Return (system, seed, prompt, reverse_from) -> forward and reverse images: a chain where there is one."""
    doundo, shown = stage.settings.doundo, {}
    own = [("base", 0), *((variant, doundo.seeds[0]) for variant in doundo.variants)]
    by_name = {(one.name, one.seed): one for one in systems}
    others = [(one.name, one.seed) for one in systems if one.origin in OTHERS]
    for key in [*own, *others]:
        images = by_name[key].images if key in by_name else {}
        for prompt, source in ((p, s) for p in stage.params.prompts for s in ("generated", "gt")):
            done, undone = images.get(Request(prompt)), images.get(Request(prompt, "reverse", source))
            if done and undone and any(done) and any(undone):
                shown[*key, prompt, source] = done, undone
                break
    return shown


def _strip(evaluation: EditingEvaluation, shown: dict, scores: pd.DataFrame, rows: np.ndarray, name: str) -> Gallery:
    pairs = [evaluation.pairs[row] for row in rows]
    gallery = {"source": pictures([pair.start for pair in pairs]), "target": pictures([pair.end for pair in pairs])}
    gallery["captions"] = np.array([pair.forward_short or pair.narration for pair in pairs])
    for (system, seed, prompt, source), (done, undone) in shown.items():
        gallery[f"{system}_forward"] = pictures([done[row] for row in rows])
        gallery[f"{system}_reverse"] = pictures([undone[row] for row in rows])
        if name in ("doundo_judged", "doundo_metrics"):
            own = scores[(scores["system"] == system) & (scores["seed"] == seed) & (scores["prompt"] == prompt)]
            own = own[own["reverse_from"].isin(["", source])]
            gallery |= _texts(own, system, [pair.id for pair in pairs], name)
    return gallery


def _texts(scores: pd.DataFrame, system: str, ids: list[str], name: str) -> Gallery:
    """Return the line below each image: the judge's two scores, or the similarity metrics."""
    shown = ("editing_success", "minimal_editing") if name == "doundo_judged" else ("dino", "l1")
    shown_rows = scores[scores["metric"].isin(shown)]
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
