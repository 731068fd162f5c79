"""Stage `fdm`: an image and an action to the next image, in every arm of the ablation."""

from __future__ import annotations

import pandas as pd

from visdyn.datasets.annotated import read_annotated
from visdyn.pipeline.stage import Stage
from visdyn.stages.dynamics_settings import open_data
from visdyn.training.arms import arm, fdm_jobs
from visdyn.training.engine.launch import Job, check_split
from visdyn.training.runs import requested_runs
from visdyn.trajectory import Trajectory


def arm_jobs(stage: Stage) -> tuple[list[Job], dict[str, int], pd.DataFrame]:
    """Return the training jobs, how many triplets each kind of data has, and the same by subset (fdm/data.csv).

    Writes quarantine.csv.

    Raises:
        ValueError: an arm needs labels that are not there.
    """
    params = stage.params
    check_split(stage.settings.runtime.hardware, params.training.batch_size)
    data, runs = open_data(stage), requested_runs(params)
    synthetic = read_synthetic(stage, {arm(name).synthetic: name for name, _ in runs if arm(name).synthetic != "none"})
    parts = {"supervised": data.encode(data.read_aurora(stage.data("aurora")), "supervised")}
    parts |= {kind: data.encode(items, kind) for kind, items in synthetic.items()}
    sizes = {kind: len(part) for kind, part in parts.items()}
    paths = {kind: part.path for kind, part in parts.items()}
    jobs = fdm_jobs(params, stage.reference(params.base), paths, sizes, stage.path("models/fdm"))
    data.quarantine.write(stage.results() / "quarantine.csv")
    used = {name: [parts[kind] for kind in ("supervised", arm(name).synthetic) if kind in parts] for name, _ in runs}
    return jobs, sizes, data.table(used)


def read_synthetic(stage: Stage, wanted: dict[str, str]) -> dict[str, list[Trajectory]]:
    """Read the synthetic triplets of each kind of labels that an arm asks for (kind to arm)."""
    rows, found = read_annotated(stage.path("data/annotated")), {}
    for kind, key in (("idm", "action"), ("true", "true_action")):
        if kind not in wanted:
            continue
        # A pair whose true action is not exactly one has no true label, so the upper bound does without it.
        found[kind] = [
            Trajectory(row["source"], row[key], row["target"], row["dataset"], f"{row['video']}-{row['pair']}")
            for row in rows
            if row[key]
        ]
        if not found[kind]:
            what = "known actions, which real data lack" if kind == "true" else "triplets labelled by the IDM"
            raise ValueError(f"arm {wanted[kind]!r} needs {what}: data/annotated has none; take it out of section fdm")
    return found
