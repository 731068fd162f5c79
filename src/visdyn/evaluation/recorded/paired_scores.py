r"""Systems against each other on the recorded replies, item by item.

For items $i$ of subset $s$ that both systems have a reply to, $d_{si} = x_{si} - y_{si}$. Intervals resample the
photographs that items stand on, within subsets (`statistics.py: resample_clusters`); neither intervals nor p-values are
corrected for the number of comparisons.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from visdyn.evaluation.recorded.evidence import CRITERIA, SUBSETS, Evidence, average
from visdyn.evaluation.statistics import resample_clusters, sign_flip_test, wilcoxon_against

ALL, MEAN = "all", "mean of subsets"  # pooled over items; the five subsets' means averaged
COLUMNS = ["system", "reference", "metric", "subset", "n", "clusters", "difference", "low", "high", "wins", "ties",
           "losses", "p_sign_flip", "p_wilcoxon"]  # fmt: skip
GAINS = ["system", "reference", "n", "n_reference", "score", "reference_score", "percent", "low", "high"]
_INTERVAL = [0.025, 0.975]


def compare_pairs(
    evidence: Evidence, seed: int, num_resamples: int = 10_000, num_permutations: int = 9999
) -> pd.DataFrame:
    """Compare every two systems by every criterion, in each subset and over all.

    Args:
        evidence: the recorded replies.
        seed: of resampling and of drawn sign patterns.
        num_resamples, num_permutations: of intervals and of the sign-flip test.

    Returns:
        Columns `COLUMNS`. `subset` is one of the five, `all` (pooled over items) or `mean of subsets`; n counts items
        with both replies, clusters the photographs they stand on; low and high bound 95 %. `p_sign_flip` flips
        photographs, `p_wilcoxon` (zeros dropped, two-sided) takes items for independent; both are empty for `mean of
        subsets`, over which no test is made.
    """
    scores = _by_item(evidence)
    pairs = [(*pair, criterion) for pair in combinations([one.name for one in evidence.systems], 2)
             for criterion in CRITERIA]  # fmt: skip
    differences = pd.DataFrame(
        {pair: scores[pair[0], pair[2]] - scores[pair[1], pair[2]] for pair in pairs}, scores.index
    )
    means = _resampled_means(differences, seed, num_resamples)
    rows = []
    for place, (system, reference, criterion) in enumerate(pairs):
        found = differences.iloc[:, place].dropna()
        for subset in (*SUBSETS, ALL, MEAN):
            part = found if subset in (ALL, MEAN) else found.loc[[subset]]
            sources = [(where, source) for where, _, source in part.index]
            low, high = np.quantile(means[subset][:, place], _INTERVAL)
            mean = part.groupby(level="subset").mean().mean() if subset == MEAN else part.mean()
            flip = wilcoxon = np.nan
            if subset != MEAN:
                zeros = np.zeros(len(part))
                flip = sign_flip_test(part, zeros, sources, seed, num_permutations).pvalue
                wilcoxon = wilcoxon_against(part, zeros).pvalue
            signs = [int(count) for count in ((part > 0).sum(), (part == 0).sum(), (part < 0).sum())]
            rows.append((system, reference, criterion, subset, len(part), len(set(sources)), mean, low, high, *signs,
                         flip, wilcoxon))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def compare_gains(evidence: Evidence, seed: int, num_resamples: int = 10_000) -> pd.DataFrame:
    r"""Return by how many per cent one system's score is above another's: $100\,(\bar x / \bar y - 1)$.

    $\bar x$ is the unweighted mean of the five subsets' means over all replies of a system (`average`, rule
    `subsets`), as Table 2 prints it. Photographs are drawn for both systems together.

    Returns:
        Columns `GAINS`; n and n_reference count replies, low and high bound 95 %.
    """
    scores = _by_item(evidence).xs("score", axis=1, level=1)
    means = pd.DataFrame(_resampled_means(scores, seed, num_resamples)[MEAN], columns=scores.columns)
    rows = []
    for system, reference in combinations([one.name for one in evidence.systems], 2):
        own, other = (average(evidence, name, "score", "subsets") for name in (system, reference))
        low, high = np.quantile(100 * (means[system] / means[reference] - 1), _INTERVAL)
        counts = scores[[system, reference]].notna().sum()
        rows.append((system, reference, *counts, own, other, 100 * (own / other - 1), low, high))
    return pd.DataFrame(rows, columns=GAINS)


def _by_item(evidence: Evidence) -> pd.DataFrame:
    """Return scores by (subset, item, source); columns (system, criterion), NaN where there is no reply."""
    keys = ["subset", "item", "source"]
    table = evidence.replies.pivot(index=keys, columns="system", values=list(CRITERIA)).swaplevel(axis=1)
    return table.reindex(pd.MultiIndex.from_frame(evidence.items[keys])).dropna(how="all")


def _resampled_means(values: pd.DataFrame, seed: int, num_resamples: int) -> dict[str, np.ndarray]:
    """Return the means (R, V) of resamples in every subset, pooled over all, and averaged over subsets."""
    parts = {}
    for number, subset in enumerate(SUBSETS):
        part = values.loc[[subset]]
        sources = part.index.get_level_values("source")
        parts[subset] = resample_clusters(part.to_numpy(float), sources, seed + number, num_resamples)
    means = {subset: sums / counts for subset, (sums, counts) in parts.items()}
    pooled = sum(sums for sums, _ in parts.values()) / sum(counts for _, counts in parts.values())
    return {**means, ALL: pooled, MEAN: np.mean(list(means.values()), axis=0)}
