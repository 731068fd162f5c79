"""Source notebooks: their parameters, the rules they keep, and the hook that keeps outputs out of saved files.

`visdyn notebooks` lints every notebook of the repository; `make environment` puts `strip_outputs`
into the environment's Jupyter configuration, so that opening, running and saving a notebook of a stage leaves its bytes
as they were. Explorations, `explore.ipynb` and what lies in `notebooks/learn`, keep their outputs: what a reader found
there is theirs.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import nbformat

from visdyn.params import Params, load_params
from visdyn.paths import repository_root
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.executed import KERNEL, LANGUAGE

TITLE_WORDS = ("Question", "Reads", "Writes", "Paper items", "Runtime")
# No stages: nothing is hashed that they hold.
EXPLORATIONS = ("explore.ipynb",)
LESSONS = "learn"  # folder of notebooks/, every notebook of which is an exploration
VOLATILE = ("execution", "ExecuteTime", "papermill", "collapsed", "scrolled", "trusted", "jp-MarkdownHeadingCollapsed")
_ABSOLUTE = re.compile(r"(/|~/|[A-Za-z]:[\\/])\w")
_OUTPUTS = "holds outputs or an execution count"
_HOME = re.compile(r"(?<![\w./])(/(home|root|work|mnt|Users|tmp|opt|srv)/|~/)")


def defaults(notebook: Path) -> dict[str, Any]:
    """Return the literals of a notebook's `parameters` cell, by name.

    Raises:
        StageError: no such cell, more than one, or something in it that is no literal.
    """
    all_cells = nbformat.read(notebook, as_version=4).cells
    cells = [cell for cell in all_cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise StageError(f"{notebook} must have exactly one cell tagged 'parameters', not {len(cells)}")
    return dict(_parse_literals(cells[0].source, notebook))


def checked_parameters(notebook: Path, given: dict[str, Any], texts: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the parameters to inject, each known to the notebook and of its default's type.

    Args:
        notebook: the source notebook.
        given: typed values, such as the profile.
        texts: values from a command line; each is read as its default's type.

    Raises:
        StageError: an unknown parameter or a mistyped one (papermill itself only warns of the first).
    """
    import papermill

    known = defaults(notebook)
    unseen = set(known) - set(papermill.inspect_notebook(str(notebook)))
    if unseen:
        raise StageError(f"papermill does not see {sorted(unseen)} of {notebook}; write one `name = literal` a line")
    for name in {**given, **(texts or {})}:
        if name not in known:
            raise StageError(f"{notebook.name} has no parameter {name!r}; its parameters cell has {', '.join(known)}")
    for name, value in given.items():
        if type(value) is not type(known[name]):
            raise StageError(_describe_mismatch(notebook, name, known[name], value))
    return given | {name: _read_value(notebook, name, known[name], text) for name, text in (texts or {}).items()}


def stage_values(notebook: Path, section: Any) -> dict[str, Any]:
    """Return the notebook parameters that are keys of the stage's section of params.yaml, with their values there."""
    values = asdict(section) if is_dataclass(section) else {}
    return {name: _to_plain(values[name]) for name in defaults(notebook) if name in values}


def lint(path: Path, stage: str | None = None, settings: Params | None = None) -> list[str]:
    """Return the broken rules of a source notebook, each a sentence that names it.

    Args:
        path: the notebook.
        stage: the stage it belongs to; None for a notebook that is not in the pipeline.
        settings: the root's parameters, to compare the defaults with.
    """
    notebook = nbformat.read(path, as_version=4)
    problems = [*_title_problems(notebook), *_parameter_problems(path, stage, settings)]
    for number, cell in enumerate(notebook.cells):
        problems += [f"cell {number} {problem}" for problem in _cell_problems(cell)]
    if _is_exploration(path):
        return [f"{path.name}: {problem}" for problem in problems if not problem.endswith(_OUTPUTS)]
    if not problems and nbformat.writes(_strip_outputs(notebook)) + "\n" != path.read_text():
        problems.append("is not as the save hook writes it; open and save it in `make lab`")
    return [f"{path.name}: {problem}" for problem in problems]


