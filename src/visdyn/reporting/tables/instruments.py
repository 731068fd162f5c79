"""Heads that name what measured: our values never stand under the name of an instrument that we did not use.

A head of the paper, `DINO-R`, becomes `DINO-R, by models/dino` where `measures.csv` of the evaluation says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from visdyn.evaluation.metrics.registry import CLASSIFIER, CLIP, DINO, FLOW, bench_of, metrics
from visdyn.reporting.results import EVALUATIONS, Results
from visdyn.reporting.tables.comparison import FULL, SMALLER


def measured_with(results: Results, paper: str) -> dict[str, str]:
    """Return metric -> encoder or estimator of optical flow, of each metric where it is not the paper's.

    The name is that of `measures.csv` (`models/dino`, a hub id, `farneback`); where it says none, whose it is.
    """
    others = {metric for metric, facts in differing_instruments(results, paper).items() if any(facts)}
    table = results.read_or_none(f"{EVALUATIONS[paper]}/measures.csv")
    rows = [] if table is None else table[["metric", "measured_with"]].to_numpy()
    stated = {metric: instrument.removesuffix(" (embedded)") for metric, instrument in rows if instrument}
    return {entry.name: stated.get(entry.name, f"the run's own {entry.measured_with}")
            for entry in metrics(bench_of(paper))
            if entry.measured_with in (CLASSIFIER, CLIP, DINO, FLOW) and entry.name in others}  # fmt: skip


def name_instruments(frame: pd.DataFrame, axis: str, instruments: Mapping[str, str]) -> pd.DataFrame:
    """Return a comparison frame whose heads on one axis say what measured our values.

    Args:
        axis: `panel`, `row` or `column`: where the heads stand.
        instruments: head -> instrument; a head without values of ours stays the paper's.
    """
    measured = set(frame.loc[frame["value"].notna(), axis])
    heads = {head: f"{head}, by {instrument}" for head, instrument in instruments.items() if head in measured}
    return frame.assign(**{axis: frame[axis].replace(heads)})


def differing_instruments(results: Results, paper: str) -> dict[str, tuple[str, str]]:
    """Return metric -> (instrument, scale): how what measured it differs from the paper's, "" where it does not.

    `measures.csv` of the evaluation says so; a metric that it does not have was measured with who knows what.
    """
    table = results.read_or_none(f"{EVALUATIONS[paper]}/measures.csv")
    known = {} if table is None else {entry.metric: entry for entry in table.itertuples()}
    found = {}
    for entry in metrics(bench_of(paper)):
        row = known.get(entry.name)
        status = "" if row is None else row.status
        text = f"no row of {entry.name} in measures.csv" if row is None else row.note or row.measured_with
        found[entry.name] = ("" if status in (SMALLER, FULL) else text, text if status == SMALLER else "")
    return found
