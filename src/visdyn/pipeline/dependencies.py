"""What a stage imports, compared with what its entry in dvc.yaml declares.

`visdyn dependencies` reports the differences, `--write` mends dvc.yaml and its copies in profiles/.
The closure is read from the syntax trees of the notebook and of every module of this package that it leads to: imports
at any depth (inside functions too), and strings that name a module (registries, `python -m visdyn...` command lines) or
a template beside it.
A folder stands for its modules where a stage uses all of them; one left unused keeps them apart, so that no stage hangs
on a module that it never runs.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat

from visdyn.paths import repository_root
from visdyn.pipeline import profiles
from visdyn.pipeline.guards import read_entries

# Plumbing that carries values but makes none: an edit there must not train everything again. DVC tracks the
# parameters' values themselves; `dvc repro -f` runs a stage again all the same.
PLUMBING = ("visdyn.params", "visdyn.paths", "visdyn.pipeline", "visdyn.plugins", "visdyn.yaml_files")
# Modules of the plumbing that write the bytes of results after all.
RESULT_WRITERS = ("visdyn.pipeline.tables",)
# What draws pictures for a notebook's reader: neither it nor what it imports makes a result.
PICTURES = ("visdyn.stages.contact_sheets",)
_MODULE = re.compile(r"visdyn(\.\w+)+")
_TEMPLATE = re.compile(r"""["']([\w.]+\.j2)["']""")


def imported_files(notebook: Path, source: Path) -> set[str]:
    """Return the package's files that a notebook's results depend on, relative to `source` (the `src` folder)."""
    code = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    waiting = {name for text in code for name in _named_modules(ast.parse(text), "", source)} - {"visdyn"}
    seen: set[str] = {"visdyn"}  # what the package offers lazily is imported by users, not by stages
    waiting -= set(PICTURES)
    while waiting:
        name = waiting.pop()
        seen.add(name)
        path = _file_of(name, source)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        named = _named_modules(ast.parse(path.read_text()), package, source) - seen
        if is_plumbing(name):  # what it imports makes no results either, but for what writes them
            named = {module for module in named if is_plumbing(module) or module in RESULT_WRITERS}
        waiting |= named
    files = {_file_of(name, source) for name in seen if not is_plumbing(name)}
    files = {path for path in files if not _is_plain(path)}
    files |= {template for path in files for template in _find_templates(path)}
    return {str(path.relative_to(source)) for path in files}


def folded(files: set[str], source: Path) -> list[str]:
    """Return files of the package with each folder in place of its modules where all of them are among `files`.

    Args:
        files: relative to `source` (the `src` folder), as of `imported_files`.
    """
    folders = sorted({str(parent) for name in files for parent in list(Path(name).parents)[:-2]})
    whole: list[str] = []
    for folder in folders:  # the outer ones first
        modules = {str(path.relative_to(source)) for path in (source / folder).rglob("*.py") if not _is_plain(path)}
        if len(modules) > 1 and modules <= files and not any(Path(folder).is_relative_to(outer) for outer in whole):
            whole.append(folder)
    apart = {name for name in files if not any(Path(name).is_relative_to(folder) for folder in whole)}
    return sorted({*whole, *apart})


def is_plumbing(module: str) -> bool:
    """Whether no result depends on a module: it lies in `PLUMBING`, or is the package's own `__init__`."""
    if module in RESULT_WRITERS:
        return False
    return module == "visdyn" or module in PLUMBING or module.startswith(tuple(f"{name}." for name in PLUMBING))


def differences(root: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Return, for each stage of the root's dvc.yaml that differs, what is missing there and what is too much."""
    found = {}
    for stage, entry in read_entries(root).items():
        wanted = set(folded(imported_files(root / entry.notebook, root / "src"), root / "src"))
        declared = {dep[dep.index("visdyn/") :] for dep in entry.deps if "src/visdyn/" in dep}
        if wanted != declared:
            found[stage] = (sorted(wanted - declared), sorted(declared - wanted))
    return found


def rewritten(text: str, root: Path) -> str:
    """Return the text of dvc.yaml with each stage's `src/visdyn` dependencies set to what its notebook imports."""
    lines: list[str] = []
    stage = ""
    for line in text.splitlines():
        if match := re.match(r"  (\w+):\s*$", line):
            stage = match[1]
        if "${root}/src/visdyn/" in line:
            continue
        lines.append(line)
        if match := re.match(r"(\s+)- \$\{root\}/(notebooks/\S+\.ipynb)", line):
            names = folded(imported_files(root / match[2], root / "src"), root / "src")
            lines += [f"{match[1]}- ${{root}}/src/{name}" for name in names]
    if not stage:
        raise ValueError("dvc.yaml holds no stage")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Report the differences (status 1 where there are any), or mend them with `--write`, profiles included."""
    parser = argparse.ArgumentParser(prog="visdyn dependencies", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="mend dvc.yaml and the profiles' files")
    write, root = parser.parse_args(arguments).write, repository_root()
    found = differences(root)
    for stage, (missing, extra) in found.items():
        print(f"{stage}: missing {missing}, too many {extra}")
    if not write:
        return 1 if profiles.main([]) or found else 0
    if found:
        path = root / "dvc.yaml"
        path.write_text(rewritten(path.read_text(), root))
        print("dvc.yaml rewritten")
    return profiles.main(["--write"])


def _named_modules(tree: ast.AST, package: str, source: Path) -> set[str]:
    names: set[str] = set()
    for node in _run_nodes(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value.partition(":")[0])
    modules = {name for name in names if name == "visdyn" or _MODULE.fullmatch(name)}
    with_parents = {".".join(name.split(".")[:depth]) for name in modules for depth in range(1, name.count(".") + 2)}
    return {name for name in with_parents if _file_of(name, source).is_file()}


def _find_templates(module: Path) -> set[Path]:
    """Return the templates beside a module that it names, and those that these include."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        named = {module.parent / name for name in _TEMPLATE.findall(waiting.pop().read_text())}
        waiting += [path for path in named - found if path.is_file()]
        found |= {path for path in named if path.is_file()}
    return found


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _run_nodes(node)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])


def _is_plain(path: Path) -> bool:
    """Whether a file is an `__init__.py` with a docstring at most: nothing that a result could hang on."""
    if path.name != "__init__.py":
        return False
    body = ast.parse(path.read_text()).body
    return not body or (len(body) == 1 and ast.get_docstring(ast.Module(body, [])) is not None)


def _file_of(name: str, source: Path) -> Path:
    base = source / name.replace(".", "/")
    return base / "__init__.py" if (base / "__init__.py").is_file() else base.with_suffix(".py")


if __name__ == "__main__":
    sys.exit(main())
