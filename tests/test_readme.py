"""The README's numbers are those of the results in git, and its commands exist."""

from __future__ import annotations

import re
import subprocess

import pytest

from visdyn.paths import repository_root
from visdyn.reporting.readme import END, START, block, rewritten
from visdyn.reporting.results import Results

ROOT = repository_root()
README = (ROOT / "README.md").read_text()


def test_the_table_of_results_is_made_from_the_results_in_git():
    changed = subprocess.run(["git", "status", "--porcelain", "reports/results"], cwd=ROOT, capture_output=True)
    if changed.returncode or changed.stdout.strip():
        pytest.skip("reports/results are not those in git: they belong to another run")
    assert rewritten(README, block(Results(ROOT))) == README, "run `python -m visdyn.reporting.readme`"


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
