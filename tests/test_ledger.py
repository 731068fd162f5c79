"""The ledger of claims: the kit's own claims.yaml, the printed values behind it, and what is written."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import reporting_results
import yaml

from visdyn.evaluation.claims import KINDS, VERDICTS
from visdyn.paths import repository_root
from visdyn.reporting import ledger as ledgers
from visdyn.reporting.results import Results

ROOT = repository_root()


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return reporting_results.write(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def ledger(profile):
    return ledgers.build_ledger(Results(profile, repository=profile))


def test_both_papers_have_their_claims():
    claims = ledgers.load_claims()
    counts = Counter(claim.paper for claim in claims)
    assert len(claims) >= 30
    assert min(counts.values()) >= 15
    assert all(claim.claim and claim.place for claim in claims)
    measured = [claim for claim in claims if any(test.statistic for test in claim.tests.values())]
    assert len(measured) >= 40


@pytest.mark.parametrize(
    ("name", "printed"),
    # Typed from the papers' text once more: Table 2, 3.67 - 3.26; Table 4; Table 3; appendix D; Table 1 of Do-Undo ...
    [
        ("b_bootstrapping_helps", 0.41), ("b_synthetic_helps", 0.09), ("b_weights_help", 0.15),
        ("b_weights_raise_es", 0.34), ("b_weights_cost_me", -0.14), ("b_idm_raises_preference", 0.176),
        ("b_finetuning_helps", 3.09), ("b_beats_editors", 0.26), ("b_copy_told_apart_forward", 1.0),
        ("b_synthetic_hurts_whatsup", -0.40), ("b_people_prefer_fdm", 0.06), ("b_verification_helps", 0.22),
        ("d_training_helps_doing", 0.08), ("d_average_dino_lower", -0.005), ("d_consistency_lowers_flow_error", -0.009),
        ("d_consistency_helps_return", -0.012), ("d_undoing_harder", 0.29), ("d_people_prefer", 0.167),
        ("d_prompt_length_doundo", -0.003),
    ],
)  # fmt: skip
def test_the_printed_effect_is_that_of_the_papers(ledger, name, printed):
    assert ledger.loc[ledger["id"] == name, "published"].iloc[0] == pytest.approx(printed)


def test_every_row_says_what_it_is_and_what_it_lacks(ledger):
    assert set(ledger["verdict"]) <= set(VERDICTS)
    assert set(ledger["evidence"]) <= set(KINDS)
    missing = ledger["verdict"] == "not measured"
    assert (ledger.loc[missing, "note"] != "").all()
    assert ledger.loc[missing, ["estimate", "low", "high", "chains", "n"]].isna().all(axis=None)
    assert ledger.loc[~missing, ["estimate", "n", "chains", "smallest"]].notna().all(axis=None)


def test_evidence_of_real_data_is_not_taken_from_the_kitchen(profile, ledger, tmp_path):
    judged = ledger[(ledger["id"] == "b_copy_wins_l1")].set_index("evidence")
    assert judged.loc["kitchen", "verdict"] != "not measured"
    assert judged.loc["real", "verdict"] == "not measured"
    real = reporting_results.write(tmp_path)
    (real / "params.yaml").write_text("world: {kind: external}\n")
    turned = ledgers.build_ledger(Results(real, repository=real))
    turned = turned[turned["id"] == "b_copy_wins_l1"].set_index("evidence")
    assert turned.loc["real", "verdict"] != "not measured"
    assert turned.loc["kitchen", "verdict"] == "not measured"


def test_the_ledger_is_written_and_read_again(ledger, tmp_path):
    paths = ledgers.write_ledger(ledger, tmp_path)
    assert [path.name for path in paths] == ["claims.csv", "claims.md", "claims.tex"]
    again = ledgers.read_ledger(paths[0])
    assert again["id"].tolist() == ledger["id"].tolist()
    assert np.allclose(again["estimate"], ledger["estimate"].astype(float), rtol=1e-5, equal_nan=True)
    text = paths[1].read_text()
    assert ledgers.summary(ledger) in text
    assert text.count("| not measured |") == (ledger["verdict"] == "not measured").sum()
    assert r"\toprule" in paths[2].read_text()


def test_numbers_have_the_digits_of_the_smallest_effect():
    row = dict.fromkeys(ledgers.COLUMNS, "") | {
        "claim": "one", "paper": "B", "place": "Table 2", "evidence": "kitchen", "smallest": 0.1, "published": 0.41,
        "estimate": 0.614296, "low": -0.2, "high": math.nan, "chains": 0, "n": 200, "verdict": "undecided",
        "note": "a note",
    }  # fmt: skip
    printed = ledgers.printed_rows(pd.DataFrame([row])).iloc[0]
    assert printed["claim"] == "one (a note)"
    assert (printed["published"], printed["estimate"], printed["low"], printed["high"]) == ("0.41", "0.61", "−0.20", "")
    assert (printed["chains"], printed["n"], printed["stands in"]) == ("none drawn", "200", "B Table 2")


def test_a_cell_that_no_paper_prints_is_refused(tmp_path, monkeypatch):
    content = yaml.safe_load((ROOT / "data/published/claims.yaml").read_text())
    content["claims"] = content["claims"][:1]
    content["claims"][0]["published"]["plus"] = ["b_figure2 | Forward-dynamics Modelling | Copied | *"]
    folder = tmp_path / "data/published"
    folder.mkdir(parents=True)
    (folder / "claims.yaml").write_text(yaml.safe_dump(content))
    (folder / "b_figure2.csv").write_bytes((ROOT / "data/published/b_figure2.csv").read_bytes())
    with pytest.raises(ValueError, match=r"b_figure2.csv has no cell 'Forward-dynamics Modelling \| Copied"):
        ledgers.build_ledger(Results(reporting_results.write(tmp_path / "profile")), tmp_path)
