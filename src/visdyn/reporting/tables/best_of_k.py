"""The best of K candidates by every metric and judge: Figure 4 of Bootstrapping, and the kit's table beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from visdyn.evaluation.metrics import registry
from visdyn.reporting import names, summaries
from visdyn.reporting.results import ResultError, Results
from visdyn.reporting.tables import compare, judge_tables
from visdyn.reporting.tables.instruments import measured_with

DRAWN, SCORED = "verification/candidates.csv", "evaluation/candidate_scores.csv"
JUDGED = "evaluation/candidate_judge_scores.csv"
SCORES, SYSTEMS = "evaluation/fdm_scores.csv", "evaluation/systems.csv"
DRAWN_METRICS = ("l1_paper", "clip_i", "clip_t", "clip_t_edited", "dino", "score", "success")  # of the figure
LEVELS = ("copy", "tokenizer_ceiling")  # of the kit's own systems; all that other programs made stand beside them


def judge_curves(results: Results) -> dict[str, pd.DataFrame]:
    """Return judge -> curves of its score (`summaries.verification_curves`), the region judge first.

    Raises:
        ResultError: no judge has a score of a candidate.
    """
    found = {}
    for judge, candidates in _candidates(results).items():
        if "score" in candidates and candidates["score"].notna().any():
            found[judge or registry.REGION] = summaries.verification_curves(candidates)
    if not found:
        raise ResultError(f"{SCORED} and {JUDGED} hold no judge's score; name one in evaluation.judges")
    return found


def metric_curves(results: Results, chosen: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    """Return metric's head (its name and instrument) -> curves, of the metrics that have values, in the tables' order.

    Args:
        chosen: names of metrics; None takes all.

    Raises:
        ResultError: no metric has a value.
    """
    candidates = _candidates(results)[""]
    wanted = [entry for entry in registry.metrics(registry.AURORA) if chosen is None or entry.name in chosen]
    measured = [entry for entry in wanted if entry.name in candidates and candidates[entry.name].notna().any()]
    if not measured:
        raise ResultError(f"{SCORED} holds no value of a metric; run stage evaluation again")
    instruments = measured_with(results, "B")
    heads = {
        entry.name: f"{entry.printed_as}, by {instruments[entry.name]}"
        if entry.name in instruments
        else entry.printed_as
        for entry in measured
    }  # fmt: skip
    return {heads[entry.name]: summaries.verification_curves(candidates, metric=entry.name) for entry in measured}


def other_levels(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Return judge -> system -> subset (or `all`) -> mean score of the items that were drawn: Figure 4's lines.

    The systems are Copy, the tokenizer's ceiling, and those whose images other programs made, where they have scores.
    """
    drawn = results.read(DRAWN)
    items = set(zip(drawn["subset"], drawn["id"], strict=True))
    origins = results.read_or_none(SYSTEMS)
    others = [] if origins is None else origins.loc[~origins["origin"].isin(["trained", "baseline"]), "system"].tolist()
    scores, asked = results.read_or_none(SCORES), judge_tables.of_paper(results, "B")
    judges = {} if scores is None else {registry.REGION: scores}
    judges |= {} if asked is None else dict(list(asked.groupby("judge")))
    levels: dict[str, dict[str, dict[str, float]]] = {}
    for judge, table in judges.items():
        own = table[(table["metric"] == "score") & table["system"].isin([*LEVELS, *others])].dropna(subset=["value"])
        drawn_too = [item in items for item in zip(own["subset"], own["id"], strict=True)]
        own = own[np.array(drawn_too, dtype=bool)]
        means = summaries.over_chains(own, ["system", "subset"])
        means = pd.concat([means, summaries.macro_over_chains(own, ["system"]).assign(subset="all")])
        for entry in means.itertuples():
            level = levels.setdefault(judge, {}).setdefault(names.fdm_system(entry.system), {})
            level[entry.subset] = entry.value
    return levels


def table(results: Results, published: pd.DataFrame | None, status: str) -> pd.DataFrame:
    """A row for each metric and judge, a column for who chooses and K, a panel for each arm; means of the subsets."""
    by_head = metric_curves(results)
    by_head |= {
        judge_tables.panel(judge): curves
        for judge, curves in judge_curves(results).items()
        if judge != registry.REGION
    }  # fmt: skip
    parts = [
        curves[(curves["subset"] == "all") & (curves["selector"] == selector)].assign(
            row=head, column=lambda own, who=who: [f"{who}, K = {k}" for k in own["k"]]
        )
        for selector, who in names.SELECTORS.items()
        for head, curves in by_head.items()
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame = frame.assign(panel=[names.fdm_system(arm) for arm in frame["arm"]])
    return compare(frame, published, status)


def _candidates(results: Results) -> dict[str, pd.DataFrame]:
    judged = results.read_or_none(JUDGED)
    judged = None if judged is None else judge_tables.name_judges(judged, results, "B")
    return summaries.scored_candidates(results.read(DRAWN), results.read(SCORED), judged)
