"""Models, editors, metrics, judges and benchmarks of your own, in a file outside this repository.

Wherever a parameter or a command names a model, an editor or a judge, it may name one of these instead:

    my_model.py:MyModel            a class or function of a file (`~` and $VARIABLES expanded)
    my_package.my_module:MyModel   the same of an importable module
    my-model                       an entry point of an installed package, in group `visdyn.models`, `visdyn.editors`,
                                   `visdyn.judges` or `visdyn.benches`

Metrics have no name in the parameters: those of group `visdyn.metrics` are measured wherever their package is
installed. `visdyn check my_model.py` says what a file holds and whether it answers as its protocol asks.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

GROUPS = ("models", "editors", "metrics", "judges", "benches")
_IN_FILE = re.compile(r"(?P<file>.+\.py)(?::(?P<name>[A-Za-z_]\w*))?")
_IN_MODULE = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


class PluginError(ValueError):
    """A name of something outside the kit leads nowhere; the message says what was looked for and where."""


def find_plugin(group: str, reference: str | Path) -> Any | None:
    """Return the class, function or object that a reference names; None where it has no form of a plug-in's.

    Args:
        group: one of `GROUPS`.

    Raises:
        PluginError: it has the form, and there is no such file, module or name.
    """
    text = str(reference)
    if match := _IN_FILE.fullmatch(text):
        module = import_file(match["file"])
        return _named_in(module, match["name"] or _only_class(module), text)
    if match := _IN_MODULE.fullmatch(text):
        try:
            module = importlib.import_module(match["module"])
        except ImportError as error:
            raise PluginError(f"{text} names module {match['module']}, which cannot be imported: {error}") from error
        return _named_in(module, match["name"], text)
    return installed(group).get(text)


def make_plugin(group: str, reference: str | Path, **options: Any) -> Any | None:
    """Return the object that a reference stands for; None where it names no plug-in.

    A class or function is called with those of the options that it takes (`device`, ...); an object is taken as it is.
    """
    found = find_plugin(group, reference)
    if found is None or not (inspect.isclass(found) or inspect.isroutine(found)):
        return found
    known = inspect.signature(found).parameters.values()
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known)
    names = {one.name for one in known}
    return found(**{name: value for name, value in options.items() if takes_all or name in names})


@cache
def installed(group: str) -> dict[str, Any]:
    """Return what installed packages offer in a group, by the name of the entry point.

    Raises:
        PluginError: an entry point cannot be loaded.
    """
    found = {}
    for point in entry_points(group=f"visdyn.{group}"):
        try:
            found[point.name] = point.load()
        except (ImportError, AttributeError) as error:
            raise PluginError(
                f"entry point {point.name} of group visdyn.{group} names {point.value}: {error}"
            ) from error
    return found


def import_file(path: str | Path) -> ModuleType:
    """Import a file as a module, once a process and content.

    Raises:
        PluginError: there is no such file, or it cannot be imported.
    """
    file = Path(os.path.expanduser(os.path.expandvars(path))).resolve()
    if not file.is_file():
        raise PluginError(f"there is no file {file}")
    digest = hashlib.sha256(f"{file}\n".encode() + file.read_bytes()).hexdigest()[:12]
    name = f"visdyn_plugin_{file.stem}_{digest}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise PluginError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    return sys.modules[name]


def file_of(reference: str | Path) -> Path | None:
    """Return the file that a reference of the form `file.py:Name` names, for digests; None of any other."""
    match = _IN_FILE.fullmatch(str(reference))
    file = Path(os.path.expanduser(os.path.expandvars(match["file"]))) if match else None
    return file if file and file.is_file() else None


def own_classes(module: ModuleType) -> list[str]:
    """Return the names of the public classes that a module defines itself."""
    return [name for name, value in vars(module).items()
            if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")]  # fmt: skip


def _only_class(module: ModuleType) -> str:
    names = own_classes(module)
    if len(names) != 1:
        held = f"{len(names)} classes ({', '.join(names)})" if names else "no class"
        raise PluginError(f"{module.__file__} holds {held}; name one of them: {module.__file__}:Name")
    return names[0]


def _named_in(module: ModuleType, name: str, text: str) -> Any:
    if not hasattr(module, name):
        raise PluginError(f"{text}: {module.__file__} has no {name}")
    return getattr(module, name)
