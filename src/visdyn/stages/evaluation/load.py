"""What the evaluation loads: test items with all that scoring needs, in the kitchen and on real data."""

from __future__ import annotations

from pathlib import Path

from visdyn.datasets.aurora import load_bench
from visdyn.datasets.doundo_bench import load
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.metrics.captions import Captioner, captions_of, read_captions
from visdyn.evaluation.metrics.optical_flow_backends import NamedFlow, resolved
from visdyn.kitchen.truth import open_truth
from visdyn.mining.reversible import with_short_prompts
from visdyn.models.encoders import ImageEncoder, ImageTextEncoder
from visdyn.params.evaluation import EncoderSet, Evaluation
from visdyn.paths import expanded
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine
from visdyn.training.runs import runs_in


def forward_evaluation(
    stage: Stage, items_per_subset: int | None = None, quarantine: Quarantine | None = None
) -> ForwardEvaluation:
    """Load AURORA's test items (the first `items_per_subset` of each subset) with all that scoring needs.

    The kitchen's known states give captions and reachable end states; real data have captions where
    `evaluation.captions` supplies them. Items that cannot be used go to the quarantine.
    """
    settings, seen, items = stage.settings.evaluation, {}, []
    truth = open_truth(stage.kitchen)
    limit = items_per_subset or settings.items_per_subset or None
    targets = "required" if truth.known else "optional"
    for item in load_bench(stage.data("aurora"), quarantine=quarantine, decode=not truth.known, targets=targets):
        seen[item.subset] = seen.get(item.subset, 0) + 1
        if limit is None or seen[item.subset] <= limit:
            items.append(item)
    encoders = load_encoders(stage, settings.encoders.aurora)
    if truth.known:
        ids = [item.id for item in items]
        captions, candidates = truth.captions("aurora_test", ids), truth.reachable_images("aurora_test", ids)
        return ForwardEvaluation(items, captions, candidates, *encoders, _asks_region(settings))
    model, known = captioner(stage), _known_captions(stage)
    keys = [(item.subset, item.id) for item in items]
    captions = captions_of("target", keys, [item.target for item in items], known, model)
    return ForwardEvaluation(items, captions, None, *encoders, _asks_region(settings), model)


def doundo_evaluation(stage: Stage, quarantine: Quarantine | None = None) -> EditingEvaluation:
    """Load the Do-Undo test pairs (`evaluation.doundo_annotations`) with all that scoring needs."""
    settings = stage.settings.evaluation
    annotations = stage.located(settings.doundo_annotations, "evaluation.doundo_annotations")
    pairs = load(annotations, stage.data("epic") / "frames", quarantine)
    pairs = pairs[: settings.items_per_subset or None]
    encoders = load_encoders(stage, settings.encoders.doundo)
    flow = NamedFlow(resolved(settings.flow.backend), settings.flow.weights or None, stage.device)
    options = {"flow_size": settings.flow.size or None, "flow_backend": flow, "region": _asks_region(settings)}
    truth = open_truth(stage.kitchen)
    if truth.known:
        ids = [pair.id for pair in pairs]
        captions = tuple(truth.captions("epic_validation", ids, end) for end in ("start", "end"))
        candidates = tuple(truth.reachable_images("epic_validation", ids, backwards) for backwards in (False, True))
        return EditingEvaluation(pairs, captions, candidates, *encoders, **options)
    pairs, model, known = with_short_prompts(pairs), captioner(stage), _known_captions(stage)
    keys = [("", pair.id) for pair in pairs]
    captions = tuple(captions_of(end, keys, [getattr(pair, end) for pair in pairs], known, model)
                     for end in ("start", "end"))  # fmt: skip
    return EditingEvaluation(pairs, captions, None, *encoders, **options, prompts=True, edited_captions=model)


def load_encoders(stage: Stage, named: EncoderSet) -> tuple[ImageTextEncoder | None, ImageEncoder | None]:
    """Load CLIP and DINO with a preset's preprocessing; None for one whose name is empty."""
    clip, dino = (stage.reference(expanded(name)) for name in (named.clip, named.dino))
    return (
        ImageTextEncoder.from_pretrained(clip, named.preset, stage.device) if named.clip else None,
        ImageEncoder.from_pretrained(dino, named.preset, stage.device) if named.dino else None,
    )


def captioner(stage: Stage) -> Captioner | None:
    """Return the captioning model that `evaluation.captions` names, or None."""
    name = expanded(stage.settings.evaluation.captions.model)
    cache = stage.root / "data/kept/captions.sqlite"
    return Captioner(stage.reference(name), stage.device, cache) if name else None


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


def _known_captions(stage: Stage) -> dict:
    file = stage.settings.evaluation.captions.file
    return read_captions(stage.located(file, "evaluation.captions.file")) if file else {}


def _asks_region(settings: Evaluation) -> bool:
    return any(judge.kind == "region" for judge in settings.judges)
