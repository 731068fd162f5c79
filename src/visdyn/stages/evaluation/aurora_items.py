"""AURORA-Bench's test items, and the trained FDMs: what is drawn for, and with, before anything is measured."""

from __future__ import annotations

from pathlib import Path

from visdyn.compute.progress import say
from visdyn.datasets.aurora import load_bench
from visdyn.kitchen.truth import open_truth
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine
from visdyn.training.runs import runs_in
from visdyn.trajectory import Trajectory


def load_test_items(
    stage: Stage, items_per_subset: int | None = None, quarantine: Quarantine | None = None
) -> list[Trajectory]:
    """Load AURORA's test items, the first `items_per_subset` (default: of section `evaluation`) of each subset.

    Items that cannot be used go to the quarantine. In the kitchen an item without a target is one of these.
    """
    limit = items_per_subset or stage.settings.evaluation.items_per_subset or None
    known, seen, items = open_truth(stage.kitchen).known, {}, []
    targets, bad = "required" if known else "optional", stage.quarantine() if quarantine is None else quarantine
    for item in load_bench(stage.data("aurora"), quarantine=bad, decode=not known, targets=targets):
        seen[item.subset] = seen.get(item.subset, 0) + 1
        if limit is None or seen[item.subset] <= limit:
            items.append(item)
    if quarantine is None and len(bad):
        say(f"{stage.name}: {bad.summary()}")
    return items


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
