"""The one reader each of text, JSON and CSV files: the values that were meant, or the kit's own error with the name."""

from __future__ import annotations

import csv
import io
import json
import os
from contextlib import suppress

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visdyn import readers
from visdyn.paths import OutsideError, inside, printable
from visdyn.quarantine import Quarantine
from visdyn.readers import FileError, Unusable

FRESH = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_in_every_marked_encoding(tmp_path, encoding):
    (tmp_path / "a.json").write_text('{"é": "\u2028 stays"}', encoding=encoding)
    assert readers.read_json(tmp_path / "a.json", dict) == {"é": "\u2028 stays"}
    (tmp_path / "a.jsonl").write_text('{"é": "\u2028 stays"}\n\n[1]\n', encoding=encoding)
    assert readers.read_lines(tmp_path / "a.jsonl") == [(1, {"é": "\u2028 stays"}), (3, [1])]
    (tmp_path / "a.csv").write_text("id,é\n1,ü\n", encoding=encoding)
    assert readers.read_rows(tmp_path / "a.csv", ["id", "é"]) == [(2, {"id": "1", "é": "ü"})]


def test_other_text_and_what_is_no_file_are_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(FileError, match=r"latin\.txt is no UTF-8 text \(byte 0xe9 at place 0\); save it as UTF-8"):
        readers.read_text(tmp_path / "latin.txt")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = {"pipe": "is no file", ".": "is no file", "absent": "does not exist"}
    for name, reason in (cases | dict.fromkeys(("loop", "n" * 300, "nul\0"), "cannot be read")).items():
        with pytest.raises(KeyError, match=rf"{reason}.*; give the file"):
            readers.read_text(tmp_path / name, KeyError, "give the file")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('[{"b": {"a": 1, "a": 1}}]', "the key 'a' stands twice"),
        ("[NaN]", "NaN is no number"),
        ('{"x": -Infinity}', "-Infinity is no number"),
        ("[1e999]", "larger than any number"),
        ("[" + "9" * 5000 + "]", "limit"),
        ('["\\ud800"]', "half a character"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("[1, 2", "delimiter"),
        ("", "Expecting value"),
        ("<html>", "Expecting value"),
        ("[1] [2]", "Extra data"),
    ],
)
def test_bad_json_is_refused(tmp_path, text, reason):
    (tmp_path / "x.json").write_text(text)
    for read in (readers.read_json, readers.read_items):
        if read is readers.read_items and "stands twice" in reason and text.startswith("["):
            continue  # one item of many: see below
        if read is readers.read_items and text.startswith("[") and text.endswith("]") and "nested" not in reason:
            continue
        with pytest.raises(FileError, match=rf"x\.json (is not valid JSON .*{reason}|holds a dict)"):
            read(tmp_path / "x.json")


def test_another_type_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(FileError, match=r"x\.json holds a list where a dict is expected"):
        readers.read_json(tmp_path / "x.json", dict)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(FileError, match="holds a dict where a list"):
        readers.read_items(tmp_path / "x.json")


