"""`reports/metrics.json`: the same numbers as the tables, declared for DVC, empty where nothing was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from visdyn.paths import repository_root
from visdyn.pipeline import run_stages
from visdyn.pipeline.headline import FILE, main, measure_headline
from visdyn.reporting.results import ResultError

ROOT = repository_root()
RESULTS = ROOT / "reports/results"


@pytest.fixture(scope="module")
def numbers():
    return measure_headline(ROOT)


def read(name: str) -> pd.DataFrame:
    found = next(path for path in (RESULTS / f"{name}.csv", RESULTS / f"{name}.csv.gz") if path.is_file())
    return pd.read_csv(found, low_memory=False)


def of_chains(rows: pd.DataFrame, column: str = "value") -> float:
    return pytest.approx(
        sum(own[column].mean() for _, own in rows.groupby("chain")) / rows["chain"].nunique(), rel=1e-9
    )


def test_there_are_about_a_dozen(numbers):
    assert 10 <= sum(len(section) for section in numbers.values()) <= 14
    assert all(value is not None for section in numbers.values() for value in section.values())


def test_the_numbers_are_those_of_the_tables(numbers):
    texts = read("idm_evaluation/text_metrics")
    exact = texts[texts["metric"] == "exact"]
    assert numbers["idm"]["exact_all_labels"] == of_chains(exact[exact["model"] == "idm"])
    assert numbers["idm"]["exact_same_labels"] == of_chains(exact[exact["model"] == "idm_same_labels"])
    pairs = read("annotation/pairs")
    assert numbers["idm"]["right_labels"] == of_chains(
        pairs[(pairs["selected"] == 1)].dropna(subset="correct"), "correct"
    )
    scores = read("evaluation/fdm_scores")
    for label, system in {"C-ZS": "zero_shot", "C-FT": "supervised", "C-FDM": "synthetic_weighted"}.items():
        own = scores[(scores["system"] == system) & (scores["metric"] == "score")]
        assert numbers["fdm"][label] == of_chains(own)
    edits = read("evaluation_doundo/doundo_scores")
    edits = edits[(edits["metric"] == "joint") & (edits["prompt"] == "long") & (edits["reverse_from"] == "generated")]
    assert numbers["doundo"]["Do-Undo_both_right"] == of_chains(edits[edits["system"] == "doundo"])


def test_the_best_of_k_is_the_mean_score_of_what_the_idm_finds_likeliest(numbers):
    candidates, scores = read("verification/candidates"), read("evaluation/candidate_scores")
    keys = ["arm", "chain", "draw", "subset", "id", "candidate"]
    judged = candidates.merge(scores[scores["metric"] == "score"], on=keys)
    judged = judged[judged["arm"] == "supervised"]
    chosen = judged.loc[judged.groupby(keys[1:5])["idm_log_likelihood"].idxmax()]  # of candidates alike, the first
    subsets = chosen.groupby(["chain", "draw", "subset"])["value"].mean()
    assert numbers["best_of_k"]["C-FT_by_idm"] == pytest.approx(
        subsets.groupby(["chain", "draw"]).mean().mean(), rel=1e-6
    )


def test_the_verdicts_are_those_of_the_ledger_without_the_authors_own(numbers):
    ledger = pd.read_csv(ROOT / "reports/claims.csv")
    counts = ledger[ledger["evidence"] != "recorded"]["verdict"].value_counts()
    assert numbers["claims"] == {verdict: counts[verdict] for verdict in ("holds", "fails", "undecided")}


def test_the_committed_file_is_of_these_results(tmp_path):
    for name in ("reports/results", "reports/claims.csv", "params.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    main(["--profile", str(tmp_path)])
    assert (tmp_path / FILE).read_bytes() == (ROOT / FILE).read_bytes(), "run `visdyn metrics`"


def test_what_was_not_measured_is_null_and_not_0(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "reports/results").mkdir(parents=True)
    found = measure_headline(tmp_path)
    assert {value for section in found.values() for value in section.values()} == {None}


@pytest.mark.parametrize(
    "pipeline", [ROOT / "dvc.yaml", *sorted(ROOT.glob("profiles/*/dvc.yaml"))], ids=lambda p: p.parent.name
)
def test_dvc_is_told_of_it_and_of_three_plots_of_declared_columns(pipeline):
    declared = yaml.safe_load(pipeline.read_text())
    assert declared["metrics"] == [FILE]
    plots = {name: plot for entry in declared["plots"] for name, plot in entry.items()}
    assert len(plots) >= 3
    for plot in plots.values():
        for axis in (plot["x"], plot["y"]):
            for file, columns in axis.items():
                header = read(str(Path(file).relative_to("reports/results").with_suffix(""))).columns
                assert set([columns] if isinstance(columns, str) else columns) <= set(header)


def test_status_asks_dvc_for_one_profile(monkeypatch):
    asked = []
    monkeypatch.setattr(
        run_stages, "run_command", lambda command, folder, variables: asked.append((command, folder)) or 0
    )
    assert run_stages.show_status(["--profile", str(ROOT / "profiles/smoke")]) == 0
    [(command, folder)] = asked
    assert command[-3:] == ["dvc", "status", "dvc.yaml"]
    assert folder == ROOT / "profiles/smoke"


def test_a_run_writes_the_file_where_it_succeeded_only(monkeypatch, tmp_path):
    wrote = []
    monkeypatch.setattr("visdyn.pipeline.headline.main", lambda arguments: wrote.append(arguments))
    monkeypatch.setattr(run_stages, "summarise", lambda *_: [])
    for status in (1, 0):
        monkeypatch.setattr(run_stages, "run_command", lambda *_, status=status: status)
        assert run_stages.main(["--profile", str(ROOT / "profiles/smoke")]) == status
    assert wrote == [["--profile", str(ROOT / "profiles/smoke")]]


def test_a_result_that_cannot_be_read_does_not_end_a_run_that_succeeded(monkeypatch, tmp_path, capsys):
    def refuse(arguments):
        raise ResultError("fdm_scores.csv has a torn row")

    monkeypatch.setattr("visdyn.pipeline.headline.main", refuse)
    monkeypatch.setattr(run_stages, "summarise", lambda *_: ["the summary"])
    monkeypatch.setattr(run_stages, "run_command", lambda *_: 0)
    assert run_stages.main(["--profile", str(ROOT / "profiles/smoke")]) == 0
    printed = capsys.readouterr()
    assert "the summary" in printed.out
    assert "was not written: fdm_scores.csv has a torn row" in printed.err


def test_json_is_plain(numbers):
    assert json.loads((ROOT / FILE).read_text()).keys() == numbers.keys()
