"""The house: who may import whom, no circle, no room too full, no module name twice."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from visdyn.paths import repository_root

SOURCE = repository_root() / "src"
PACKAGE = SOURCE / "visdyn"
# A room imports from those before it. Modules in the package's own folder are the ground; `pipeline` stands aside.
ORDER = ("ground", "params", "compute", "endpoint", "kitchen", "datasets", "mining", "models", "training", "inference",
         "evaluation", "human_study", "reporting", "stages", "explorer", "commands")  # fmt: skip
ASIDE = "pipeline"
MOST_FILES = 15
# BAGEL is the public code's own parts, one file each; of stages there is one file a stage, of params one a section,
# of pipeline one a command.
FULLER = {"models/bagel", "params", "pipeline", "stages"}
# The stand-in for a judge's server answers with a local model.
UPWARDS = {("visdyn.endpoint.local_server", "models")}
TWICE = {"rows"}  # of a table computed in parallel (compute), and of a packed batch (models/bagel)


def modules() -> dict[str, Path]:
    """Return the package's modules by dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str, when_imported: bool = False) -> set[str]:
    """Return the modules of the package that a module names in imports outside `if TYPE_CHECKING`.

    Args:
        when_imported: only those that run when the module is imported, not those inside functions.
    """
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(MODULES[name].read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if when_imported and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module or "")
        waiting += ast.iter_child_nodes(node)
    return {module for module in found if module in MODULES} - {name}


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else "ground"


def test_only_stages_import_stage():
    doors = {"visdyn.pipeline", "visdyn.pipeline.stage"}
    # The explorer opens a profile as a notebook does: it stands where a stage would.
    inside = ("stages", "explorer", ASIDE)
    importers = {name for name in MODULES if imports(name) & doors and room(name) not in inside}
    assert importers <= {"visdyn.cli"}


def test_imports_run_one_way():
    upwards = [
        f"{name} imports {other}"
        for name in MODULES
        for other in imports(name)
        if ASIDE not in (room(name), room(other))
        and name not in ("visdyn", "visdyn.cli")
        and (name, room(other)) not in UPWARDS
        and ORDER.index(room(other)) > ORDER.index(room(name))
    ]
    assert upwards == []


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter({name: imports(name, when_imported=True) for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_no_folder_is_too_full():
    folders = Counter(str(path.parent.relative_to(PACKAGE)) for path in MODULES.values())
    assert {name: n for name, n in folders.items() if n > MOST_FILES and name not in FULLER} == {}


def test_no_module_name_stands_twice():
    free = ("stages", "params")  # named after the sections of params.yaml
    names = Counter(
        path.stem for name, path in MODULES.items() if room(name) not in free and not path.stem.startswith("__")
    )
    assert [name for name, n in names.items() if n > 1 and name not in TWICE] == []