def test_one_bad_item_of_many_is_set_aside(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(' [ {"a": 1}, {"a": 1, "a": 2}, {"a": NaN}, "\\ud800", {"a": "[,]"} ] ')
    first, twice, nan, half, last = readers.read_items(path)
    assert (first, last) == ({"a": 1}, {"a": "[,]"})
    for item, reason in ((twice, "stands twice"), (nan, "NaN"), (half, "half a character")):
        assert isinstance(item, Unusable)
        assert reason in item.reason
    path.write_text('{"a": 1}\n{"a": 1,\n"x"\n')
    with pytest.raises(FileError, match=r"x\.json line 2 is not valid JSON"):
        readers.read_records(path)
    path.write_text('{"a": 1}\n"x"\n')
    with pytest.raises(FileError, match="line 2 is a str, not an object"):
        readers.read_records(path)


@FRESH
@given(st.lists(VALUES, max_size=5))
def test_what_json_writes_is_read_again(tmp_path, values):
    for escaped in (True, False):
        (tmp_path / "x.json").write_text(json.dumps(values, ensure_ascii=escaped), encoding="utf-8")
        assert readers.read_items(tmp_path / "x.json") == readers.read_json(tmp_path / "x.json", list) == values
        lines = "".join(json.dumps(value, ensure_ascii=escaped) + "\n" for value in values)
        (tmp_path / "x.jsonl").write_text(lines, encoding="utf-8")
        assert [value for _, value in readers.read_lines(tmp_path / "x.jsonl")] == values


@FRESH
@given(st.binary(max_size=60) | st.sampled_from([b"[", b'{"a":', b"\xff\xfe[", b"a,b\n"]).flatmap(
    lambda head: st.binary(max_size=40).map(lambda tail: head + tail)))  # fmt: skip
def test_any_bytes_are_values_or_the_kit_s_own_error(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    for read in (readers.read_text, readers.read_json, readers.read_items, readers.read_lines, readers.read_records,
                 readers.read_rows, readers.read_frame):  # fmt: skip
        with suppress(FileError):  # any other exception fails
            read(tmp_path / "x")


@FRESH
@given(st.lists(st.lists(TEXTS.map(lambda text: text.replace("\0", "")), min_size=2, max_size=2), max_size=5))
def test_what_csv_writes_is_read_again(tmp_path, rows):
    rows = [[f"x{first}", second] for first, second in rows]  # no line is empty
    for separator in ",;\t":
        with open(tmp_path / "x.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=separator).writerows([["id", "text"], *rows])
        read = readers.read_rows(tmp_path / "x.csv", ["id", "text"])
        assert [list(row.values()) for _, row in read] == rows


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("id\n1\n", "lacks the column text"),
        ("id,text,id\n1,a,2\n", "has the column id twice"),
        ("id,text\n1\n", "line 2 has 1 cells under 2 columns"),
        ("id,text\n1,a,b\n", "line 2 has 3 cells under 2 columns"),
        ('id,text\n1,"a\n', "line 2 is no line of CSV"),
        ('id,text\n1,"a"b\n', "line 2 is no line of CSV"),
        ("id,text\n1,\0\n", "line 2 holds a byte 0"),
        ("id,text\n1," + "x" * 200_000 + "\n", "line 2 is no line of CSV .field larger"),
    ],
)
def test_bad_csv_is_refused(tmp_path, content, reason):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(FileError, match=rf"x\.csv {reason}"):
        readers.read_rows(tmp_path / "x.csv", ["id", "text"])
    if "lacks" not in reason:
        with pytest.raises(FileError, match=rf"x\.csv {reason}"):
            readers.read_frame(tmp_path / "x.csv", dtype=str)


def test_ragged_rows_of_many_are_set_aside(tmp_path):
    (tmp_path / "x.csv").write_text('id,text\n1,"two\nlines"\n2\n\n3,c,,\n')
    bad = Quarantine()
    rows = readers.read_rows(tmp_path / "x.csv", ["id"], report=bad.add)
    assert rows == [(3, {"id": "1", "text": "two\nlines"}), (6, {"id": "3", "text": "c"})]
    assert [(entry.item, entry.reason) for entry in bad] == [("x.csv line 4", "has 1 cells under 2 columns")]


def test_a_frame_is_as_pandas_reads_it(tmp_path):
    text = 'id,value,note\n007,1.5,"a, b"\n008,,\n'
    (tmp_path / "x.csv").write_text(text)
    for options in ({}, {"dtype": str, "keep_default_na": False}, {"dtype": {"id": str}}):
        pd.testing.assert_frame_equal(
            readers.read_frame(tmp_path / "x.csv", **options), pd.read_csv(io.StringIO(text), **options)
        )
    with pytest.raises(KeyError, match="cannot be read as a table"):
        readers.read_frame(tmp_path / "x.csv", KeyError, dtype={"note": float})


@pytest.mark.parametrize("row", ["1", "1,2,3", '"1,2"'])
def test_a_ragged_row_is_no_frame(row, tmp_path):
    (tmp_path / "x.csv").write_text(f"id,value\n7,8\n{row}\n")  # pandas fills a short row up and shifts a long one
    with pytest.raises(readers.FileError, match=r"x\.csv line 3 has \d cells under 2 columns"):
        readers.read_frame(tmp_path / "x.csv")


def test_paths_that_leave_their_root_are_refused(tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    assert inside(root, "a/b.png") == root / "a/b.png"
    assert inside(root, "a/../b.png").name == "b.png"
    for name in ("/etc/passwd", "../x", "a/../../x", "..", "x\0y"):
        with pytest.raises(OutsideError, match="leads out of"):
            inside(root, name)
    (root / "link").symlink_to(tmp_path)
    assert inside(root, "link/x.png") == root / "link/x.png"  # data sets are linked into place
    with pytest.raises(OutsideError):
        inside(root, "link/x.png", links=False)  # but nothing is written through a link


@given(TEXTS | st.text(max_size=9))
def test_any_name_can_be_printed(name):
    shown = printable(name)
    assert shown.isprintable() or not shown
    shown.encode("utf-8")


def test_a_quarantine_takes_names_of_any_bytes(tmp_path):
    bad = Quarantine()
    bad.add(os.fsdecode(b"clip\xff.avi"), f"is {os.fsdecode(bytes([255]))} damaged")
    bad.write(tmp_path / "q.csv")
    ((_, row),) = readers.read_rows(tmp_path / "q.csv", ["item", "reason"])
    assert row["item"] == "clip\\udcff.avi"
    assert "\\udcff" in bad.summary()
