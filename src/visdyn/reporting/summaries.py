"""Averages that tables and figures share: over items, then over chains; preference rates; best of K.

A chain is one whole draw of the experiment, so the spread is over chains, and chains are never pooled as items are.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from visdyn.evaluation.measurements import best_of_k, selectors_of, with_scores
from visdyn.inference.candidates import KEYS


def over_chains(scores: pd.DataFrame, keys: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Average over items within a chain, then over chains.

    Args:
        scores: long frame with `keys`, `chain` and `value`; NaN values are not counted in n.

    Returns:
        `keys` + value (mean of the chains' means), spread (standard deviation over chains, ddof 1, NaN for one chain),
        n (items in a chain; the smallest count where chains differ), chains.
    """
    keys = list(keys)
    valid = scores.dropna(subset=[value])
    chains = valid.groupby([*keys, "chain"], sort=False)[value].agg(["mean", "size"]).reset_index()
    grouped = chains.groupby(keys, sort=False)
    table = grouped["mean"].agg(value="mean", spread="std", chains="size")
    return table.assign(n=grouped["size"].min()).reset_index()[[*keys, "value", "spread", "n", "chains"]]


def of_chains(measured: pd.DataFrame, keys: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Average what was measured once in each chain: `keys` + `values` (means), `<value>_spread` (ddof 1), n, chains.

    Args:
        measured: long frame with `keys`, `chain`, `values`, and `n` where it is known; one row a chain.
    """
    grouped = measured.groupby(list(keys), sort=False)
    table = grouped[list(values)].mean()
    spreads = grouped[list(values)].std().add_suffix("_spread")
    counts = grouped["n"].min() if "n" in measured else float("nan")
    return table.join(spreads).assign(n=counts, chains=grouped["chain"].nunique()).reset_index()


def macro_over_chains(scores: pd.DataFrame, keys: Sequence[str], over: str = "subset") -> pd.DataFrame:
    """Like `over_chains`, but the mean of a chain is the unweighted mean of its groups' means (as in Table 2, Avg.)."""
    keys = list(keys)
    groups = scores.dropna(subset=["value"]).groupby([*keys, "chain", over], sort=False)["value"]
    means = groups.agg(["mean", "size"]).reset_index()
    chains = means.groupby([*keys, "chain"], sort=False).agg(value=("mean", "mean"), n=("size", "sum")).reset_index()
    grouped = chains.groupby(keys, sort=False)
    table = grouped["value"].agg(value="mean", spread="std", chains="size")
    return table.assign(n=grouped["n"].min()).reset_index()[[*keys, "value", "spread", "n", "chains"]]


def paired_difference(scores: pd.DataFrame, system: str, reference: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """Return `system` minus `reference`, paired by chain: `by` + value, spread (of the differences), n, chains.

    Only chains that both systems have are counted. Source: Bootstrapping, Table 4 (average of 3 runs).
    """
    by = list(by)
    means = scores.dropna(subset=["value"]).groupby(["system", "chain", *by], sort=False)["value"].agg(["mean", "size"])
    names = means.index.get_level_values("system").unique()
    if system not in names or reference not in names:
        return pd.DataFrame(columns=[*by, "value", "spread", "n", "chains"])
    left, right = means.loc[system], means.loc[reference]
    paired = left.join(right, how="inner", lsuffix="", rsuffix="_reference").reset_index()
    paired["difference"] = paired["mean"] - paired["mean_reference"]
    if not by:
        return pd.DataFrame([_difference_row(paired)])
    rows = [
        {**dict(zip(by, key, strict=True)), **_difference_row(group)} for key, group in paired.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*by, "value", "spread", "n", "chains"])


def preference_pairs(likelihoods: pd.DataFrame) -> pd.DataFrame:
    """Join negatives to references: model, chain, definition, task, subset, id, kind, reference, negative (nats)."""
    keys = ["model", "chain", "definition", "task", "subset", "id"]
    is_reference = likelihoods["kind"] == "reference"
    references = likelihoods[is_reference].set_index(keys)["log_likelihood"].rename("reference")
    negatives = likelihoods[~is_reference].rename(columns={"log_likelihood": "negative"})
    return negatives.join(references, on=keys)[[*keys, "kind", "reference", "negative"]]


def preference_rates(likelihoods: pd.DataFrame) -> pd.DataFrame:
    """Share of items whose reference is strictly likelier than the negative (Bootstrapping, Figure 2).

    Returns:
        model, definition, task, kind, percent (0-100, mean over chains), spread (over chains), n (of a chain), chains,
        ties (counted as not preferred) and unpaired (left out of n), both of all chains together.
    """
    pairs = preference_pairs(likelihoods)
    complete = pairs["reference"].notna() & pairs["negative"].notna()
    pairs = pairs.assign(
        preferred=(pairs["reference"] > pairs["negative"]).where(complete),
        tie=complete & (pairs["reference"] == pairs["negative"]),
        unpaired=~complete,
    )
    keys = ["model", "definition", "task", "kind"]
    rates = pairs.groupby([*keys, "chain"], sort=False).agg(
        percent=("preferred", "mean"), n=("preferred", "count"), ties=("tie", "sum"), unpaired=("unpaired", "sum")
    )
    rates = rates.assign(percent=rates["percent"].astype(float) * 100).reset_index()
    means = of_chains(rates, keys, ["percent"]).rename(columns={"percent_spread": "spread"})
    return means.merge(rates.groupby(keys, sort=False)[["ties", "unpaired"]].sum().reset_index(), on=keys)


def expected_best_of_k(candidates: pd.DataFrame, selector: str, k: int, metric: str = "score") -> pd.DataFrame:
    """Expected metric of the best of K (`measurements.best_of_k`) for each arm, chain, draw and subset.

    Items that have no value are left out of the mean and of n.

    Args:
        candidates: from `scored_candidates`.

    Returns:
        arm, chain, draw, subset, value, n (items), selector, k.
    """
    items = best_of_k(candidates, selector, [k], metric)[k]
    table = items.groupby(["arm", "chain", "draw", "subset"]).agg(value="mean", n="count").reset_index()
    return table.assign(selector=selector, k=k)


def verification_curves(
    candidates: pd.DataFrame, ks: Sequence[int] = (1, 2, 3, 4, 8), metric: str = "score"
) -> pd.DataFrame:
    """Score against K by selector, arm and subset, and the subsets' mean as subset `all` (Bootstrapping, Figure 4).

    K larger than the smallest number of candidates are left out, and subsets none of whose items has a value.

    Args:
        candidates: from `scored_candidates`.

    Returns:
        arm, selector, subset, k, value (mean over chains and draws), spread (standard deviation over them, ddof 1, NaN
        for one), n (items of a draw; the smallest count where they differ), chains, draws (of a chain).
    """
    most = candidates.groupby(["arm", "chain", "draw", "subset", "id"]).size().min()
    curves = [
        expected_best_of_k(candidates, selector, k, metric)
        for selector in selectors_of(candidates)
        for k in ks
        if k <= most
    ]
    frame = pd.concat(curves, ignore_index=True).dropna(subset=["value"])
    keys = ["arm", "selector", "k", "chain", "draw"]
    mean = frame.groupby(keys).agg(value=("value", "mean"), n=("n", "sum")).reset_index().assign(subset="all")
    grouped = pd.concat([frame, mean], ignore_index=True).groupby(["arm", "selector", "subset", "k"])
    table = grouped["value"].agg(value="mean", spread="std")
    counts = {"n": grouped["n"].min(), "chains": grouped["chain"].nunique(), "draws": grouped["draw"].nunique()}
    return table.assign(**counts).reset_index()


def scored_candidates(
    candidates: pd.DataFrame, scores: pd.DataFrame, judged: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:
    """Return candidates with their scores, a metric a column, by judge: `""` is of the metrics and the region judge.

    Args:
        candidates, scores: `verification/candidates.csv`, `evaluation/candidate_scores.csv`.
        judged: `evaluation/candidate_judge_scores.csv`; a candidate's score is the mean of a judge's repeats.
    """
    found = {"": with_scores(candidates, scores)}
    if judged is not None and len(judged):
        by = ["judge", *KEYS, "candidate", "criterion"]
        means = judged.groupby(by)["value"].mean().reset_index().rename(columns={"criterion": "metric"})
        found |= {judge: with_scores(candidates, own) for judge, own in means.groupby("judge")}
    return found


def _difference_row(paired: pd.DataFrame) -> dict[str, float]:
    spread = paired["difference"].std(ddof=1) if len(paired) > 1 else float("nan")
    return {"value": paired["difference"].mean(), "spread": spread, "n": paired["size"].min(), "chains": len(paired)}