def strip_outputs(model: dict[str, Any], path: str = "", contents_manager: Any = None, **_: Any) -> None:
    """Jupyter's `pre_save_hook`: take outputs, counts and volatile metadata from a source notebook being saved.

    Only notebooks of stages, in the repository's `notebooks/` folder, are touched; an exploration, an executed copy or
    a notebook of another project is saved as it is. Without a contents manager every notebook counts as a source.
    """
    if model.get("type") != "notebook" or model.get("content", {}).get("nbformat") != 4:
        return
    if contents_manager is not None and not _is_source(Path(contents_manager.root_dir) / path.strip("/")):
        return
    _strip_outputs(model["content"])


def _strip_outputs(notebook: Any) -> Any:
    metadata = notebook["metadata"]
    for name in VOLATILE:
        metadata.pop(name, None)
    metadata["kernelspec"], metadata["language_info"] = dict(KERNEL), dict(LANGUAGE)
    notebook["nbformat_minor"] = 5
    for cell in notebook["cells"]:
        for name in VOLATILE:
            cell["metadata"].pop(name, None)
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return notebook


def _is_source(path: Path) -> bool:
    return path.resolve().is_relative_to(repository_root() / "notebooks") and not _is_exploration(path)


def _is_exploration(path: Path) -> bool:
    return path.name in EXPLORATIONS or path.parent.name == LESSONS


def _parse_literals(source: str, notebook: Path) -> Iterator[tuple[str, Any]]:
    try:
        for node in ast.parse(source).body:
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            elif isinstance(node, ast.Assign):
                targets = node.targets
            else:
                raise ValueError(ast.unparse(node))
            (target,) = targets
            yield target.id, ast.literal_eval(node.value)
    except (ValueError, SyntaxError, AttributeError) as error:
        raise StageError(f"the parameters cell of {notebook} may hold only `name = literal` lines ({error})") from error


def _read_value(notebook: Path, name: str, default: Any, text: str) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if type(value) is int and isinstance(default, float):
        return float(value)
    if type(value) is not type(default):
        raise StageError(_describe_mismatch(notebook, name, default, value))
    return value


def _describe_mismatch(notebook: Path, name: str, default: Any, value: Any) -> str:
    kinds = f"{type(default).__name__} (default {default!r}), not {type(value).__name__} ({value!r})"
    return f"parameter {name!r} of {notebook.name} is of type {kinds}"


def _to_plain(value: Any) -> Any:
    return [_to_plain(item) for item in value] if isinstance(value, tuple) else value


def _title_problems(notebook: Any) -> Iterator[str]:
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "must open with a markdown title cell ('# ...')"
        return
    for word in TITLE_WORDS:
        if not re.search(rf"^\W*{word}\W*:", first.source, re.MULTILINE):
            yield f"has no '{word}:' line in its title cell"


def _parameter_problems(path: Path, stage: str | None, settings: Params | None) -> Iterator[str]:
    try:
        found = defaults(path)
    except StageError as error:
        yield str(error)
        return
    if found.get("profile") != ".":
        yield "must have the parameter profile = '.'"
    if stage is None or settings is None:
        return
    section = stage_values(path, getattr(settings, stage, None))
    for name in found.keys() - {"profile"}:
        if name not in section:
            yield f"has the parameter {name!r}, which is no key of section {stage!r} of params.yaml"
        elif found[name] != section[name]:
            yield f"has {name} = {found[name]!r} where params.yaml has {section[name]!r}"


def _cell_problems(cell: Any) -> Iterator[str]:
    if _HOME.search(cell.source):
        yield "names a path of one machine"
    if cell.cell_type != "code":
        return
    if cell.outputs or cell.execution_count is not None:
        yield _OUTPUTS
    try:
        tree = ast.parse(cell.source)
    except SyntaxError as error:
        yield f"is no plain Python (line {error.lineno}: magics and shell lines are not allowed)"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"defines {node.name}; definitions belong into the package"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _ABSOLUTE.match(node.value):
            yield f"holds the absolute path {node.value!r}; use stage.path(...)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Lint the repository's notebooks; return 1 where a rule is broken."""
    argparse.ArgumentParser(prog="visdyn notebooks", description=main.__doc__).parse_args(arguments)
    from visdyn.pipeline.guards import read_entries

    root, settings = repository_root(), load_params()
    stages = {Path(entry.notebook).name: name for name, entry in read_entries(root).items()}
    paths = sorted([*(root / "notebooks").glob("*.ipynb"), *(root / "notebooks" / LESSONS).glob("*.ipynb")])
    problems = [problem for path in paths for problem in lint(path, stages.get(path.name), settings)]
    print("\n".join(problems) or f"{len(paths)} notebooks keep the rules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
