"""All systems of the embedded evaluation: which models there are, what they generate, how it is scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.datasets.aurora import load_bench
from visdyn.datasets.doundo_bench import load
from visdyn.datasets.kitchen.measuring import by_id, reachable_images, true_captions
from visdyn.datasets.kitchen.state import Action, State, inverse, valid_actions
from visdyn.datasets.kitchen.truth import candidate_record
from visdyn.evaluation import baselines
from visdyn.evaluation.editing import EditingEvaluation
from visdyn.evaluation.forward import ForwardEvaluation
from visdyn.images import to_array
from visdyn.inference.editing import REVERSE_FROM, LatentEditor, do, undo
from visdyn.inference.generation import generate
from visdyn.inference.verification import chosen
from visdyn.models import load_model
from visdyn.models.encoders import ImageEncoder, ImageTextEncoder
from visdyn.parallel import map_processes
from visdyn.stage import Stage
from visdyn.training.runs import runs_in
from visdyn.trajectory import ReversiblePair, Trajectory

BASELINES = ("copy", "oracle", "shuffled")
PROMPTS = ("long", "short")
Images = dict[tuple[str, int], np.ndarray]  # (system, seed) -> uint8 (N, H, W, 3)


def forward_evaluation(stage: Stage, items_per_subset: int | None = None) -> ForwardEvaluation:
    """Load AURORA's test items (the first `items_per_subset` of each subset) with all that scoring needs."""
    trajectories, seen = [], {}
    for item in load_bench(stage.data("aurora")):
        seen[item.subset] = seen.get(item.subset, 0) + 1
        if items_per_subset is None or seen[item.subset] <= items_per_subset:
            trajectories.append(item)
    truth = by_id(stage.path("data/kitchen"), "aurora_test")
    records = [truth[item.id] for item in trajectories]
    captions = true_captions([record["end"] for record in records])
    return ForwardEvaluation(trajectories, captions, reachable_images(records), *_encoders(stage))


def _encoders(stage: Stage) -> tuple[ImageTextEncoder, ImageEncoder]:
    clip = ImageTextEncoder.from_pretrained(stage.path("models/clip"), "embedded")
    return clip, ImageEncoder.from_pretrained(stage.path("models/dino"), "embedded")


def fdm_runs(stage: Stage, arms: tuple[str, ...] | None = None) -> list[tuple[str, int, Path]]:
    """List the trained FDMs as (arm, seed, folder), of all arms or of some.

    Raises:
        FileNotFoundError: an arm that was asked for has no run.
    """
    runs = [run for run in runs_in(stage.path("models/fdm")) if arms is None or run[0] in arms]
    if missing := set(arms or ()) - {arm for arm, _, _ in runs}:
        raise FileNotFoundError(
            f"no FDM of arm {', '.join(sorted(missing))} in models/fdm; add it to fdm.arms in params.yaml"
        )
    return runs


def forward_images(stage: Stage, evaluation: ForwardEvaluation) -> Images:
    """Generate one image per item from the baselines, the tokenizer, the zero-shot base and every FDM run."""
    items, seed = evaluation.trajectories, stage.seed
    images = {(name, 0): to_array(baselines.baseline(name, items, seed)) for name in BASELINES}
    base = load_model(stage.reference(stage.settings.fdm.base))
    images["tokenizer_ceiling", 0] = base.decode(base.encode([item.target for item in items]))
    images["zero_shot", 0] = generate(base.forward_dynamics, items, 1, seed)[0][:, 0]
    runs = fdm_runs(stage)
    drawn = map_processes(_sampled, [(folder, run_seed) for _, run_seed, folder in runs], items)
    return images | {run[:2]: predictions for run, predictions in zip(runs, drawn, strict=True)}


def _sampled(items: list[Trajectory], run: tuple[Path, int]) -> np.ndarray:
    folder, seed = run
    return generate(load_model(folder, "fdp"), items, 1, seed)[0][:, 0]


def score_forward(evaluation: ForwardEvaluation, images: Images) -> pd.DataFrame:
    """Score every system: columns system, seed, subset, id, metric, value."""
    tables = map_processes(ForwardEvaluation.score, list(images.values()), evaluation)
    return _labelled(dict(zip(images, tables, strict=True)))


