"""AURORA-Bench's test items with all that scoring needs, in the kitchen and on real data; and the trained FDMs."""

from __future__ import annotations

from pathlib import Path

from visdyn.datasets.aurora import load_bench
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.metrics.captions import captions_of
from visdyn.kitchen.truth import open_truth
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine
from visdyn.stages.evaluation.load import load_captions, load_encoders
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
    encoders = load_encoders(stage, settings.encoders)
    if truth.known:
        ids = [item.id for item in items]
        captions, candidates = truth.captions("aurora_test", ids), truth.reachable_images("aurora_test", ids)
        return ForwardEvaluation(items, captions, candidates, *encoders, settings.asks_region)
    known, model = load_captions(stage, settings.captions)
    keys = [(item.subset, item.id) for item in items]
    captions = captions_of("target", keys, [item.target for item in items], known, model)
    return ForwardEvaluation(items, captions, None, *encoders, settings.asks_region, model)


def fdm_runs(stage: Stage, arms: tuple[str, ...] | None = None) -> list[tuple[str, int, Path]]:
    """List the trained FDMs as (arm, chain, folder), of all arms or of some.

    Raises:
        FileNotFoundError: an arm that was asked for has no run.
    """
    runs = [run for run in runs_in(stage.path("models/fdm")) if arms is None or run[0] in arms]
    if missing := set(arms or ()) - {arm for arm, _, _ in runs}:
        raise FileNotFoundError(
            f"no FDM of arm {', '.join(sorted(missing))} in models/fdm; add it to fdm.arms in params.yaml"
        )
    return runs
