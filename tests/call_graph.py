"""What the notebooks reach: a walk over the syntax trees of the package, by calls and not by mentions.

A function is reached where reached code uses its name, resolved through imports, in an expression: a call, or a value
that is handed on (`map_processes(draw, jobs)`). Imports, annotations, `__all__` and docstrings reach nothing. A method
is reached where its class is and reached code uses an attribute of its name; what Python or a framework calls by itself
(`__init__`, `forward`) with the class. A module's own statements run where reached code imports it; its assignments
count where their names are used. Recipes of training are named as strings, `module:function`.
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "visdyn"
FRAMEWORK = {"forward", "backward", "setup_context"}  # methods that torch calls
Place = tuple[str, str]  # module, and a function, class, method (`Class.name`), variable, or "" for its statements


@dataclass
class Module:
    """A module's parts, and what its names stand for."""

    name: str
    is_package: bool
    parts: dict[str, list[ast.AST]] = field(default_factory=lambda: defaultdict(list))
    imports: dict[str, Place] = field(default_factory=dict)
    methods: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, tree: ast.Module) -> None:
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                self.parts[node.name].append(node)
                self.parts[""] += node.decorator_list  # a registration runs with the module
            elif isinstance(node, ast.ClassDef):
                self._add_class(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
                for name in names:
                    if name != "__all__" and node.value is not None:
                        self.parts[name].append(node.value)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= imported(node, self)
            elif not is_type_checking(node):
                self.parts[""].append(node)

    def _add_class(self, node: ast.ClassDef) -> None:
        self.parts[node.name] += node.bases + [keyword.value for keyword in node.keywords] + node.decorator_list
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef):
                self.methods[node.name].append(statement.name)
                self.parts[f"{node.name}.{statement.name}"].append(statement)
            else:
                self.parts[node.name].append(statement)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(node: ast.Import | ast.ImportFrom, module: Module) -> dict[str, Place]:
    """Return the names of the package that an import binds, and where they lead."""
    if isinstance(node, ast.Import):
        return {
            alias.asname or PACKAGE: (alias.name if alias.asname else PACKAGE, "")
            for alias in node.names
            if alias.name.split(".")[0] == PACKAGE
        }
    source = node.module or ""
    if node.level:
        above = module.name.split(".")[: None if module.is_package and node.level == 1 else -node.level]
        source = ".".join([*above, source]).rstrip(".")
    if source.split(".")[0] != PACKAGE:
        return {}
    return {alias.asname or alias.name: (source, alias.name) for alias in node.names}


class CallGraph:
    """The package's modules, and what can be reached in them.

    Args:
        sources: module name to source; a package's name ends in `.__init__`.
    """

    def __init__(self, sources: dict[str, str]) -> None:
        self.modules: dict[str, Module] = {}
        for path, text in sources.items():
            module = Module(path.removesuffix(".__init__"), path.endswith(".__init__"))
            self.modules[module.name] = module
            module.add(ast.parse(text))

    def reached(self, notebooks: list[str]) -> set[Place]:
        """Return what the code of notebooks reaches."""
        self.done: set[Place] = set()
        self.open: list[Place] = []
        self.classes: set[Place] = set()
        self.attributes: set[str] = set()
        for number, text in enumerate(notebooks):
            start = Module(f"notebook {number}", False)
            # All of a notebook runs, assignments too.
            start.parts[""] = ast.parse(text).body
            self.modules[start.name] = start
            self.open.append((start.name, ""))
        while self.open:
            place = self.open.pop()
            if place not in self.done:
                self.done.add(place)
                self._visit(place)
        return self.done

    def _visit(self, place: Place) -> None:
        module, name = self.modules[place[0]], place[1]
        names = dict(module.imports)
        nodes = [leaf for part in module.parts.get(name, ()) for leaf in expressions(part)]
        for node in nodes:  # imports inside a function bind before their names are used
            if isinstance(node, ast.Import | ast.ImportFrom):
                bound = imported(node, module)
                names |= bound
                for source, _ in bound.values():
                    self._load(source)
        if not name:
            for source, _ in module.imports.values():
                self._load(source)
        for node in nodes:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self._use(self._resolve(module, names, node.id))
            elif isinstance(node, ast.Attribute):
                whole = self._dotted(module, names, node)
                self._use(whole) if whole else self._use_attribute(node.attr)
            elif (
                isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(PACKAGE + ".")
            ):
                source, _, function = node.value.partition(":")
                if source in self.modules:
                    self._load(source)
                    self._use((source, function))
        if name in module.methods:
            self.classes.add(place)
            for method in module.methods[name]:
                if method in self.attributes | FRAMEWORK or method.startswith("__"):
                    self.open.append((module.name, f"{name}.{method}"))

    def _load(self, source: str) -> None:
        """A module runs, and the packages that it lies in."""
        parts = source.split(".")
        self.open += [
            (name, "") for name in (".".join(parts[:end]) for end in range(1, len(parts) + 1)) if name in self.modules
        ]

    def _use(self, place: Place | None) -> None:
        if place is not None:
            self._load(place[0])
            self.open.append(place)

    def _use_attribute(self, name: str) -> None:
        if name not in self.attributes:
            self.attributes.add(name)
            for module, owner in self.classes:
                if name in self.modules[module].methods[owner]:
                    self.open.append((module, f"{owner}.{name}"))

    def _resolve(self, module: Module, names: dict[str, Place], name: str) -> Place | None:
        """Return where a name leads in the end, through re-exports; None for what is no part of the package."""
        if name in names:
            return self._follow(names[name])
        return (module.name, name) if name in module.parts else None

    def _follow(self, place: Place) -> Place | None:
        source, name = place
        if not name:
            return (source, "") if source in self.modules else None
        if f"{source}.{name}" in self.modules:
            return f"{source}.{name}", ""
        if source not in self.modules:
            return None
        module = self.modules[source]
        if name in module.parts:
            return place
        return self._follow(module.imports[name]) if name in module.imports else None

    def _dotted(self, module: Module, names: dict[str, Place], node: ast.Attribute) -> Place | None:
        """Return where `a.b.c` leads if it starts at a module or a class of the package."""
        if isinstance(node.value, ast.Name):
            base = self._resolve(module, names, node.value.id)
        elif isinstance(node.value, ast.Attribute):
            base = self._dotted(module, names, node.value)
        else:
            base = None
        if base is None:
            return None
        source, name = base
        if not name:
            return self._follow((source, node.attr))
        method = (source, f"{name}.{node.attr}")
        return method if method[1] in self.modules[source].parts else None


def expressions(node: ast.AST) -> list[ast.AST]:
    """Return a part's nodes without its annotations and decorators, which call nothing of their own."""
    found, waiting = [], [node]
    while waiting:
        node = waiting.pop()
        found.append(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list") and not isinstance(node, ast.ClassDef):
                continue
            values = value if isinstance(value, list) else [value]
            waiting += [child for child in values if isinstance(child, ast.AST) and not is_type_checking(child)]
    return found


def package_sources(root: Path) -> dict[str, str]:
    """Return the sources of the package under `root/src`."""
    folder = root / "src"
    files = sorted((folder / PACKAGE).rglob("*.py"))
    return {".".join(file.relative_to(folder).with_suffix("").parts): file.read_text() for file in files}


def notebook_code(path: Path) -> str:
    """Return a notebook's code cells as one program."""
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
