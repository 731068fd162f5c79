"""Two runs compared claim by claim, and what is said and returned where a verdict turns over."""

from __future__ import annotations

import json
import math
import shutil

import pandas as pd
import pytest

from visdyn.evaluation.measurements import Measurements, NotMeasuredError
from visdyn.pipeline import verify
from visdyn.reporting.ledger import COLUMNS


def ledger(**rows):
    """A ledger: claim -> (verdict, estimate, spread, chains)."""
    return pd.DataFrame(
        [dict.fromkeys(COLUMNS, "") | {"id": name, "evidence": "kitchen", "verdict": verdict, "estimate": estimate,
                                       "spread": spread, "chains": chains}
         for name, (verdict, estimate, spread, chains) in rows.items()]
    )  # fmt: skip


def test_a_verdict_that_turns_over_is_told_from_one_that_moves():
    then = ledger(b_one=("holds", 1.0, 0.1, 3), b_two=("holds", 1.0, 0.1, 3), b_three=("fails", 0.0, 0.1, 3))
    now = ledger(b_one=("fails", -1.0, 0.1, 3), b_two=("undecided", 0.9, 0.1, 3), b_three=("fails", 0.01, 0.1, 3))
    one, two, three = verify.compare_claims(then, now)
    assert (one.turned, two.turned, three.turned) == (True, False, False)
    assert (one.within, two.within, three.within) == (False, True, True)
    assert str(one).startswith("TURNED holds -> fails")
    assert "1 -> -1" in str(one)
    assert "beyond the spread" in str(one)
    assert str(two).strip().startswith("holds -> undecided")
    assert "within the spread" in str(two)


def test_a_claim_of_one_run_alone_is_not_measured_in_the_other():
    (line,) = verify.compare_claims(ledger().reindex(columns=COLUMNS), ledger(b_one=("holds", 1.0, 0.1, 3)))
    assert (line.then, line.now, line.within) == ("not measured", "holds", None)


@pytest.mark.parametrize(
    ("then", "now", "within"),
    [
        ((1.0, 0.1, 3), (1.2, 0.1, 3), True),  # Welch: t of 4 degrees 2.78 x .0816 = .227
        ((1.0, 0.1, 3), (1.24, 0.1, 3), False),
        ((1.0, 0.1, 1), (1.2, 0.1, 3), None),
        ((1.0, math.nan, 1), (1.0, math.nan, 1), True),  # the same number needs no spread
        ((1.0, math.nan, 0), (1.2, math.nan, 0), False),  # nothing was drawn: it should be the same
        ((math.nan, 0.1, 3), (1.2, 0.1, 3), None),
    ],
)
def test_a_difference_is_measured_by_the_spread_of_both_runs(then, now, within):
    assert verify.is_within(then, now) is within


def test_every_system_and_metric_is_a_number():
    systems = {"supervised": 1.0, "copy": 0.0}
    rows = [(system, chain, "ag", str(item), "score", mean + chain / 10 + item)
            for system, mean in systems.items() for chain in range(3) for item in range(4)]  # fmt: skip
    then = pd.DataFrame(rows, columns=["system", "chain", "subset", "id", "metric", "value"])
    now = then.assign(value=then["value"] + 2 * (then["system"] == "supervised"))

    def results(table):
        def read(name):
            if name != "evaluation/fdm_scores.csv":
                raise NotMeasuredError(f"{name} is missing")
            return table

        return Measurements(read)

    found = verify.compare_numbers(results(then), results(now)).set_index("number")
    assert found["within"].to_dict() == {"copy score": True, "supervised score": False}
    assert found.loc["supervised score", "now"] - found.loc["supervised score", "then"] == pytest.approx(2)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two checkouts with one results file each, whose ledgers are given."""
    ledgers = {}
    for name in ("then", "now"):
        folder = tmp_path / name / "reports/results/idm"
        folder.mkdir(parents=True)
        (folder / "data.csv").write_text("model,subset,available,used\n")
        machine = {"machines": {"86f057423f14": {"cpu": "a processor"}}, "stages": {"idm": "86f057423f14"}}
        (tmp_path / name / "reports/machine.json").write_text(json.dumps(machine))
        shutil.copy(verify.repository_root() / "params.yaml", tmp_path / name / "params.yaml")
    monkeypatch.setattr(verify, "build_ledger", lambda results: ledgers[results.profile.name])
    return tmp_path, ledgers


def test_a_turned_verdict_ends_with_status_1(runs, capsys):
    folder, ledgers = runs
    ledgers["then"] = ledger(b_one=("holds", 1.0, 0.1, 3))
    ledgers["now"] = ledger(b_one=("holds", 1.1, 0.1, 3))
    paths = [str(folder / name) for name in ("then", "now")]
    assert verify.main(paths) == 0
    page = capsys.readouterr().out
    assert "no verdict turned over" in page
    assert "1 of 1 results files have the same bytes" in page
    assert "86f057423f14 (native, a processor)" in page
    ledgers["now"] = ledger(b_one=("fails", -1.0, 0.1, 3))
    assert verify.main(paths) == 1
    page = capsys.readouterr().out
    assert "1 verdicts turned over: b_one (kitchen)" in page
    assert "commit the new results" in page


def test_nothing_to_compare_is_said(tmp_path, capsys):
    assert verify.main(["no-such-revision"]) == 2
    assert "no-such-revision is neither a folder nor a git revision" in capsys.readouterr().err
    assert verify.main([str(tmp_path)]) == 2
    assert "has no results of profile ." in capsys.readouterr().err
