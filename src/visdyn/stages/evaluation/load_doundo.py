"""The Do-Undo test pairs with all that scoring needs, in the kitchen and on real data."""

from __future__ import annotations

from visdyn.datasets.action_classes import load_classes
from visdyn.datasets.bad_items import collecting
from visdyn.datasets.doundo_bench import load
from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.metrics.action_accuracy import ActionClassifier
from visdyn.evaluation.metrics.captions import captions_of
from visdyn.evaluation.metrics.optical_flow_backends import NamedFlow, resolved
from visdyn.kitchen.truth import open_truth
from visdyn.mining.balanced_test import familiarity
from visdyn.mining.reversible import with_short_prompts
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine
from visdyn.stages.evaluation.load import load_captions, load_encoders
from visdyn.trajectory import ReversiblePair


def doundo_evaluation(stage: Stage, quarantine: Quarantine | None = None) -> EditingEvaluation:
    """Load the Do-Undo test pairs (`evaluation_doundo.annotations`) with all that scoring needs."""
    settings = stage.settings.evaluation_doundo
    annotations = stage.located(settings.annotations, "evaluation_doundo.annotations")
    pairs: list[ReversiblePair] = []
    with collecting(quarantine, annotations, pairs) as bad:
        pairs += load(annotations, stage.data("epic") / "frames", bad)
        pairs[:] = with_short_prompts(pairs, bad) if "short" in settings.prompts else pairs
    pairs = pairs[: settings.pairs or None]
    encoders = load_encoders(stage, settings.encoders)
    flow = NamedFlow(resolved(settings.flow.backend), settings.flow.weights or None, stage.device)
    options = {"flow_size": settings.flow.size or None, "flow_backend": flow, "region": settings.asks_region}
    training = stage.path("data/mined/doundo_train.json")  # absent where only images made elsewhere are measured
    if training.is_file():
        options["familiarity"] = familiarity(pairs, load(training, ".", require_images=False))
    weights = stage.located(settings.classifier, "evaluation_doundo.classifier")
    if settings.classifier and weights.is_file():  # where a named one is not there, measures.csv says so
        classifier = ActionClassifier.from_file(weights, stage.device)
        options |= {"classifier": classifier, "classes": load_classes(annotations, quarantine)}
    truth = open_truth(stage.kitchen)
    if truth.known:
        ids = [pair.id for pair in pairs]
        captions = tuple(truth.captions("epic_validation", ids, end) for end in ("start", "end"))
        candidates = tuple(truth.reachable_images("epic_validation", ids, backwards) for backwards in (False, True))
        return EditingEvaluation(pairs, captions, candidates, *encoders, **options)
    known, model = load_captions(stage, settings.captions)
    keys = [("", pair.id) for pair in pairs]
    captions = tuple(captions_of(end, keys, [getattr(pair, end) for pair in pairs], known, model)
                     for end in ("start", "end"))  # fmt: skip
    return EditingEvaluation(pairs, captions, None, *encoders, **options, prompts=True, edited_captions=model)
