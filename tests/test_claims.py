"""Claims: read strictly, decided by the stated rule, on simulated results with a known truth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import yaml

from visdyn.evaluation.chains import Estimate
from visdyn.evaluation.claims import ClaimError, ClaimTest, decide, measure, read_claims
from visdyn.evaluation.measurements import FIXED, VIEWS, Measurements, NotMeasuredError, best_of_k
from visdyn.evaluation.metrics.registry import AURORA, metrics
from visdyn.evaluation.systems.baselines import BASELINES
from visdyn.result_tables import TABLES

FDM, PROBED = "evaluation/fdm_scores.csv", "probing/likelihoods.csv"
SMALLEST = {one.unit: 0.1 for one in metrics(AURORA)} | {"nats": 0.1, "count": 0.1}
SCORE = {"statistic": "difference", "table": FDM, "where": {"metric": "score"}, "of": {"system": "synthetic"},
         "against": [{"system": "supervised"}]}  # fmt: skip


def claims(tmp_path, systems=(), **kitchen):
    """Write one claim with this test of the kitchen's, and read it."""
    entry = {"id": "b_claim", "place": "Table 2", "claim": "one is better", "kitchen": kitchen}
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"smallest_effects": SMALLEST, "claims": [entry]}))
    return read_claims(path, dict(systems))


def scores(rng, chains=3, items=40, effect=0.0, of_chain=0.3, metric="score", systems=("supervised", "synthetic")):
    """Scores of systems over chains; the last system is better by `effect`, and by its own luck in each chain."""
    ease = rng.normal(0, 1, items)
    rows = []
    for chain in range(chains):
        for place, system in enumerate(systems):
            mean = 5 + rng.normal(0, of_chain) + effect * (place == len(systems) - 1)
            values = mean + ease + rng.normal(0, 1, items)
            rows += [(system, chain, "ag", str(item), metric, value) for item, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["system", "chain", "subset", "id", "metric", "value"])


