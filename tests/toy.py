"""A toy repository in a temporary folder: the real params.yaml, one stage and its notebook."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat

REPOSITORY = Path(__file__).resolve().parents[1]
LINES = ("Question:** does it run?", "Reads:** nothing", "Writes:** out", "Paper items:** none", "Runtime:** 1 s")
TITLE = "\n\n**".join(["# Toy", *LINES])
PARAMETERS = 'profile = "."\nfloor = 0.5\nbatch_size = 32'
ENTRY = """stages:
  fdm:
    cmd: python -m visdyn.pipeline fdm
    deps: ["${root}/notebooks/toy.ipynb", "${root}/input.txt", data]
    params: [seed, fdm]
    outs: [models/fdm]
  later:
    cmd: python -m visdyn.pipeline later
    deps: ["${root}/notebooks/toy.ipynb", models/fdm]
    outs: [models/later]
"""


def write_notebook(path: Path, *sources: str, parameters: str | None = PARAMETERS, title: str = TITLE) -> Path:
    """Write a notebook in the form that the save hook gives it: a title, a parameters cell, one cell a source."""
    from visdyn.pipeline.notebooks import strip_outputs

    cells = [nbformat.v4.new_markdown_cell(title, id="title")]
    if parameters is not None:
        cells.append(nbformat.v4.new_code_cell(parameters, id="parameters", metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    strip_outputs({"type": "notebook", "content": notebook})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(nbformat.writes(notebook) + "\n")
    return path


def make_repository(root: Path, *sources: str) -> Path:
    """Build the toy repository at `root`; its stage `fdm` runs a notebook of the given code cells."""
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "params.yaml", root)
    (root / "dvc.yaml").write_text(ENTRY)
    (root / "input.txt").write_text("input\n")
    (root / "data").mkdir()
    (root / "data/item.txt").write_text("item\n")
    opened = 'from visdyn.pipeline import open_stage\n\nstage = open_stage("fdm", profile)'
    write_notebook(root / "notebooks/toy.ipynb", opened, *sources)
    return root
