"""Unusable items are counted, summarised and written; readers warn when nobody collects them."""

from __future__ import annotations

import warnings

import pytest

from visdyn.datasets.bad_items import collecting
from visdyn.quarantine import Quarantine


def test_items_are_counted_and_summarised(tmp_path):
    quarantine = Quarantine()
    assert quarantine.summary() == "nothing quarantined"
    quarantine.add(tmp_path / "b", "is empty, alas")
    quarantine.add("a", "is missing")
    assert len(quarantine) == 2
    assert [entry.reason for entry in quarantine] == ["is empty, alas", "is missing"]
    assert quarantine.summary().startswith("2 quarantined, first: ")


def test_written_lists_are_sorted_and_quoted(tmp_path):
    quarantine = Quarantine()
    quarantine.add("b", "one, two")
    quarantine.add("a", "three")
    quarantine.write(tmp_path / "deep" / "list.csv")
    assert (tmp_path / "deep" / "list.csv").read_bytes() == b'item,reason\na,three\nb,"one, two"\n'


def test_without_a_quarantine_bad_items_are_warned_of():
    with pytest.warns(UserWarning, match="here: 1 quarantined, first: x"), collecting(None, "here") as bad:
        bad.add("x", "why")


def test_with_a_quarantine_nothing_is_warned():
    mine = Quarantine()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with collecting(mine, "here") as bad:
            bad.add("x", "why")
    assert bad is mine
    assert len(mine) == 1
