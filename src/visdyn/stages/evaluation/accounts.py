"""What was scored and with what: systems.csv and measures.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.benches.bench_doundo import PROMPT_METRIC, EditingEvaluation
from visdyn.evaluation.metrics.optical_flow_backends import resolved
from visdyn.evaluation.systems.outputs import SystemImages
from visdyn.params.evaluation import EncoderSet
from visdyn.pipeline.stage import Stage

PAPERS = {"aurora": "B", "doundo": "D"}
SYSTEMS = ["paper", "system", "label", "origin", "model", "expected", "found", "missing", "note"]
MEASURES = ["paper", "metric", "measured_with", "status", "n", "empty", "note"]
_REGION = ("editing_success", "minimal_editing", "score", "success", "copied", "returned", "joint")
_FLOW = {"epe_f": "", "epe_r": "", "epe": "first version's prose, no code released; in pixels",
         "of_f": "first version's prose, no code released; in pixels", "epe_norm": "epe as a share of the size",
         "of_f_norm": "of_f as a share of the size"}  # fmt: skip
# The checkpoints (CLIP, DINO) that a preset's paper compares with, by the last part of their names.
PUBLISHED = {"bootstrapping": ("clip-vit-base-patch32", "dino-vits16"),
             "magicbrush": ("clip-vit-base-patch32", "dino-vits16"),
             "doundo": ("CLIP-ViT-B-32-laion2B-s34B-b79K", "dinov2-large")}  # fmt: skip
_V1 = ("epe", "of_f", "epe_norm", "of_f_norm")


def systems_table(
    stage: Stage, benches: dict[str, tuple[Sequence, Sequence[SystemImages]]], scores: pd.DataFrame
) -> pd.DataFrame:
    """Return systems.csv: a row for each system, its seeds and prompt lengths together.

    Args:
        benches: items and systems of `aurora` and of `doundo`.
        scores: fdm_scores, which also has the verified systems of stage `verification`.
    """
    kinds = {"aurora": 1, "doundo": len(stage.params.prompts) * (1 + len(stage.params.reverse_from))}
    known = {system.name for system in benches["aurora"][1]}
    rows = [_verified(name, group) for name, group in scores.groupby("system") if name not in known]
    for bench, (items, systems) in benches.items():
        for name in dict.fromkeys(system.name for system in systems):
            own = [system for system in systems if system.name == name]
            expected = sum(len(items) * (len(system.images) or kinds[bench]) for system in own)
            found = sum(image is not None for system in own for refs in system.images.values() for image in refs)
            notes = dict.fromkeys(system.note for system in own if system.note)
            note = "; ".join(notes).replace(f"{stage.root}/", "").replace("\n", " ")
            model = ", ".join(dict.fromkeys(system.model for system in own if system.model))
            rows.append([PAPERS[bench], name, name, own[0].origin, model, expected, found, expected - found, note])
    return pd.DataFrame(rows, columns=SYSTEMS)


def _verified(name: str, scores: pd.DataFrame) -> list:
    count = len(scores[["seed", "subset", "id"]].drop_duplicates())
    return ["B", name, name, "trained", "verification/candidates.csv", count, count, 0, "scores of stage verification"]


def measures_table(
    stage: Stage,
    forward: ForwardEvaluation,
    doundo: EditingEvaluation,
    scores: dict[str, pd.DataFrame],
) -> pd.DataFrame:
    """Return measures.csv: for each metric what it was measured with, n, how many values are empty, and why.

    Args:
        scores: fdm_scores (`aurora`) and doundo_scores (`doundo`).
    """
    rows = []
    for bench, evaluation in (("aurora", forward), ("doundo", doundo)):
        table = scores[bench]
        metrics = sorted(table["metric"].unique()) if len(table) else []
        for metric in metrics:
            values = table.loc[table["metric"] == metric, "value"]
            empty = int(values.isna().sum())
            measured, status, note = _described(stage, bench, metric, evaluation)
            if empty == len(values):
                status, note = "not measured", _why_empty(stage, metric)
            elif empty and bench == "aurora":
                note = "; ".join(filter(None, (note, "items without a published target have no value")))
            rows.append([PAPERS[bench], metric, measured, status, len(values) - empty, empty, note])
        rows += [[PAPERS[bench], *row] for row in _absent(stage, metrics)]
    return pd.DataFrame(rows, columns=MEASURES)


def _described(stage: Stage, bench: str, metric: str, evaluation) -> tuple[str, str, str]:
    """Return what a metric is measured with, its status, and a note."""
    settings = stage.params
    encoders: EncoderSet = getattr(settings.encoders, bench)
    status = "smaller scale" if stage.kitchen or encoders.preset == "embedded" else "reproduced"
    of_paper, other = PUBLISHED.get(encoders.preset, ("", "")), f"not the checkpoint of the {encoders.preset} preset"
    if metric in _REGION:
        return "region judge", "interpretation", "stands in for a judge that reads images and instruction"
    if metric in _FLOW:
        flow, size = resolved(settings.flow.backend), settings.flow.size
        note = f"flow by {flow}" + (f" at {size} pixels" if size else " at the images' own size")
        note += "" if flow == "raft" else "; the authors use RAFT, values do not compare"
        kept = status if flow == "raft" and metric not in _V1 else "interpretation"
        return flow, kept, "; ".join(filter(None, (note, _FLOW[metric])))
    if metric.startswith("l1"):
        return "pixels", status, ""
    if metric == "dino":
        ours = status != "reproduced" or Path(encoders.dino).name == of_paper[1]
        return f"{encoders.dino} ({encoders.preset})", status if ours else "interpretation", "" if ours else other
    note = {
        "clip_t": _caption_note(stage),
        "clip_t_edited": f"caption of the edited image by {settings.captions.model}",
    }
    cut = _cut_note(evaluation) if metric == PROMPT_METRIC else ""
    ours = status != "reproduced" or Path(encoders.clip).name == of_paper[0]
    read = metric.startswith("clip_t") and not stage.kitchen  # the papers do not say whose captions
    notes = filter(None, (note.get(metric, cut), "" if ours else other))
    return f"{encoders.clip} ({encoders.preset})", status if ours and not read else "interpretation", "; ".join(notes)


def _caption_note(stage: Stage) -> str:
    if stage.kitchen:
        return "caption of the target, written from its known state"
    captions = stage.params.captions
    sources = [name for name in (captions.file and "a file", captions.model) if name]
    return f"caption of the target by {' and '.join(sources)}" if sources else ""


def _cut_note(evaluation: EditingEvaluation) -> str:
    if evaluation.clip is None:
        return ""
    prompts = [pair.forward_prompt for pair in evaluation.pairs]
    cut = evaluation.clip.num_cut(prompts)
    return f"image with the forward prompt, as in the authors' code; {cut} of {len(prompts)} long prompts are cut"


def _why_empty(stage: Stage, metric: str) -> str:
    if metric in ("success", "copied", "returned", "joint") and not stage.kitchen:
        return "needs the known end states of the kitchen"
    if metric in _REGION:
        return "no judge of kind region in evaluation.judges"
    if metric == "clip_t":
        return "no captions; name a file or a model in evaluation.captions"
    return "no encoder; name one in evaluation.encoders"


def _absent(stage: Stage, metrics: Sequence[str]) -> list[list]:
    if "clip_t_edited" in metrics:
        return []
    why = "needs a captioning model; name one in evaluation.captions.model"
    return [["clip_t_edited", "", "not measured", 0, 0, why]]
