"""The arms of the FDM ablation (Bootstrapping, Tables 2 to 4), and the training jobs that make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.params.dynamics import Fdm
from visdyn.params.prompts import SENTENCES, Prompts
from visdyn.training.dynamics import run_config
from visdyn.training.engine.fit import count_steps
from visdyn.training.engine.launch import Job
from visdyn.training.runs import requested_runs, run_name
from visdyn.training.triplets import DynamicsTriplets
from visdyn.trajectory import Trajectory


@dataclass(frozen=True)
class Arm:
    """One way to train an FDM.

    Attributes:
        synthetic: `none`, `idm` (labels by the IDM), `true` (the known labels of the same pairs: an upper bound)
            or `shuffled` (the IDM's labels, dealt anew among the pairs: a negative control).
        weighting: `uniform`, `recognition`, or `permuted` (each image's recognition weights on other places of it: a
            negative control).
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
    "weights_permuted": Arm("idm", "permuted", True, "control: C-FDM, weights on other places"),
    "labels_shuffled": Arm("shuffled", "recognition", True, "control: C-FDM, labels on other pairs"),
}


@dataclass(frozen=True)
class ChainInputs:
    """What the FDMs of one chain start from.

    Attributes:
        base: folder or hub id of the base model.
        seed: of every arm's training, so that they differ by data and weights alone.
        triplets: triplet files by kind: `supervised`, or one of `Arm.synthetic`.
        sizes: triplets of each kind.
    """

    base: str
    seed: int
    triplets: dict[str, str]
    sizes: dict[str, int]


def arm(name: str) -> Arm:
    """Return an arm by name; an unknown one is an error that lists the known ones."""
    if name not in ARMS:
        raise ValueError(f"unknown FDM arm {name!r}; one of {', '.join(ARMS)}")
    return ARMS[name]


def fdm_jobs(params: Fdm, chains: Mapping[int, ChainInputs], output: Path, prompts: Prompts = SENTENCES) -> list[Job]:
    """Return one training job for each (arm, chain): from the chain's base, on the chain's triplets, with its seed.

    Args:
        chains: what each chain's runs start from; the first is also that of `first_chain_arms`.
        output: folder that gets one folder `<arm>-s<chain>` a run.
        prompts: the words for a base that brings none of its own.
    """
    jobs = []
    for name, chain in requested_runs(params, list(chains)):
        chosen, own = arm(name), chains[chain]
        paths = tuple(own.triplets[kind] for kind in ("supervised", chosen.synthetic) if kind != "none")
        floor = params.floor if chosen.floored else 0.0
        arguments = {
            "config": run_config(params, own.base, arm_size(name, own.sizes)),
            "data": DynamicsTriplets(paths, "fdm", chosen.weighting, floor, own.seed),
            "seed": own.seed,
            "output": str(output / run_name(name, chain)),
            "prompts": prompts,
        }
        jobs.append(Job(run_name(name, chain), "visdyn.training.dynamics:train_dynamics", arguments))
    return jobs


def arms_table(params: Fdm, chains: Mapping[int, ChainInputs]) -> pd.DataFrame:
    """Describe every run: columns arm, chain, num_supervised, num_synthetic, weighting, floor, steps (fdm/arms.csv)."""
    rows = []
    for name, chain in requested_runs(params, list(chains)):
        chosen, sizes = arm(name), chains[chain].sizes
        row = {"arm": name, "chain": chain, "num_supervised": sizes["supervised"]}
        row |= {"num_synthetic": sizes.get(chosen.synthetic, 0), "weighting": chosen.weighting}
        row |= {"floor": params.floor if chosen.floored and chosen.weighting != "uniform" else 0.0}
        rows.append({**row, "steps": count_steps(params.training, arm_size(name, sizes))})
    return pd.DataFrame(rows)


def deal_labels(triplets: Sequence[Trajectory], seed: int) -> list[Trajectory]:
    """Return the triplets with their actions dealt anew among them, at random: the negative control of the labels.

    Every action stays as often as it was; a pair has its own again no more often than by chance.
    """
    order = np.random.default_rng(seed).permutation(len(triplets))
    return [replace(item, action=triplets[other].action) for item, other in zip(triplets, order, strict=True)]


def arm_size(name: str, sizes: dict[str, int]) -> int:
    """Return how many triplets an arm learns from."""
    return sizes["supervised"] + sizes.get(arm(name).synthetic, 0)
