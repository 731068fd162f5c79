"""Heads that name what measured: our values never stand under the name of an instrument that we did not use.

A head of the paper, `DINO-R`, becomes `DINO-R, by models/dino` where `measures.csv` of the evaluation says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from visdyn.evaluation.metrics.registry import CLASSIFIER, CLIP, DINO, FLOW, bench_of, metrics
from visdyn.reporting.results import EVALUATIONS, Results


def measured_with(results: Results, paper: str) -> dict[str, str]:
    """Return metric -> encoder or estimator of optical flow, for each metric of a paper that has one.

    The name is that of `measures.csv` (`models/dino`, a hub id, `farneback`); where it says none, whose it is.
    """
    table = results.read_or_none(f"{EVALUATIONS[paper]}/measures.csv")
    rows = [] if table is None else table[["metric", "measured_with"]].to_numpy()
    stated = {metric: instrument.removesuffix(" (embedded)") for metric, instrument in rows if instrument}
    return {entry.name: stated.get(entry.name, f"the run's own {entry.measured_with}")
            for entry in metrics(bench_of(paper)) if entry.measured_with in (CLASSIFIER, CLIP, DINO, FLOW)}  # fmt: skip


def name_instruments(frame: pd.DataFrame, axis: str, instruments: Mapping[str, str]) -> pd.DataFrame:
    """Return a comparison frame whose heads on one axis say what measured our values.

    Args:
        axis: `panel`, `row` or `column`: where the heads stand.
        instruments: head -> instrument; a head without values of ours stays the paper's.
    """
    measured = set(frame.loc[frame["value"].notna(), axis])
    heads = {head: f"{head}, by {instrument}" for head, instrument in instruments.items() if head in measured}
    return frame.assign(**{axis: frame[axis].replace(heads)})
