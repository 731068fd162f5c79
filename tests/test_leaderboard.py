"""The leaderboard: means over items, intervals, and scipy's paired test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from visdyn.evaluation.leaderboard import COLUMNS, leaderboard
from visdyn.evaluation.statistics import bootstrap_interval


def table():
    rng, rows = np.random.default_rng(0), []
    for system, seeds, level in (("ours", (0, 1), 5), ("other", (0,), 4), ("partial", (0,), 6)):
        for seed in seeds:
            for item in range(12 if system != "partial" else 5):
                for metric, scale in (("score", 1), ("l1_paper", 0.1)):
                    rows.append((system, seed, "ag", str(item), metric, level * scale + rng.normal() * scale))
    rows += [("empty", 0, "ag", "0", "score", np.nan)]
    return pd.DataFrame(rows, columns=["system", "seed", "subset", "id", "metric", "value"])


def test_rows_equal_scipy_and_the_bootstrap():
    scores = table()
    found = leaderboard(scores, "B", "ours", seed=3)
    assert list(found.columns) == COLUMNS
    board = found.set_index(["metric", "system"])
    means = scores[scores["metric"] == "score"].groupby(["system", "id"])["value"].mean()
    for system in ("other", "partial"):
        pairs = pd.concat([means[system], means["ours"]], axis=1, keys=["a", "b"]).dropna()
        expected = stats.wilcoxon(pairs["a"] - pairs["b"])
        row = board.loc[("score", system)]
        assert row["p"] == pytest.approx(expected.pvalue)
        assert row["difference"] == pytest.approx((pairs["a"] - pairs["b"]).mean())
        assert row["n"] == len(means[system])
    interval = bootstrap_interval(means["other"].to_numpy(), 3, num_resamples=1000)
    assert board.loc[("score", "other"), ["mean", "low", "high"]].tolist() == pytest.approx(
        [interval.value, interval.low, interval.high]
    )
    assert board.loc[("score", "ours"), "num_seeds"] == 2
    assert np.isnan(board.loc[("score", "ours"), "p"])
    assert ("score", "empty") not in board.index  # no value, no row


def test_best_first_whichever_way_is_better():
    found = leaderboard(table(), "B", "ours", 0)
    assert found[found["metric"] == "score"]["system"].tolist() == ["partial", "ours", "other"]
    assert found[found["metric"] == "l1_paper"]["system"].tolist() == ["other", "ours", "partial"]


def test_names_are_part_of_the_metric_and_a_missing_reference_leaves_the_test_empty():
    scores = table().drop(columns="subset").assign(direction="forward", reverse_from=np.nan, prompt="long")
    found = leaderboard(scores, "D", "nobody", 0, ("direction", "reverse_from", "prompt"))
    assert set(found["metric"]) == {"score forward long", "l1_paper forward long"}
    assert found["p"].isna().all()
    assert set(found["reference"]) == {""}


def test_without_scores_there_are_headers():
    assert leaderboard(table().iloc[:0], "B", "ours", 0).empty
