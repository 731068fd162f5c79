"""docs/reliability.md says what its CSV says, and names tests that there are."""

from __future__ import annotations

import re

import mutate_guards
import pytest
import reliability_page
import torture
from reliability_page import BEFORE, PAGE, ROOT, Result, draw_page, draw_table, read_results

TEXT = PAGE.read_text(encoding="utf-8")
OTHERS = {"repro kills", "foreign settings", "guards switched off"}


def test_the_table_is_that_of_the_results():
    assert draw_page(TEXT, read_results()) == TEXT, "run python tests/reliability_page.py"


def test_results_are_of_families_that_there_are_and_hold_no_more_than_was_tried():
    results = read_results()
    assert results.keys() <= torture.FAMILIES.keys() | OTHERS
    assert all(0 <= one.held <= one.tried for one in results.values())
    assert {family for row in BEFORE for family in row[3]} <= torture.FAMILIES.keys() | OTHERS
    assert len(mutate_guards.GUARDS) >= 25


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", TEXT)
    assert len(named) > 30
    for file, name in named:
        text = (ROOT / "tests" / file).read_text()
        assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), f"{file}::{name}"


def test_a_row_is_written_in_its_place_and_a_family_without_one_is_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(reliability_page, "RESULTS", tmp_path / "r.csv")
    monkeypatch.setattr(reliability_page, "PAGE", tmp_path / "r.md")
    (tmp_path / "r.md").write_text(f"head\n{reliability_page.BEGIN}\nwhat was there\n{reliability_page.END}\ntail\n")
    reliability_page.write_results([Result("images", 60, 59, "day", 0, "abc")])
    reliability_page.write_results(
        [Result("images", 60, 60, "day", 1, "def"), Result("foreign settings", 9, 9, "smoke", 0, "d")]
    )
    text = (tmp_path / "r.md").read_text()
    assert text.startswith("head\n")
    assert text.endswith("\ntail\n")
    assert "what was there" not in text
    assert "| 83 | 74 | images | 60 | 60 |" in text
    assert "| foreign settings | 9 | 9 |" in text
    assert "| params | | |" in text
    assert "images (day, seed 1, commit def)" in text
    assert (tmp_path / "r.csv").read_text().count("images") == 1


@pytest.mark.parametrize("what", ["tried", "held"])
def test_a_number_that_is_changed_by_hand_is_seen(what):
    results = {"images": Result("images", 60, 60, "day", 0, "abc")}
    changed = {"images": Result(**{**vars(results["images"]), what: 61})}
    assert draw_table(results) != draw_table(changed)
