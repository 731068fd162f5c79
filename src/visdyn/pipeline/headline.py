"""`visdyn metrics`: `reports/metrics.json`, a dozen numbers of a profile's results, for `dvc metrics` and `dvc exp`.

They are means over chains of what the tables hold, and counts of the ledger of claims; for a conclusion see the
ledger. `visdyn run` writes the file when it has finished. No stage makes it, so that what is in it can change and no
stage is out of date.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from visdyn.evaluation.measurements import with_scores
from visdyn.paths import profile_root
from visdyn.pipeline.tables import write_json
from visdyn.readers import read_rows
from visdyn.reporting.results import Results
from visdyn.reporting.summaries import verification_curves

FILE = "reports/metrics.json"
LEDGER = "reports/claims.csv"
VERDICTS = ("holds", "fails", "undecided")


def measure_headline(root: Path) -> dict[str, dict[str, float | int | None]]:
    """Return the numbers by section and name; what was not measured is None.

    Sections: `claims` (verdicts on what was run here), `idm` (share of actions named exactly, and of selected labels
    that are right), `fdm` (the judge's score, 0 to 10), `best_of_k` (the same, of the best of the most candidates),
    `doundo` (share of actions that are done and undone).

    Args:
        root: folder of the profile.
    """
    results = Results(root)
    return {
        "claims": _count_verdicts(root / LEDGER),
        "idm": _measure_inverse(results),
        "fdm": _measure_forward(results),
        "best_of_k": _measure_chosen(results),
        "doundo": _measure_doundo(results),
    }


def _count_verdicts(ledger: Path) -> dict[str, int | None]:
    if not ledger.is_file():
        return dict.fromkeys(VERDICTS)
    rows = [row for _, row in read_rows(ledger, ("evidence", "verdict"))]
    # `recorded` is what the authors' own replies say: no run changes it.
    own = [row["verdict"] for row in rows if row["evidence"] != "recorded"]
    return {verdict: own.count(verdict) for verdict in VERDICTS}


def _measure_inverse(results: Results) -> dict[str, float | None]:
    texts, pairs = results.read_or_none("idm_evaluation/text_metrics.csv"), results.read_or_none("annotation/pairs.csv")
    exact = None if texts is None else texts[texts["metric"] == "exact"].rename(columns={"model": "name"})
    known = None if pairs is None else pairs[(pairs["selected"] == 1) & pairs["correct"].notna()].assign(name="labels")
    return {
        "exact_same_labels": _average_chains(exact, "idm_same_labels", "value"),
        "exact_all_labels": _average_chains(exact, "idm", "value"),
        "right_labels": _average_chains(known, "labels", "correct"),
    }


def _measure_forward(results: Results) -> dict[str, float | None]:
    scores = results.read_or_none("evaluation/fdm_scores.csv")
    judged = None if scores is None else scores[scores["metric"] == "score"].rename(columns={"system": "name"})
    arms = {"C-ZS": "zero_shot", "C-FT": "supervised", "C-FDM": "synthetic_weighted"}
    return {label: _average_chains(judged, name, "value") for label, name in arms.items()}


def _measure_chosen(results: Results) -> dict[str, float | None]:
    candidates = results.read_or_none("verification/candidates.csv")
    scores = results.read_or_none("evaluation/candidate_scores.csv")
    if candidates is None or scores is None:
        return {"C-FT_by_idm": None}
    curves = verification_curves(with_scores(candidates, scores))
    most = curves[(curves["subset"] == "all") & (curves["k"] == curves["k"].max()) & (curves["arm"] == "supervised")]
    values = most.set_index("selector")["value"]
    return {"C-FT_by_idm": float(values["idm"]) if "idm" in values else None}


def _measure_doundo(results: Results) -> dict[str, float | None]:
    scores = results.read_or_none("evaluation_doundo/doundo_scores.csv")
    if scores is not None:
        scores = scores[(scores["prompt"] == "long") & (scores["reverse_from"] == "generated")]
        scores = scores[scores["metric"] == "joint"].rename(columns={"system": "name"})
    names = {"BAGEL": "base", "Do-Undo": "doundo"}
    return {f"{label}_both_right": _average_chains(scores, name, "value") for label, name in names.items()}


def _average_chains(table: pd.DataFrame | None, name: str, column: str) -> float | None:
    """Return the mean over chains of the means of a chain; None where the table has no such rows or no number."""
    own = table if table is None else table[table["name"] == name]
    if own is None or own[column].notna().sum() == 0:
        return None
    return float(own.groupby("chain", dropna=False)[column].mean().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `reports/metrics.json` of a profile from its results."""
    parser = argparse.ArgumentParser(prog="visdyn metrics", description=main.__doc__)
    parser.add_argument("--profile", default=".", help="folder with params.yaml (default: the embedded default)")
    root = profile_root(parser.parse_args(arguments).profile)
    write_json(measure_headline(root), root / FILE)
