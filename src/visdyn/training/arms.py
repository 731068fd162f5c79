"""The arms of the FDM ablation (Bootstrapping, Tables 2 to 4), and the training jobs that make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from visdyn.params import Fdm
from visdyn.training.engine.fit import count_steps
from visdyn.training.engine.launch import Job
from visdyn.training.runs import requested_runs, run_name


@dataclass(frozen=True)
class Arm:
    """One way to train an FDM.

    Attributes:
        synthetic: `none`, `idm` (labels by the IDM) or `true` (the known labels of the same pairs: an upper bound).
        weighting: `uniform` or `recognition`.
        floored: whether the recognition weights keep a uniform part.
        paper: the paper's name for it.
    """

    synthetic: str
    weighting: str
    floored: bool
    paper: str


ARMS = {
    "supervised": Arm("none", "uniform", True, "C-FT"),
    "supervised_weighted": Arm("none", "recognition", True, "C-FDM w/o Synth."),
    "synthetic": Arm("idm", "uniform", True, "C-FDM w/o LW"),
    "synthetic_weighted": Arm("idm", "recognition", True, "C-FDM"),
    "synthetic_weighted_nofloor": Arm("idm", "recognition", False, "C-FDM, Eq. 2 to the letter"),
    "synthetic_weighted_true": Arm("true", "recognition", True, "upper bound: true labels"),
}


def arm(name: str) -> Arm:
    """Return an arm by name; an unknown one is an error that lists the known ones."""
    if name not in ARMS:
        raise ValueError(f"unknown FDM arm {name!r}; one of {', '.join(ARMS)}")
    return ARMS[name]


def fdm_jobs(
    runs: Sequence[tuple[str, int]],
    triplets: dict[str, str],
    base: str,
    output: Path,
    recipe: dict,
    floor: float,
    steps: dict[str, int],
    **options,
) -> list[Job]:
    """Return one training job for each (arm, seed).

    Args:
        runs: arms with their seeds.
        triplets: triplet files by kind: `supervised`, `idm`, `true`.
        output: folder that gets one folder `<arm>-s<seed>` a run.
        recipe: of every run; its seed and steps are replaced.
        floor: of the arms that keep one.
        steps: of each arm.
        options: further arguments of `train_dynamics` (adapter, lora).
    """
    jobs = []
    for name, seed in runs:
        chosen = arm(name)
        files = [triplets["supervised"]] + ([] if chosen.synthetic == "none" else [triplets[chosen.synthetic]])
        arguments = {
            "base": base,
            "triplets": files,
            "task": "fdm",
            "output": str(output / run_name(name, seed)),
            "recipe": {**recipe, "steps": steps[name], "seed": seed},
            "weighting": chosen.weighting,
            "floor": floor if chosen.floored else 0.0,
            **options,
        }
        jobs.append(Job(run_name(name, seed), "visdyn.training.dynamics:train_dynamics", arguments))
    return jobs


def arms_table(params: Fdm, sizes: dict[str, int]) -> pd.DataFrame:
    """Describe every run: columns arm, seed, num_supervised, num_synthetic, weighting, floor, steps (fdm/arms.csv)."""
    rows = []
    for name, seed in requested_runs(params):
        chosen = arm(name)
        row = {"arm": name, "seed": seed, "num_supervised": sizes["supervised"]}
        row |= {"num_synthetic": sizes.get(chosen.synthetic, 0), "weighting": chosen.weighting}
        row |= {"floor": params.floor if chosen.floored and chosen.weighting == "recognition" else 0.0}
        rows.append({**row, "steps": count_steps(params.training, arm_size(name, sizes))})
    return pd.DataFrame(rows)


def arm_size(name: str, sizes: dict[str, int]) -> int:
    """Return how many triplets an arm learns from."""
    return sizes["supervised"] + sizes.get(arm(name).synthetic, 0)
