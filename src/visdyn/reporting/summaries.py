"""Averages that tables and figures share: over items, then over seeds; preference rates; best of K."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from visdyn.evaluation.measurements import SELECTORS, best_of_k


def over_seeds(scores: pd.DataFrame, keys: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Average over items within a seed, then over seeds.

    Args:
        scores: long frame with `keys`, `seed` and `value`; NaN values are not counted in n.

    Returns:
        `keys` + value (mean of the seeds' means), spread (standard deviation over seeds, ddof 1, NaN for one seed),
        n (items in a seed; the smallest count where seeds differ), seeds.
    """
    keys = list(keys)
    valid = scores.dropna(subset=[value])
    seeds = valid.groupby([*keys, "seed"], sort=False)[value].agg(["mean", "size"]).reset_index()
    grouped = seeds.groupby(keys, sort=False)
    table = grouped["mean"].agg(value="mean", spread="std", seeds="size")
    return table.assign(n=grouped["size"].min()).reset_index()[[*keys, "value", "spread", "n", "seeds"]]


def macro_over_seeds(scores: pd.DataFrame, keys: Sequence[str], over: str = "subset") -> pd.DataFrame:
    """Like `over_seeds`, but the mean of a seed is the unweighted mean of its groups' means (as in Table 2, Avg.)."""
    keys = list(keys)
    groups = scores.dropna(subset=["value"]).groupby([*keys, "seed", over], sort=False)["value"]
    means = groups.agg(["mean", "size"]).reset_index()
    seeds = means.groupby([*keys, "seed"], sort=False).agg(value=("mean", "mean"), n=("size", "sum")).reset_index()
    grouped = seeds.groupby(keys, sort=False)
    table = grouped["value"].agg(value="mean", spread="std", seeds="size")
    return table.assign(n=grouped["n"].min()).reset_index()[[*keys, "value", "spread", "n", "seeds"]]


def paired_difference(scores: pd.DataFrame, system: str, reference: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """Return `system` minus `reference`, paired by seed: `by` + value, spread (over the seeds' differences), n, seeds.

    Only seeds that both systems have are counted. Source: Bootstrapping, Table 4 (average of 3 runs).
    """
    by = list(by)
    means = scores.dropna(subset=["value"]).groupby(["system", "seed", *by], sort=False)["value"].agg(["mean", "size"])
    names = means.index.get_level_values("system").unique()
    if system not in names or reference not in names:
        return pd.DataFrame(columns=[*by, "value", "spread", "n", "seeds"])
    left, right = means.loc[system], means.loc[reference]
    paired = left.join(right, how="inner", lsuffix="", rsuffix="_reference").reset_index()
    paired["difference"] = paired["mean"] - paired["mean_reference"]
    if not by:
        return pd.DataFrame([_difference_row(paired)])
    rows = [
        {**dict(zip(by, key, strict=True)), **_difference_row(group)} for key, group in paired.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*by, "value", "spread", "n", "seeds"])


def preference_pairs(likelihoods: pd.DataFrame) -> pd.DataFrame:
    """Join negatives to references: model, definition, task, subset, id, kind, reference, negative (nats per token)."""
    keys = ["model", "definition", "task", "subset", "id"]
    is_reference = likelihoods["kind"] == "reference"
    references = likelihoods[is_reference].set_index(keys)["log_likelihood"].rename("reference")
    negatives = likelihoods[~is_reference].rename(columns={"log_likelihood": "negative"})
    return negatives.join(references, on=keys)[[*keys, "kind", "reference", "negative"]]


def preference_rates(likelihoods: pd.DataFrame) -> pd.DataFrame:
    """Share of items whose reference is strictly likelier than the negative (Bootstrapping, Figure 2).

    Returns:
        model, definition, task, kind, percent (0-100), n, ties (counted as not preferred), unpaired (left out of n).
    """
    pairs = preference_pairs(likelihoods)
    complete = pairs["reference"].notna() & pairs["negative"].notna()
    pairs = pairs.assign(
        preferred=(pairs["reference"] > pairs["negative"]).where(complete),
        tie=complete & (pairs["reference"] == pairs["negative"]),
        unpaired=~complete,
    )
    grouped = pairs.groupby(["model", "definition", "task", "kind"], sort=False)
    rates = grouped.agg(
        percent=("preferred", "mean"), n=("preferred", "count"), ties=("tie", "sum"), unpaired=("unpaired", "sum")
    )
    return rates.assign(percent=rates["percent"].astype(float) * 100).reset_index()


def expected_best_of_k(candidates: pd.DataFrame, selector: str, k: int, metric: str = "score") -> pd.DataFrame:
    """Expected metric of the best of K (`measurements.best_of_k`) for each arm, seed and subset.

    Items that have no value are left out of the mean and of n.

    Returns:
        arm, seed, subset, value, n (items), selector, k.
    """
    items = best_of_k(candidates, selector, [k], metric)[k]
    table = items.groupby(["arm", "seed", "subset"]).agg(value="mean", n="count").reset_index()
    return table.assign(selector=selector, k=k)


def verification_curves(
    candidates: pd.DataFrame, ks: Sequence[int] = (1, 2, 4, 8), metric: str = "score"
) -> pd.DataFrame:
    """Score against K by selector, arm and subset, and the subsets' mean as subset `all` (Bootstrapping, Figure 4).

    K larger than the smallest number of candidates are left out.

    Returns:
        arm, selector, subset, k, value, spread (over seeds), n, seeds.
    """
    most = candidates.groupby(["arm", "seed", "subset", "id"]).size().min()
    curves = [expected_best_of_k(candidates, selector, k, metric) for selector in SELECTORS for k in ks if k <= most]
    frame = pd.concat(curves, ignore_index=True)
    keys = ["arm", "selector", "k", "seed"]
    mean = frame.groupby(keys).agg(value=("value", "mean"), n=("n", "sum")).reset_index().assign(subset="all")
    frame = pd.concat([frame, mean], ignore_index=True)
    grouped = frame.groupby(["arm", "selector", "subset", "k"])
    table = grouped["value"].agg(value="mean", spread="std", seeds="size")
    return table.assign(n=grouped["n"].min()).reset_index()


def _difference_row(paired: pd.DataFrame) -> dict[str, float]:
    spread = paired["difference"].std(ddof=1) if len(paired) > 1 else float("nan")
    return {"value": paired["difference"].mean(), "spread": spread, "n": paired["size"].min(), "seeds": len(paired)}
