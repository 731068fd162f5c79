"""Stage `fdm`: an image and an action to the next image, in every arm of the ablation."""

from __future__ import annotations

import pandas as pd

from visdyn.compute.seeds import training_seed
from visdyn.datasets.annotated import read_annotated
from visdyn.pipeline.stage import Stage
from visdyn.stages.dynamics_settings import open_data
from visdyn.training.arms import ChainInputs, arm, deal_labels, fdm_jobs
from visdyn.training.dynamics_data import Part
from visdyn.training.engine.launch import Job, check_split
from visdyn.training.runs import of_chain, requested_runs
from visdyn.trajectory import Trajectory


def arm_jobs(stage: Stage) -> tuple[list[Job], dict[int, ChainInputs], pd.DataFrame]:
    """Return the training jobs, what each chain's start from, and the triplets by subset (fdm/data.csv).

    An FDM of a chain starts from the chain's base and learns from the labels of the chain's IDM. Writes quarantine.csv.

    Raises:
        ValueError: an arm needs labels that are not there.
    """
    params = stage.params
    check_split(stage.settings.runtime.hardware, params.training.batch_size)
    data, runs = open_data(stage), requested_runs(params, stage.chains)
    supervised = data.encode(data.read_aurora(stage.data("aurora")), "supervised")
    parts: dict[int, dict[str, Part]] = {}
    for chain in stage.chains:
        wanted = {arm(name).synthetic: name for name, own in runs if own == chain and arm(name).synthetic != "none"}
        synthetic = read_synthetic(stage, chain, wanted)
        encoded = {kind: data.encode(items, f"{kind}-s{chain}") for kind, items in synthetic.items()}
        parts[chain] = {"supervised": supervised, **encoded}
    inputs = {
        chain: ChainInputs(
            base=stage.reference(params.base, chain),
            seed=training_seed(stage.seed, "fdm", chain),
            triplets={kind: part.path for kind, part in own.items()},
            sizes={kind: len(part) for kind, part in own.items()},
        )
        for chain, own in parts.items()
    }
    data.quarantine.write(stage.results() / "quarantine.csv")
    used = {
        (name, chain): [parts[chain][kind] for kind in ("supervised", arm(name).synthetic) if kind in parts[chain]]
        for name, chain in runs
    }
    jobs = fdm_jobs(params, inputs, stage.path("models/fdm"), stage.settings.prompts)
    return jobs, inputs, data.table(used)


def read_synthetic(stage: Stage, chain: int, wanted: dict[str, str]) -> dict[str, list[Trajectory]]:
    """Read a chain's synthetic triplets of each kind of labels that an arm asks for (kind to arm)."""
    folder = stage.path("data/annotated")
    rows, found = read_annotated(of_chain(folder, chain) or folder), {}
    for kind, key in (("idm", "action"), ("true", "true_action"), ("shuffled", "action")):
        if kind not in wanted:
            continue
        # A pair whose true action is not exactly one has no true label, so the upper bound does without it.
        found[kind] = [
            Trajectory(row["source"], row[key], row["target"], row["dataset"], f"{row['video']}-{row['pair']}")
            for row in rows
            if row[key]
        ]
        if kind == "shuffled":
            found[kind] = deal_labels(found[kind], training_seed(stage.seed, "labels", chain))
        if not found[kind]:
            what = "known actions, which real data lack" if kind == "true" else "triplets labelled by the IDM"
            raise ValueError(f"arm {wanted[kind]!r} needs {what}: data/annotated has none; take it out of section fdm")
    return found
