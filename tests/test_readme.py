"""The README's numbers are those of the results here, and its commands exist."""

from __future__ import annotations

import re
import shutil

import pandas as pd
import pytest

from visdyn.paths import repository_root
from visdyn.reporting.ledger import load_claims
from visdyn.reporting.readme import END, START, block, rewritten
from visdyn.reporting.results import Results

ROOT = repository_root()
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def tables_here():
    return block(Results(ROOT))


def test_the_tables_of_results_are_made_from_the_results_here(tables_here):
    assert rewritten(README, tables_here) == README, (
        "reports/results and README.md do not belong together: run `visdyn readme`"
    )


def test_another_result_makes_another_readme(tables_here, tmp_path):
    shutil.copytree(ROOT / "reports/results", tmp_path / "reports/results")
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    path = tmp_path / "reports/results/idm_evaluation/predictions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["prediction"] = table["reference"]
    table.to_csv(path, index=False)
    changed = "\n".join(set(block(Results(tmp_path)).splitlines()) - set(tables_here.splitlines()))
    assert "cannot name actions" in changed
    assert "| kitchen | 0.36 | 0.00 |" in changed  # zero-shot and fine-tuned answers are all right now


def test_the_claims_that_lead_stand_first_and_all_others_are_folded(tables_here):
    first, _, folded = tables_here.partition("<details>")
    leading = [claim.claim for claim in load_claims() if claim.leads]
    assert 8 <= len(leading) <= 16
    assert all(f"| {claim} |" in first for claim in leading)
    assert first.count("\n|") < 24  # a screen
    others = {claim.claim for claim in load_claims() if not claim.leads}
    assert not any(f"| {claim} |" in first for claim in others)
    assert sum(f"| {claim} |" in folded for claim in others) > 40
    assert folded.count("<details>") + 1 == folded.count("</details>") == 2
    assert "\n\n| claim" in folded  # Markdown inside of HTML needs an empty line before it


def test_only_the_block_between_the_marks_is_replaced():
    text = f"before\n{START}\nold\n{END}\nafter\n"
    assert rewritten(text, "| new |\n") == f"before\n{START}\n\n| new |\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match=r"README.md must hold the marks"):
        rewritten("nothing", "")


def test_every_make_target_that_the_readme_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`make ([a-z-]+)", README))
    assert named
    assert named <= targets
