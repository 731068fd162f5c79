"""Unusable items are counted, summarised and written; readers warn when nobody collects them."""

from __future__ import annotations

import warnings

import pytest

from visdyn.datasets.bad_items import collecting
from visdyn.paths import without_folders
from visdyn.quarantine import Quarantine, SetAsideError


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
    with pytest.warns(UserWarning, match="here: 1 quarantined, first: x"), collecting(None, "here", []) as bad:
        bad.add("x", "why")


def test_with_a_quarantine_nothing_is_warned():
    mine = Quarantine()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with collecting(mine, "here", []) as bad:
            bad.add("x", "why")
    assert bad is mine
    assert len(mine) == 1


@pytest.mark.parametrize(("most", "aside", "usable", "refused"), [
    (0.5, 1, 1, False), (0.5, 2, 1, True), (1.0, 2, 1, False), (1.0, 2, 0, True), (0.0, 1, 99, True),
    (0.0, 0, 0, False), (None, 2, 0, False),
])  # fmt: skip
def test_a_data_set_of_which_too_much_is_set_aside_is_refused_in_one_sentence(most, aside, usable, refused):
    quarantine = Quarantine(most=most, folders=("/data/aurora",))
    quarantine.add("of another data set", "why")
    before = len(quarantine)
    for number in range(aside):
        quarantine.add(f"/data/aurora/{number}.png", "image /data/aurora/a.png is empty")
    if not refused:
        return quarantine.refuse_most("/data/aurora/test.json", usable, before)
    with pytest.raises(SetAsideError) as caught:
        quarantine.refuse_most("/data/aurora/test.json", usable, before)
    said = str(caught.value)
    assert said.startswith(f"test.json: {aside} of {aside + usable} set aside, ")
    assert said.endswith("; first: 0.png (image a.png is empty)")
    assert ("nothing is left" in said) == (not usable)


def test_what_was_judged_unfit_or_is_named_twice_does_not_count_as_damage():
    quarantine = Quarantine(most=0.5)
    for _ in range(2):
        quarantine.add("a", "cannot be read")
    quarantine.add("b", "fails the quality filter", unfit=True)
    quarantine.refuse_most("pairs", 1)


def test_a_reader_that_sets_too_much_aside_says_so_at_its_end():
    allowed = pytest.raises(SetAsideError, match=r"here: 2 of 3 set aside, runtime\.most_set_aside allows 50%")
    with allowed, collecting(Quarantine(most=0.5), "here", ["kept"]) as bad:
        bad.add("x", "why")
        bad.add("y", "why")


def test_lists_name_no_folder_of_the_machine(tmp_path):
    quarantine = Quarantine(folders=("/home/me", "/home/me/kit", "/"))
    quarantine.add("/home/me/kit/data/a.avi", "/home/me/kit/data/a.avi has 1 frame; /home/me/.cache/b, /home/meister/c")
    quarantine.add("b\udcff", "name of other bytes")
    quarantine.write(tmp_path / "list.csv")
    assert (tmp_path / "list.csv").read_text(encoding="utf-8").splitlines()[1:] == [
        "b\\udcff,name of other bytes", 'data/a.avi,"data/a.avi has 1 frame; .cache/b, /home/meister/c"'
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [
    ("/data/epic/frames/a.jpg", "frames/a.jpg"), ("in /data/epic, no", "in ., no"), ("'/data/epic/'", "'.'"),
    ("/data/epic-100/x", "/data/epic-100/x"), ("/mnt/data/epic/x", "/mnt/data/epic/x"),
    ("file:///data/epic/x", "file://x"), ("/data/epic//x:/data/epic/y", "x:y"), ("/data/epic/é.png", "é.png"),
    ("/data/epic.old", "/data/epic.old"),
])  # fmt: skip
def test_a_folder_is_taken_from_before_its_own_files_alone(text, expected):
    assert without_folders(text, ["/data/epic/", "/"]) == expected
