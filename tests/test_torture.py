"""The standing campaign at its smallest size, and that it can tell what holds from what does not."""

from __future__ import annotations

import random

import pytest
import torture
from torture import FAMILIES, OPEN, Case, judge


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in OPEN])
def test_closed_families_hold(name):
    (count,) = torture.run([name], "ci", 0).values()
    assert count.tried >= 1
    assert count.failures == []


@pytest.mark.parametrize("name", OPEN)
def test_open_families_are_tried_and_counted(name):
    (count,) = torture.run([name], "ci", 0).values()
    assert count.tried == torture.SIZES["ci"]
    assert count.held == count.tried - len(count.failures)


def fail_as_a_library(error):
    raise error


def refuse_in_own_words():
    from visdyn.images import load

    load("no-such-image.png")


def test_only_own_words_hold():
    assert judge(Case("right", lambda: "")) == ""
    assert judge(Case("refused", refuse_in_own_words)) == ""
    assert judge(Case("silent", lambda: "read as another")) == "read as another"
    assert judge(Case("foreign", lambda: fail_as_a_library(ValueError("x")))) == "ValueError: x"


def test_what_hangs_does_not_hold(monkeypatch):
    def hang():
        while True:
            pass

    monkeypatch.setattr(torture, "SECONDS", 1)
    assert judge(Case("hang", hang)) == "hangs for 1 s"


def test_the_same_seed_tries_the_same_cases(tmp_path):
    def names(seed):
        cases = FAMILIES["replies"][0](random.Random(f"{seed}:replies"), tmp_path)
        return [case.name for _, case in zip(range(20), cases, strict=False)]

    assert names(0) == names(0)
    assert names(0) != names(1)


def test_a_table_is_printed_and_a_failure_of_a_closed_family_is_the_exit_status(capsys, monkeypatch):
    assert torture.main(["replies", "--size", "ci"]) == 0
    assert "replies" in capsys.readouterr().out
    monkeypatch.setitem(FAMILIES, "replies", (lambda draw, folder: iter([Case("x", lambda: "wrong")]), 1))
    assert torture.main(["replies", "--size", "ci"]) == 1
    assert "replies: x: wrong" in capsys.readouterr().out
