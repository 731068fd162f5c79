"""What was scored and with what: systems.csv and measures.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from visdyn.evaluation.benches.bench import Bench
from visdyn.evaluation.metrics.optical_flow_backends import resolved
from visdyn.evaluation.metrics.registry import CLASSIFIER, CLIP, DINO, FLOW, REGION, Metric, metric, metrics
from visdyn.evaluation.systems.outputs import SystemImages
from visdyn.models.editors.protocol import Request
from visdyn.pipeline.stage import Stage

SYSTEMS = ["paper", "system", "label", "origin", "model", "expected", "found", "missing", "note"]
MEASURES = ["paper", "metric", "measured_with", "status", "n", "empty", "note"]
# The checkpoints (CLIP, DINO) that a preset's paper compares with, by the last part of their names.
PUBLISHED = {
    "bootstrapping": {CLIP: "clip-vit-base-patch32", DINO: "dino-vits16"},
    "magicbrush": {CLIP: "clip-vit-base-patch32", DINO: "dino-vits16"},
    "doundo": {CLIP: "CLIP-ViT-B-32-laion2B-s34B-b79K", DINO: "dinov2-large"},
}
PUBLISHED_CLASSIFIER = "clip_openai_timesformer_large.ft_ek100_cls.ep_0090.md5sum_4a2509.pth"  # of Do-Undo's code


def systems_table(
    stage: Stage,
    bench: Bench,
    requests: Sequence[Request],
    items: Sequence,
    systems: Sequence[SystemImages],
    scores: pd.DataFrame,
) -> pd.DataFrame:
    """Return systems.csv: a row for each system, its chains and prompt lengths together.

    Args:
        requests: the images asked of each item.
        scores: of the benchmark; AURORA's also have the verified systems of stage `verification`.
    """
    known = {system.name for system in systems}
    rows = [_verified(bench, name, group) for name, group in scores.groupby("system") if name not in known]
    for name in dict.fromkeys(system.name for system in systems):
        own = [system for system in systems if system.name == name]
        expected = sum(len(items) * (len(system.images) or len(requests)) for system in own)
        found = sum(image is not None for system in own for refs in system.images.values() for image in refs)
        notes = dict.fromkeys(system.note for system in own if system.note)
        note = "; ".join(notes).replace(f"{stage.root}/", "").replace("\n", " ")
        model = ", ".join(dict.fromkeys(system.model for system in own if system.model))
        rows.append([bench.paper, name, name, own[0].origin, model, expected, found, expected - found, note])
    return pd.DataFrame(rows, columns=SYSTEMS)


def _verified(bench: Bench, name: str, scores: pd.DataFrame) -> list:
    count = len(scores[["chain", "subset", "id"]].drop_duplicates())
    note = "chosen among the candidates of stage verification"
    return [bench.paper, name, name, "trained", "data/generated/candidates", count, count, 0, note]


def measures_table(stage: Stage, bench: Bench, evaluation, scores: pd.DataFrame) -> pd.DataFrame:
    """Return measures.csv: for each metric what it was measured with, n, how many values are empty, and why.

    Args:
        evaluation: the benchmark's items with their encoders, which knows how many prompts CLIP cuts.
    """
    rows = []
    names = sorted(scores["metric"].unique()) if len(scores) else []
    for name in names:
        values, entry = scores.loc[scores["metric"] == name, "value"], metric(name, bench.name)
        empty = int(values.isna().sum())
        measured, status, note = _described(stage, entry, evaluation)
        if empty == len(values):
            status, note = "not measured", _why_empty(stage, entry)
        elif empty and bench.lacks_targets:
            note = "; ".join(filter(None, (note, "items without a published target have no value")))
        rows.append([bench.paper, name, measured, status, len(values) - empty, empty, note])
    if "clip_t_edited" not in names:
        why = f"needs a captioning model; name one in {stage.name}.captions.model"
        rows.append([bench.paper, "clip_t_edited", "", "not measured", 0, 0, why])
    absent = [entry.name for entry in metrics(bench.name, CLASSIFIER) if entry.name not in names]
    why = f"needs LaViLa's action classifier; name its file in {stage.name}.classifier"
    if absent and stage.params.classifier:
        why = f"there is no file {stage.params.classifier}; data/external/models.yaml says where it is published"
    rows += [[bench.paper, name, "", "not measured", 0, 0, why] for name in absent]
    return pd.DataFrame(rows, columns=MEASURES)


def _described(stage: Stage, entry: Metric, evaluation) -> tuple[str, str, str]:
    """Return what a metric is measured with, its status, and a note."""
    settings, encoders = stage.params, stage.params.encoders
    # Whether a printed number is met is decided where it is compared, cell by cell (reporting/tables/comparison.py).
    status = "smaller scale" if stage.kitchen or encoders.preset == "embedded" else "full scale"
    if entry.measured_with == REGION:
        return REGION, "interpretation", "stands in for a judge that reads images and instruction"
    if entry.measured_with == FLOW:
        flow, size = resolved(settings.flow.backend), settings.flow.size
        note = f"flow by {flow}" + (f" at {size} pixels" if size else " at the images' own size")
        note += "" if flow == "raft" else "; the authors use RAFT, values do not compare"
        kept = status if flow == "raft" and not entry.interpretation else "interpretation"
        return flow, kept, "; ".join(filter(None, (note, entry.note)))
    if entry.measured_with == CLASSIFIER:
        name = evaluation.classifier.name
        note = "" if name == PUBLISHED_CLASSIFIER else "not the authors' checkpoint"
        return name, "interpretation" if note else status, note
    if entry.measured_with not in (CLIP, DINO):
        return entry.measured_with, "interpretation" if entry.interpretation else status, entry.note
    checkpoint = getattr(encoders, entry.measured_with)
    of_paper = PUBLISHED.get(encoders.preset, {}).get(entry.measured_with)
    ours = status != "full scale" or Path(checkpoint).name == of_paper
    other = "" if ours else f"not the checkpoint of the {encoders.preset} preset"
    measured = f"{checkpoint} ({encoders.preset})"
    if entry.measured_with == DINO:
        return measured, status if ours else "interpretation", other
    note = {
        "clip_t": _caption_note(stage),
        "clip_t_edited": f"caption of the edited image by {settings.captions.model}",
    }
    cut = _cut_note(evaluation) if entry.name == "clip_prompt" else ""
    read = entry.name.startswith("clip_t") and not stage.kitchen  # the papers do not say whose captions
    notes = filter(None, (note.get(entry.name, cut), other))
    return measured, status if ours and not read else "interpretation", "; ".join(notes)


def _caption_note(stage: Stage) -> str:
    if stage.kitchen:
        return "caption of the target, written from its known state"
    captions = stage.params.captions
    sources = [name for name in (captions.file and "a file", captions.model) if name]
    return f"caption of the target by {' and '.join(sources)}" if sources else ""


def _cut_note(evaluation) -> str:
    if evaluation.clip is None:
        return ""
    prompts = [pair.forward_prompt for pair in evaluation.pairs]
    cut = evaluation.clip.num_cut(prompts)
    return f"image with the forward prompt, as in the authors' code; {cut} of {len(prompts)} long prompts are cut"


def _why_empty(stage: Stage, entry: Metric) -> str:
    if entry.needs_states and not stage.kitchen:
        return "needs the known end states of the kitchen"
    if entry.measured_with == REGION:
        return f"no judge of kind region in {stage.name}.judges"
    if entry.measured_with == CLASSIFIER:
        return "the annotations name no verb_class and noun_class"
    if entry.name == "clip_t":
        return f"no captions; name a file or a model in {stage.name}.captions"
    return f"no encoder; name one in {stage.name}.encoders"
