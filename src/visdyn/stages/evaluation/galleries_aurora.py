"""The images of forward dynamics that figures show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.compute.seeds import sampling_seed
from visdyn.evaluation.benches.bench import AURORA_BENCH
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.systems.outputs import FORWARD, SystemImages
from visdyn.images import from_pixels, load, to_array, to_pixels
from visdyn.inference.candidates import FOLDER, KEYS, VERIFIERS, candidate_folder
from visdyn.inference.rollout import roll_out
from visdyn.inference.verification import select_best_candidates
from visdyn.kitchen.truth import open_truth
from visdyn.models import load_model
from visdyn.params.evaluation import ActionSequence
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.stage import Stage
from visdyn.stages.evaluation.best_of import ScoredCandidates
from visdyn.stages.evaluation.galleries import OTHERS, Gallery, pictures, spread_rows
from visdyn.training.losses import recognition_weights
from visdyn.training.runs import run_name
from visdyn.trajectory import Trajectory

SCENES, STEPS = 4, 4  # of the kitchen's sequences
FDM_SHOWN = ("zero_shot", "supervised", "synthetic_weighted")
VERIFIED = "synthetic_weighted"  # the arm whose best of K is shown


def forward_galleries(
    stage: Stage,
    evaluation: ForwardEvaluation,
    systems: Sequence[SystemImages],
    scores: pd.DataFrame,
    candidates: ScoredCandidates,
) -> dict[str, Gallery]:
    """Return the first chain's `fdm_examples` (Fig. 6), `recognition_weights` (Fig. 3) and `sequence` (Fig. 5).

    The last needs a trained FDM and the kitchen or `evaluation.sequence`, the second a base model: what is not there is
    left out. Where the arm `VERIFIED` has candidates the examples are items that have them, with the best of K.

    Args:
        scores: rows of `evaluation/fdm_scores.csv`, written below the examples.
        candidates: of stage `verification`.
    """
    found = {one.name: one for one in systems if one.chain == stage.chains[0]}
    shown = [found[name] for name in FDM_SHOWN if name in found and any(found[name].images.get(FORWARD, []))]
    shown += [one for one in systems if one.origin in OTHERS and any(one.images.get(FORWARD, []))]
    best = _best_of_candidates(stage, evaluation.trajectories, candidates.drawn)
    if len(best):
        name, chosen = (
            f"{VERIFIED}_best_of_{_most_candidates(stage)}",
            best.set_index(["subset", "id"])["file"].to_dict(),
        )
        images = [chosen.get((item.subset, item.id)) for item in evaluation.trajectories]
        shown.append(SystemImages(AURORA_BENCH.name, name, stage.chains[0], "trained", VERIFIED, {FORWARD: images}))
        scored = best.merge(candidates.scores, on=[*KEYS, "candidate"]).assign(system=name)
        # In fdm_scores.csv it has the mean of its draws; below an image stands what that image has.
        scores = pd.concat([scores[scores["system"] != name], scored])
    places = [
        row for row, target in enumerate(evaluation.targets)
        if target is not None and all(one.images[FORWARD][row] is not None for one in shown)
    ]  # fmt: skip
    rows = [places[place] for place in spread_rows(len(places), stage.params.gallery)] if places else []
    if not rows:
        return {}
    captions = np.array([evaluation.trajectories[row].action for row in rows])
    sources, targets = ([images[row] for row in rows] for images in (evaluation.sources, evaluation.targets))
    examples = {"source": pictures(sources), "target": pictures(targets), "captions": captions}
    examples |= {one.name: pictures([one.images[FORWARD][row] for row in rows]) for one in shown}
    items = [evaluation.trajectories[row] for row in rows]
    examples |= {f"{one.name}_text": write_verdicts(scores, one.name, one.chain, items) for one in shown}
    galleries = {"fdm_examples": examples}
    base = stage.reference(stage.settings.fdm.base)
    if Path(base).is_dir() or not stage.settings.runtime.offline:
        galleries["recognition_weights"] = _weights(base, stage.device, sources, targets, captions)
    run = stage.path("models/fdm") / run_name("synthetic_weighted", stage.chains[0])
    truth, asked = open_truth(stage.kitchen), stage.params.sequence
    if run.is_dir() and (asked or truth.known):
        scenes = _asked_scene(stage, asked) if asked else truth.random_walks("aurora_test", SCENES, STEPS, stage.seed)
        galleries["sequence"] = _sequence(run, *scenes, sampling_seed(stage.seed, "images", stage.chains[0]))
    return galleries


def write_verdicts(scores: pd.DataFrame, system: str, chain: int, items: Sequence[Trajectory]) -> np.ndarray:
    """Return the line below each item's image: its score, and whether the right state is the nearest; "" if unknown.

    Args:
        scores: system, chain, subset, id, metric, value.
    """
    own = scores[(scores["system"] == system) & (scores["chain"] == chain)].dropna(subset=["value"])
    values = own.set_index(["subset", "id", "metric"])["value"].to_dict()
    lines = []
    for item in items:
        score, success = (values.get((item.subset, item.id, metric)) for metric in ("score", "success"))
        mark = "" if success is None else "✓" if success == 1 else "✗"
        lines.append(" ".join(filter(None, ["" if score is None else f"score {score:.1f}", mark])))
    return np.array(lines)


def _most_candidates(stage: Stage) -> int:
    return max(stage.settings.verification.candidates)


def _best_of_candidates(stage: Stage, items: Sequence[Trajectory], drawn: pd.DataFrame) -> pd.DataFrame:
    """Return which candidate of the first draw the IDM chooses for each item: KEYS, candidate, file."""
    own = drawn[(drawn["arm"] == VERIFIED) & (drawn["chain"] == stage.chains[0]) & (drawn["draw"] == 0)]
    if own.empty:
        return own
    files = {(item.subset, item.id): AURORA_BENCH.file(item, FORWARD) for item in items}
    best = select_best_candidates(own, _most_candidates(stage), VERIFIERS["idm"])[[*KEYS, "candidate"]]
    best = best[[key in files for key in zip(best["subset"], best["id"], strict=True)]]
    folders = [candidate_folder(stage.path(FOLDER), row.arm, row.chain, row.draw, row.candidate)
               for row in best.itertuples()]  # fmt: skip
    keys = zip(best["subset"], best["id"], strict=True)
    return best.assign(file=[folder / files[key] for folder, key in zip(folders, keys, strict=True)])


def _asked_scene(stage: Stage, asked: ActionSequence) -> tuple[list, list[tuple[str, ...]]]:
    if not asked.actions:
        raise StageError("evaluation.sequence names a photograph but no actions; write what is done to it, in order")
    photograph = load(stage.located(asked.photograph, "evaluation.sequence.photograph"))
    return [np.asarray(photograph)], [asked.actions]


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


def _sequence(run: Path, sources: list, actions: list, sampled: int) -> Gallery:
    """Steer the FDM through actions; each step starts from the image it has just generated.

    Args:
        sources: photographs or scenes, uint8 (H, W, 3).
        actions: for each source its actions, equally many.
        sampled: seed of the images.
    """
    images = roll_out(load_model(run, "fdp"), sources, actions, sampled)
    gallery = {"source": pictures(sources), "captions": np.array([", ".join(texts) for texts in actions])}
    for step, texts in enumerate(zip(*actions, strict=True)):
        gallery[f"step_{step + 1}"] = pictures(list(images[:, step]))
        gallery[f"step_{step + 1}_text"] = np.array(texts)
    return gallery
