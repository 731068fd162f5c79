"""No file of results names a folder of the machine that made it."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from visdyn.paths import repository_root

ROOT = repository_root()
REPORTS = [ROOT / "reports", *sorted(ROOT.glob("profiles/*/reports"))]
TEXTS = {".csv", ".json", ".md", ".tex", ".html", ".ipynb", ".txt", ".svg", ".yaml"}
# A path from the file system's root, behind no letter, colon or slash: not of an address, not a/b/c.
TOP = "home|root|Users|tmp|work|mnt|data|scratch|usr|opt|var|private|srv|nfs"
ABSOLUTE = re.compile(rf"(?<![\w.:/*}}-])/(?:{TOP})/[\w.-]")
PICTURES = re.compile(r"base64,[A-Za-z0-9+/=\s\\]+|\"image/\w+\": \"[^\"]*\"")


def read_text(path: Path) -> str:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return PICTURES.sub("", content.decode("utf-8", errors="replace"))


@pytest.mark.parametrize("reports", REPORTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_result_names_an_absolute_path(reports):
    found = {}
    for path in sorted(reports.rglob("*")):
        text = read_text(path) if path.is_file() and {path.suffix, Path(path.stem).suffix} & TEXTS else ""
        if match := ABSOLUTE.search(text):
            found[str(path.relative_to(ROOT))] = match[0]
    assert found == {}


@pytest.mark.parametrize("text", ["/home/me/kit/a.png is empty", "item,/tmp/x/y.avi", '"/work/main"', "no '/root/x'"])
def test_a_path_of_a_machine_is_found(text):
    assert ABSOLUTE.search(text)


@pytest.mark.parametrize("text", ["https://a.example/home/x", "../data/x", "models/tmp/x", "and/or", "${root}/src/x"])
def test_other_slashes_are_none(text):
    assert not ABSOLUTE.search(text)
