"""The leaderboard: means over items, intervals, and scipy's paired test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from visdyn.evaluation.leaderboard import COLUMNS, leaderboard
from visdyn.evaluation.statistics import bootstrap_interval, sign_flip_test


def table():
    rng, rows = np.random.default_rng(0), []
    for system, chains, level in (("ours", (0, 1), 5), ("other", (0,), 4), ("partial", (0,), 6)):
        for chain in chains:
            for item in range(12 if system != "partial" else 5):
                for metric, scale in (("score", 1), ("l1_paper", 0.1)):
                    rows.append((system, chain, "ag", str(item), metric, level * scale + rng.normal() * scale))
    rows += [("empty", 0, "ag", "0", "score", np.nan)]
    return pd.DataFrame(rows, columns=["system", "chain", "subset", "id", "metric", "value"])


def test_rows_equal_scipy_and_the_bootstrap():
    scores = table()
    found = leaderboard(scores, "B", "ours", seed=3)
    assert list(found.columns) == COLUMNS
    board = found.set_index(["metric", "system"])
    own = scores[(scores["metric"] == "score") & (scores["chain"] == 0)]  # the chain that all three have
    means = own.groupby(["system", "id"])["value"].mean()
    for system in ("other", "partial"):
        pairs = pd.concat([means[system], means["ours"]], axis=1, keys=["a", "b"]).dropna()
        expected = stats.wilcoxon(pairs["a"] - pairs["b"])
        row = board.loc[("score", system)]
        assert row["p"] == pytest.approx(expected.pvalue)
        assert row["difference"] == pytest.approx((pairs["a"] - pairs["b"]).mean())
        flips = sign_flip_test(pairs["a"], pairs["b"], list(pairs.index), 3)  # of items: on AURORA each stands alone
        assert row["p_sign_flip"] == pytest.approx(flips.pvalue)
        assert row["n"] == len(means[system])
    interval = bootstrap_interval(means["other"].to_numpy(), 3, num_resamples=1000)
    assert board.loc[("score", "other"), ["mean", "low", "high"]].tolist() == pytest.approx(
        [interval.value, interval.low, interval.high]
    )
    assert board.loc[("score", "ours"), ["num_chains", "interval_over"]].tolist() == [2, "chains and items"]
    assert board.loc[("score", "other"), ["num_chains", "interval_over"]].tolist() == [1, "items"]
    assert np.isnan(board.loc[("score", "ours"), "p"])
    assert ("score", "empty") not in board.index  # no value, no row


def test_intervals_are_over_chains_and_copy_meets_every_chain():
    rng = np.random.default_rng(1)
    level = {0: 3.0, 1: 5.0, 2: 4.0}  # what training drew: chains differ by more than items
    rows = [("ours", chain, str(item), "score", mean + rng.normal() / 10) for chain, mean in level.items()
            for item in range(200)]  # fmt: skip
    rows += [("copy", 0, str(item), "score", rng.normal() / 10) for item in range(200)]
    board = leaderboard(pd.DataFrame(rows, columns=["system", "chain", "id", "metric", "value"]), "B", "ours", 0)
    board = board.set_index("system")
    ours, copy = board.loc["ours"], board.loc["copy"]
    half = stats.t.ppf(0.975, 2) * 1 / np.sqrt(3)  # three chains, standard deviation 1
    assert ours["high"] - ours["mean"] == pytest.approx(half, rel=0.05)
    assert (copy["difference_low"], copy["difference_high"]) == pytest.approx((-4 - half, -4 + half), rel=0.05)
    assert ours["n"] == 200
    assert copy["low"] > -0.1  # its own mean knows no chain


def test_a_chain_copied_does_not_narrow_an_interval():
    scores = table()
    copies = [scores[(scores["system"] == "ours") & (scores["chain"] == 1)].assign(chain=chain) for chain in (2, 3)]
    shuffled = pd.concat([scores, *copies]).sample(frac=1, random_state=0)
    once, copied = (leaderboard(one, "B", "other", 3) for one in (scores, shuffled))
    pd.testing.assert_frame_equal(once, copied)
    assert set(copied.loc[copied["system"] == "ours", "num_chains"]) == {2}


def test_best_first_whichever_way_is_better():
    found = leaderboard(table(), "B", "ours", 0)
    assert found[found["metric"] == "score"]["system"].tolist() == ["partial", "ours", "other"]
    assert found[found["metric"] == "l1_paper"]["system"].tolist() == ["other", "ours", "partial"]


def test_names_are_part_of_the_metric_and_a_missing_reference_leaves_the_test_empty():
    scores = (
        table()
        .drop(columns="subset")
        .replace("l1_paper", "l1")
        .assign(direction="forward", reverse_from=np.nan, prompt="long")
    )
    found = leaderboard(scores, "D", "nobody", 0, ("direction", "reverse_from", "prompt"))
    assert set(found["metric"]) == {"score forward long", "l1 forward long"}
    assert found["p"].isna().all()
    assert set(found["reference"]) == {""}


def test_without_scores_there_are_headers():
    assert leaderboard(table().iloc[:0], "B", "ours", 0).empty


def test_a_registered_metric_is_scored_and_ranked(monkeypatch):
    from visdyn.evaluation.benches.bench_aurora import compared
    from visdyn.evaluation.metrics import registry

    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))
    brightness = registry.Metric(
        "darker", registry.AURORA, False, "intensity", "pixels", "Darker", compute=lambda a, b: float((b - a).mean())
    )
    registry.register(brightness)
    images = [np.full((2, 2, 3), level, np.uint8) for level in (1, 5)]
    assert compared(registry.AURORA, images[:1], images[1:])["darker"] == [4.0]
    found = leaderboard(table().replace("score", "darker"), "B", "ours", 0)
    assert found[found["metric"] == "darker"]["system"].tolist() == ["other", "ours", "partial"]
    with pytest.raises(ValueError, match="has a metric 'darker' already"):
        registry.register(brightness)
    with pytest.raises(KeyError, match="no metric 'unheard'"):
        leaderboard(table().replace("score", "unheard"), "B", "ours", 0)


def test_every_metric_of_the_results_is_registered_and_headed_as_the_papers_print_it():
    from visdyn.evaluation.metrics.registry import DOUNDO, PAPERS, metric, metrics
    from visdyn.paths import repository_root

    files = (repository_root() / "reports/results").glob("evaluation*/measures.csv")
    measures = pd.concat([pd.read_csv(path) for path in files])
    for paper, name in measures[["paper", "metric"]].itertuples(index=False):
        assert metric(name, "aurora" if paper == "B" else DOUNDO).paper == paper
    headings = [metric("dino", DOUNDO).heading("reverse"), metric("epe_norm", DOUNDO).heading("reverse")]
    assert headings == ["DINO-R", "EPE, share of the side"]
    for bench in PAPERS:  # one heading is one column
        printed = [entry.printed_as for entry in metrics(bench) if entry.name not in ("embedding", "bert_score")]
        assert len(set(printed)) == len(printed)