def best_of_scores(stage: Stage) -> pd.DataFrame:
    """Add the verified systems `<arm>_best_of_<K>` from the judged candidates of stage `verification`."""
    table = stage.read_table("verification/candidates.csv").astype({"id": str})
    metrics = ["editing_success", "minimal_editing", "score", "success"]
    parts = []
    for k in stage.settings.verification.candidates[1:]:
        best = chosen(table, k, "idm_log_likelihood")
        named = best.assign(system=best["arm"] + f"_best_of_{k}")
        parts.append(named.melt(["system", "seed", "subset", "id"], metrics, "metric", "value"))
    return pd.concat(parts, ignore_index=True)


def doundo_evaluation(stage: Stage) -> EditingEvaluation:
    """Load the mined test pairs with all that scoring needs."""
    pairs = load(stage.path("data/mined/doundo_test.json"), stage.data("epic") / "frames")
    truth = by_id(stage.path("data/kitchen"), "epic_validation")
    records = [truth[pair.id] for pair in pairs]
    captions = tuple(true_captions([record[end] for record in records]) for end in ("start", "end"))
    candidates = (reachable_images(records), reachable_images([_undone(record) for record in records]))
    return EditingEvaluation(pairs, captions, candidates, *_encoders(stage))


def _undone(record: dict) -> dict:
    """Turn a truth record round: from its end, every state that one action leads to."""
    end = State.from_json(record["end"])
    back = inverse(Action.from_json(record["action"]))
    return {**record, "start": record["end"], "end": record["start"], "action": back.to_json(),
            "candidates": [candidate_record(end, action) for action in valid_actions(end)]}  # fmt: skip


Edited = dict[tuple[str, int, str, str], tuple[np.ndarray, np.ndarray]]  # (system, seed, prompt, reverse_from)


def doundo_images(stage: Stage, evaluation: EditingEvaluation) -> Edited:
    """Do and undo every pair with the baselines, the base generator and every fine-tuned run."""
    pairs, seed = evaluation.pairs, stage.seed
    edited: Edited = {}
    for name in BASELINES:
        forward, reverse = (_baseline(name, pairs, half, seed) for half in ("forward", "reverse"))
        for source in REVERSE_FROM:
            # Copying the generated image gives the start back; the others do not depend on what they start from.
            edited[name, 0, "long", source] = forward, forward if (name, source) == ("copy", "generated") else reverse
    runs = [("base", 0, stage.reference(stage.settings.doundo.base))]
    runs += runs_in(stage.path("models/doundo"))
    calls = [(*run, prompt, stage.params.flow_steps) for run in runs for prompt in PROMPTS]
    for part in map_processes(_done_and_undone, calls, pairs):
        edited |= part
    return edited


def _done_and_undone(pairs: list[ReversiblePair], call: tuple[str, int, Path, str, int]) -> Edited:
    name, seed, folder, prompt, steps = call
    editor = LatentEditor.from_pretrained(folder)
    done = do(editor, pairs, prompt, seed, steps)
    return {
        (name, seed, prompt, source): (done, undo(editor, pairs, done, prompt, source, seed, steps))
        for source in REVERSE_FROM
    }


def _baseline(name: str, pairs: list[ReversiblePair], half: str, seed: int) -> np.ndarray:
    return to_array(baselines.baseline(name, [getattr(pair, half)() for pair in pairs], seed))


def score_doundo(evaluation: EditingEvaluation, edited: Edited) -> pd.DataFrame:
    """Score every system: the columns of evaluation/doundo_scores.csv. A forward image is scored once."""
    systems = list(dict.fromkeys(key[:3] for key in edited))
    calls = [[edited[*system, source] for source in REVERSE_FROM] for system in systems]
    scored = map_processes(_scored, calls, evaluation)
    tables = [
        table.assign(system=system, seed=seed, prompt=prompt)
        for (system, seed, prompt), table in zip(systems, scored, strict=True)
    ]
    columns = ["system", "seed", "direction", "reverse_from", "prompt", "verb", "id", "metric", "value"]
    return pd.concat(tables, ignore_index=True)[columns]


def _scored(evaluation: EditingEvaluation, images: list[tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    reverse = {source: undone for source, (_, undone) in zip(REVERSE_FROM, images, strict=True)}
    return evaluation.score(images[0][0], reverse)


def _labelled(tables: dict[tuple[str, int], pd.DataFrame]) -> pd.DataFrame:
    parts = [table.assign(system=system, seed=seed) for (system, seed), table in tables.items()]
    return pd.concat(parts, ignore_index=True)[["system", "seed", "subset", "id", "metric", "value"]]
