"""What the documentation points at exists: files, names in them, parameters."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from visdyn.paths import repository_root

ROOT = repository_root()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = (
    "benchmarks",
    "data/external",
    "data/published",
    "data/recorded",
    "docs",
    "hardware",
    "jupyter",
    "notebooks",
    "profiles",
)
FOLDERS += ("src", "tests")
OWN = {"hardware/hosts"}  # a user's file


def named(text: str) -> list[tuple[str, str]]:
    """Return what stands as `file.py` or `file.py: name` in a page: (file, name or nothing)."""
    return re.findall(r"`([\w./-]+\.py)(?:: (\w+))?`", text)


def find(file: str) -> Path | None:
    """Return a file of the repository or of the package; one without a folder may lie anywhere in the package."""
    package = ROOT / "src/visdyn"
    places = [ROOT / file, package / file, *(package.rglob(file) if "/" not in file else ())]
    return next((place for place in places if place.is_file()), None)


def defined(path: Path) -> set[str]:
    names = set()
    for node in ast.parse(path.read_text()).body:
        targets = getattr(node, "targets", [getattr(node, "target", node)])
        names |= {getattr(target, "name", getattr(target, "id", None)) for target in targets}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_module_and_name_of_a_page_exists(page):
    for file, name in named(page.read_text()):
        path = find(file)
        assert path is not None, f"{page.name} names {file}, which does not exist"
        assert not name or name in defined(path), f"{page.name} names {name}, which {file} does not define"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_path_of_a_page_exists(page):
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", page.read_text()):
        assert path in OWN or (ROOT / path).exists(), f"{page.name} names {path}, which does not exist"


def linked(source: str) -> list[tuple[str, str, str]]:
    """Return the links of a notebook's markdown that read [`file.py: name`](target): (file, name, target)."""
    return re.findall(r"\[`([\w./-]+\.py): (\w+)`\]\(([^)]+)\)", source)


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_every_function_that_a_notebook_links_to_is_where_the_link_leads(notebook):
    cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "markdown"]
    links = [link for cell in cells for link in linked(cell)]
    assert links or "$" not in "".join(cells), f"{notebook.name} shows an equation and links to no function"
    for file, name, target in links:
        path = (notebook.parent / target).resolve()
        assert path == ROOT / "src/visdyn" / file, f"{notebook.name} writes {file} over a link to {target}"
        assert path.is_file(), f"{notebook.name} links to {file}, which does not exist"
        assert name in defined(path), f"{notebook.name} names {name}, which {file} does not define"


def test_the_parameters_that_the_extension_guide_names_exist():
    text = (ROOT / "docs/extending.md").read_text()
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    keys = re.findall(rf"`((?:{'|'.join(params)})(?:\.[a-z_]+)*)`", text)
    assert len(keys) > 20
    for key in keys:
        value = params
        for part in key.split("."):
            assert part in value, f"docs/extending.md names the parameter {key}, which does not exist"
            value = value[part]


def test_a_wrong_name_would_be_found(tmp_path):
    assert named("see `models/token/unified.py: Nothing` and `x.py`") == [
        ("models/token/unified.py", "Nothing"),
        ("x.py", ""),
    ]
    assert linked("[`x.py: Nothing`](../src/x.py) and `y.py: name`") == [("x.py", "Nothing", "../src/x.py")]
    assert find("x.py") is None
    assert "Nothing" not in defined(find("models/token/unified.py"))
    assert {"UnifiedModel", "DECODINGS"} <= defined(find("models/token/unified.py"))
