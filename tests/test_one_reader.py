"""Images, videos, JSON and CSV files are opened by one reader each; whatever else parses them is named here."""

from __future__ import annotations

import ast

import pytest

from visdyn.paths import repository_root

SOURCE = repository_root() / "src/visdyn"
# A call by its last two names -> the reader that makes it for everybody.
READERS = {
    "Image.open": "images.py",
    "cv2.imread": "images.py",
    "cv2.imdecode": "images.py",
    "cv2.VideoCapture": "videos.py",
    "json.load": "readers.py",
    "json.loads": "readers.py",
    "json.JSONDecoder": "readers.py",
    "csv.reader": "readers.py",
    "csv.DictReader": "readers.py",
    "pandas.read_csv": "readers.py",
    "pandas.read_json": "readers.py",
}
STORE = "values of the kit's own store, which were whole when they were put there"
ANSWER = "what a server or a model says, whose failure to be JSON is an outcome of its own"
RESULTS = "the one reader of result tables, which checks their rows too"
EXCEPTIONS = {
    ("compute/rows.py", "json.loads"): STORE,
    ("compute/store.py", "json.loads"): STORE,
    ("models/understanding/chat_cache.py", "json.loads"): STORE,
    ("human_study/study_store.py", "json.loads"): STORE,
    ("endpoint/client.py", "json.loads"): ANSWER,
    ("endpoint/replies.py", "json.loads"): ANSWER,
    ("evaluation/judges/json_answers.py", "json.loads"): ANSWER,
    ("inference/do_undo.py", "json.loads"): "brings a record in memory to what JSON makes of it",
    ("training/engine/launch.py", "json.loads"): "brings a description in memory to what JSON makes of it",
    ("pipeline/fingerprint.py", "json.loads"): "what the kit's own process has just printed",
    ("result_tables.py", "pandas.read_csv"): RESULTS,
    ("result_tables.py", "csv.reader"): RESULTS,
    (
        "models/weight_files.py",
        "json.loads",
    ): "the one reader of checkpoints: settings by name, headers of weight files",
    ("pipeline/processes.py", "json.loads"): "DVC's own note, read by a process that imports nothing of the kit",
    ("stages/contact_sheets.py", "Image.open"): "a sheet that matplotlib has just drawn into memory",
}


def calls(text: str) -> set[str]:
    """Return those of `READERS` that a module calls, also under a name of its own (`from json import loads`)."""
    tree, renamed = ast.parse(text), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            last = (node.module or "").split(".")[-1]
            renamed |= {alias.asname or alias.name: f"{last}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Import):
            renamed |= {alias.asname: alias.name for alias in node.names if alias.asname}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            base = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            base = renamed.get(base, base).split(".")[-1]
            found |= {f"{base}.{node.attr}"}
        if isinstance(node, ast.Name):
            found.add(renamed.get(node.id, ""))
    return found & READERS.keys()


def test_files_are_opened_by_the_one_reader_each():
    found = {
        (path.relative_to(SOURCE).as_posix(), call)
        for path in SOURCE.rglob("*.py")
        for call in calls(path.read_text())
        if READERS[call] != path.relative_to(SOURCE).as_posix()
    }
    assert found - EXCEPTIONS.keys() == set(), "read it with visdyn.images, visdyn.videos or visdyn.readers"
    assert EXCEPTIONS.keys() - found == set(), "an exception that nobody needs"


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("from PIL import Image\nImage.open(path)", "Image.open"),
        ("import PIL.Image\nPIL.Image.open(path)", "Image.open"),
        ("from PIL import Image as Picture\nPicture.open(path)", "Image.open"),
        ("from PIL.Image import open as look\nlook(path)", "Image.open"),
        ("import cv2\ncv2.VideoCapture(path)", "cv2.VideoCapture"),
        ("import json as j\nj.loads(text)", "json.loads"),
        ("from json import loads\nloads(text)", "json.loads"),
        ("import pandas as frames\nframes.read_csv(path)", "pandas.read_csv"),
        ("import csv\nrows = map(csv.reader, files)", "csv.reader"),
    ],
)
def test_a_second_reader_is_found_under_any_name(text, call):
    assert call in calls(text)
