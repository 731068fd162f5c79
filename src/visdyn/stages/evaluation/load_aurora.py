"""AURORA-Bench's test items with all that scoring needs, in the kitchen and on real data."""

from __future__ import annotations

from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.metrics.captions import captions_of
from visdyn.kitchen.truth import open_truth
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine
from visdyn.stages.evaluation.aurora_items import load_test_items
from visdyn.stages.evaluation.load import load_captions, load_encoders


def forward_evaluation(stage: Stage, quarantine: Quarantine | None = None) -> ForwardEvaluation:
    """Load AURORA's test items (the first `evaluation.items_per_subset` of each subset) with all that scoring needs.

    The kitchen's known states give captions and reachable end states; real data have captions where
    `evaluation.captions` supplies them. Items that cannot be used go to the quarantine.
    """
    settings, truth = stage.settings.evaluation, open_truth(stage.kitchen)
    items = load_test_items(stage, quarantine=quarantine)
    encoders = load_encoders(stage, settings.encoders)
    if truth.known:
        ids = [item.id for item in items]
        captions, candidates = truth.captions("aurora_test", ids), truth.reachable_images("aurora_test", ids)
        return ForwardEvaluation(items, captions, candidates, *encoders, settings.asks_region)
    known, model = load_captions(stage, settings.captions)
    keys = [(item.subset, item.id) for item in items]
    captions = captions_of("target", keys, [item.target for item in items], known, model)
    return ForwardEvaluation(items, captions, None, *encoders, settings.asks_region, model)