def base_likelihoods(rng, chains=3, same=False):
    """Likelihoods of each chain's base model; `same`: one base for all chains."""
    drawn = rng.normal(size=(chains, 10))
    rows = [("base", chain, "D1", "fdp", "ag", str(item // 2), ("reference", "random_action")[item % 2], value, 3)
            for chain in range(chains) for item, value in enumerate(drawn[0 if same else chain])]  # fmt: skip
    return pd.DataFrame(rows, columns=list(TABLES[PROBED]))


def results(**tables):
    """The results of one run: table name with _ for / and without .csv."""
    named = {FDM: tables.get("fdm"), PROBED: tables.get("probed"), **tables.get("other", {})}

    def read(name):
        if named.get(name) is None:
            raise NotMeasuredError(f"{name} is missing")
        return named[name]

    return Measurements(read)


@pytest.mark.parametrize(
    ("low", "high", "side", "verdict"),
    [
        (0.11, 0.5, "above", "holds"), (0.05, 0.5, "above", "undecided"), (-0.5, 0.09, "above", "fails"),
        (-0.5, -0.11, "below", "holds"), (-0.5, -0.05, "below", "undecided"), (-0.09, 0.5, "below", "fails"),
        (-0.09, 0.09, "within", "holds"), (-0.2, 0.09, "within", "undecided"), (0.11, 0.5, "within", "fails"),
        (-0.5, -0.11, "within", "fails"), (math.nan, math.nan, "above", "undecided"),
    ],
)  # fmt: skip
def test_a_verdict_asks_where_the_whole_interval_lies(low, high, side, verdict):
    test = ClaimTest(statistic="mean", side=side, smallest=0.1)
    assert decide(Estimate(0.0, low, high, 3, 10), test) == verdict
    moved = ClaimTest(statistic="mean", side=side, smallest=0.1, neutral=2.0)
    assert decide(Estimate(2.0, low + 2, high + 2, 3, 10), moved) == verdict


@pytest.mark.parametrize("side", [1, -1])
def test_an_effect_that_does_not_matter_is_called_holds_as_rarely_as_stated_and_a_large_one_often(tmp_path, side):
    (claim,) = claims(tmp_path, **SCORE | {"side": "above" if side > 0 else "below"})
    rng, repetitions = np.random.default_rng(0), 100

    def count(verdict, effect, times):
        found = [measure(claim, "kitchen", results(fdm=scores(rng, effect=side * effect))) for _ in range(times)]
        return sum(one.verdict == verdict for one in found)

    # 2.5 % at the smallest effect itself, either way, and two standard errors of so many repetitions.
    allowed = 0.025 * repetitions + 2 * math.sqrt(0.025 * 0.975 * repetitions)
    assert count("holds", SMALLEST["score"], repetitions) <= allowed
    assert count("fails", SMALLEST["score"], repetitions) <= allowed
    assert count("holds", 3.0, 20) >= 16
    assert count("fails", -3.0, 20) >= 16


def test_the_interval_of_a_difference_covers_the_truth_at_the_stated_rate(tmp_path):
    (claim,) = claims(tmp_path, **SCORE)
    rng, repetitions = np.random.default_rng(10), 200
    found = [measure(claim, "kitchen", results(fdm=scores(rng, effect=1.5))).estimate for _ in range(repetitions)]
    assert {(one.chains, one.n) for one in found} == {(3, 40)}
    covered = np.mean([one.low <= 1.5 <= one.high for one in found])
    assert covered >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / repetitions)
    assert covered <= 0.995  # nor by being as wide as anything


def test_three_trainings_of_one_base_prove_nothing_though_they_agree(tmp_path):
    (claim,) = claims(tmp_path, **SCORE)
    rng, naive, honest = np.random.default_rng(11), [], []
    for _ in range(30):
        table = scores(rng, of_chain=0.05)
        luck = rng.normal(0, 1)  # of the one base: all three trainings have it, and it is no effect of the system
        table["value"] += luck * (table["system"] == "synthetic")
        naive.append(measure(claim, "kitchen", results(fdm=table)).verdict)
        honest.append(measure(claim, "kitchen", results(fdm=table, probed=base_likelihoods(rng, same=True))).verdict)
    assert naive.count("holds") + naive.count("fails") >= 15  # what would be believed
    assert set(honest) == {"undecided"}


def test_a_difference_is_paired_by_chain_and_item(tmp_path):
    (claim,) = claims(tmp_path, **SCORE)
    table = scores(np.random.default_rng(1), of_chain=5.0, systems=["supervised"])
    better = table.assign(system="synthetic", value=table["value"] + 0.5)
    shifted = pd.concat([table, better])
    found = measure(claim, "kitchen", results(fdm=shifted.sample(frac=1, random_state=0)))
    assert (found.estimate.value, found.estimate.chains, found.estimate.n) == (pytest.approx(0.5), 3, 40)
    assert found.estimate.high - found.estimate.low == pytest.approx(0, abs=1e-9)
    assert found.verdict == "holds"


def test_one_base_copied_three_times_is_one_chain(tmp_path):
    (claim,) = claims(tmp_path, **SCORE)
    rng = np.random.default_rng(2)
    table = scores(rng, effect=3.0)
    assert measure(claim, "kitchen", results(fdm=table, probed=base_likelihoods(rng))).estimate.chains == 3
    found = measure(claim, "kitchen", results(fdm=table, probed=base_likelihoods(rng, same=True)))
    assert found.verdict == "undecided"
    assert math.isnan(found.estimate.low)
    assert "chain 1 is a copy of chain 0, chain 2 is a copy of chain 0: counted once" in found.note


def test_a_system_copied_over_chains_does_not_narrow_the_interval(tmp_path):
    (claim,) = claims(tmp_path, **SCORE)
    table = scores(np.random.default_rng(3), chains=2, effect=1.0)
    copied = pd.concat([table, table[table["chain"] == 1].assign(chain=2)], ignore_index=True)
    once, twice = (measure(claim, "kitchen", results(fdm=one)) for one in (table, copied))
    assert twice.estimate == once.estimate
    assert "chain 2 is a copy of chain 1" in twice.note


def test_a_system_that_is_never_right_is_no_copy_of_itself(tmp_path):
    (claim,) = claims(tmp_path, **SCORE)
    table = scores(np.random.default_rng(12), effect=3.0)
    table.loc[table["system"] == "supervised", "value"] = 0.0  # a model that cannot do the task, in every chain
    found = measure(claim, "kitchen", results(fdm=table))
    assert (found.estimate.chains, found.verdict, found.note) == (3, "holds", "")
    assert not any("given" in columns for columns in TABLES.values())  # a view's own word for what was answered


def test_what_no_chain_draws_is_compared_with_every_chain(tmp_path):
    (claim,) = claims(tmp_path, **SCORE | {"of": {"system": "copy"}, "side": "below"})
    table = scores(np.random.default_rng(4))
    copied = table[(table["system"] == "synthetic") & (table["chain"] == 0)].assign(system="copy", value=0.0)
    found = measure(claim, "kitchen", results(fdm=pd.concat([table[table["system"] == "supervised"], copied])))
    assert (found.verdict, found.estimate.chains) == ("holds", 3)
    alone = claims(tmp_path, **SCORE | {"statistic": "mean", "of": {"system": "copy"}, "against": [], "side": "within"})
    found = measure(alone[0], "kitchen", results(fdm=copied))
    assert (found.verdict, found.estimate.chains, found.estimate.n) == ("holds", 0, 40)


def test_the_weakest_rival_and_group_decide(tmp_path):
    (claim,) = claims(tmp_path, **SCORE | {"against": [{"system": "supervised"}, {"system": "zero_shot"}]})
    rng = np.random.default_rng(5)
    table = scores(rng, effect=4.0, of_chain=0.1)
    better = table[table["system"] == "synthetic"].assign(system="zero_shot")
    better["value"] += 2 + rng.normal(0, 0.1, len(better))
    found = measure(claim, "kitchen", results(fdm=pd.concat([table, better])))
    assert found.verdict == "fails"
    assert "against zero_shot" in found.note
    split = table.assign(subset=np.where(table["id"].astype(int) < 20, "ag", "kubric"))
    split.loc[(split["subset"] == "kubric") & (split["system"] == "synthetic"), "value"] -= 6
    found = measure(claims(tmp_path, **SCORE | {"by": "subset"})[0], "kitchen", results(fdm=split))
    assert found.verdict == "fails"
    assert found.note.startswith("kubric")
    assert found.estimate.n == 20


def test_items_without_a_value_are_counted_and_left_out(tmp_path):
    table = scores(np.random.default_rng(6))
    table.loc[(table["id"] == "7") & (table["chain"] == 1), "value"] = np.nan
    found = measure(claims(tmp_path, **SCORE)[0], "kitchen", results(fdm=table))
    assert found.estimate.n == 39
    assert "1 items without a value set aside" in found.note


def test_what_is_missing_is_said(tmp_path):
    (claim,) = claims(tmp_path, **SCORE | {"needs": "a run of stage fdm"})
    found = measure(claim, "kitchen", results())
    assert (found.verdict, found.note) == ("not measured", f"{FDM} is missing; a run of stage fdm")
    table = scores(np.random.default_rng(8))
    found = measure(claim, "kitchen", results(fdm=table[table["system"] != "supervised"]))
    assert found.verdict == "not measured"
    assert "no row with metric score, system supervised" in found.note


def test_a_setting_left_open_is_refused_in_words(tmp_path):
    table = scores(np.random.default_rng(9))
    both = pd.concat([table, table.assign(metric="success")])
    (claim,) = claims(tmp_path, **SCORE | {"where": {}, "of": {"system": "synthetic", "metric": "score"}})
    with pytest.raises(ClaimError, match=r"claim b_claim, kitchen: say which metric .* is meant: score, success"):
        measure(claim, "kitchen", results(fdm=both))


def test_a_slope_is_per_doubling(tmp_path):
    entry = {"statistic": "slope", "table": "verification/candidates.csv",
             "where": {"metric": "score", "selector": "oracle"}, "of": {"arm": "supervised"}, "over": "k"}  # fmt: skip
    rows = [("supervised", chain, draw, "ag", str(item), candidate, float(candidate))
            for chain in range(2) for draw in range(2) for item in range(3) for candidate in range(4)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["arm", "chain", "draw", "subset", "id", "candidate", "score"])
    table = table.assign(fdm_log_likelihood=0.0, success=0.0)
    expected = [1.5, np.mean([1, 2, 3, 2, 3, 3]), (3 * 3 + 2) / 4, 3.0]  # the best of 1, 2, 3, 4 of 0, 1, 2, 3
    table["idm_log_likelihood"] = table.index * 0.1 + table["chain"]
    table.loc[table["chain"] == 1, "success"] = 1.0  # chains that are no copies of each other
    keys = ["arm", "chain", "draw", "subset", "id", "candidate"]
    files = {"verification/candidates.csv": table.drop(columns=["score", "success"]),
             "evaluation/candidate_scores.csv": table.melt(keys, ["score", "success"], "metric")}  # fmt: skip
    found = measure(claims(tmp_path, **entry)[0], "kitchen", results(other=files))
    assert found.estimate.value == pytest.approx(np.polyfit(np.log2([1, 2, 3, 4]), expected, 1)[0])


def test_the_best_of_k_is_unknown_where_a_candidate_is(tmp_path):
    table = pd.DataFrame({"id": ["1", "1", "2", "2"], "candidate": [0, 1, 0, 1], "score": [np.nan, 6.0, 2.0, 4.0]})
    table = table.assign(arm="a", chain=0, draw=0, subset="ag", idm_log_likelihood=[1.0, 2.0, 1.0, 2.0])
    found = best_of_k(table, "idm", [1, 2])
    assert found[2].tolist() == [6.0, 4.0]  # the unknown one is not chosen
    assert math.isnan(found[1].iloc[0])
    assert found[1].iloc[1] == 3.0


def test_given_estimates_are_read_and_turned(tmp_path):
    table = pd.DataFrame({"system": ["A"], "reference": ["B"], "metric": ["score"], "subset": ["ag"], "n": [9],
                          "difference": [-0.5], "low": [-0.9], "high": [-0.2]})  # fmt: skip
    entry = {"statistic": "given", "table": "recorded/paired.csv", "where": {"metric": "score"}, "smallest": 0.1,
             "of": {"system": "B", "reference": "A"}}  # fmt: skip
    found = measure(claims(tmp_path, **entry)[0], "kitchen", results(other={"recorded/paired.csv": table}))
    assert (found.verdict, found.estimate.value, found.estimate.low, found.estimate.high) == ("holds", 0.5, 0.2, 0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"statistic": "median"}, "unknown statistic 'median'; one of mean, difference"),
        ({"table": "evaluation/scores.csv"}, "no view reads 'evaluation/scores.csv'"),
        ({"where": {"metrics": "score"}}, "has no column 'metrics'; it has system, metric, subset"),
        ({"where": {"metric": "sucess"}}, "unknown metric 'sucess'"),
        ({"of": {"system": "synthetics"}}, "unknown system 'synthetics'"),
        ({"against": [{"system": "supervised_"}]}, "unknown system 'supervised_'"),
        ({"side": "over"}, "unknown side 'over'"),
        ({"by": "verb"}, "has no column 'verb'"),
        ({"against": []}, "a difference needs `against`"),
        ({"where": {}}, "say which metric is meant"),
        ({"smallest": 0.0}, "smallest effect that matters, above 0"),
        ({"statistic": "", "needs": ""}, "say in `needs`"),
        ({"lower": 3}, "unknown key 'lower'"),
    ],
)
def test_a_claim_that_does_not_fit_is_refused_in_words(tmp_path, change, message):
    with pytest.raises(ClaimError, match=message) as error:
        claims(tmp_path, {FDM: ["synthetic", "supervised"]}, **SCORE | change)
    assert "claim b_claim" in str(error.value)


def test_a_claim_stands_once(tmp_path):
    entry = {"id": "b_claim", "place": "", "claim": "", "real": {"needs": "data"}}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"smallest_effects": SMALLEST, "claims": [entry, entry]}))
    with pytest.raises(ClaimError, match="claim b_claim stands twice"):
        read_claims(tmp_path / "claims.yaml", {})


def test_views_read_declared_tables_and_know_the_fixed_systems():
    assert set(VIEWS) <= set(TABLES)
    assert FIXED[: len(BASELINES)] == BASELINES
