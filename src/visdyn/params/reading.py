"""Reading a mapping into frozen dataclasses strictly: what does not fit is refused by file, section and key."""

from __future__ import annotations

import difflib
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class ParamsError(ValueError):
    """params.yaml does not fit its types; the message names file, section, key and the nearest valid key."""


def from_mapping(kind: type[T], values: Any, path: Path | str, section: str = "") -> T:
    """Build the dataclass `kind` from a mapping read from `path`; `section` is its dotted place in the file."""
    where = f"{path}: section {section!r}" if section else f"{path}"
    if not isinstance(values, dict):
        raise ParamsError(f"{where} must be a mapping of keys, not {_shown(values)}")
    names = [one.name for one in fields(kind)]
    for key in values:
        if key not in names:
            raise ParamsError(f"{where} has the unknown key {key!r}; {nearest(str(key), names)}")
    if missing := [one.name for one in fields(kind) if one.name not in values and not _has_default(one)]:
        raise ParamsError(f"{where} lacks the key {missing[0]!r}; add it as the root params.yaml has it")
    hints = get_type_hints(kind)
    prefix = f"{section}." if section else ""
    converted = {
        name: _converted(hints[name], values[name], path, f"{prefix}{name}") for name in names if name in values
    }
    try:
        return kind(**converted)
    except ParamsError:
        raise
    except ValueError as error:  # the dataclass refuses a value
        raise ParamsError(f"{where}: {error}") from error


def _has_default(one: Field) -> bool:
    # Sections have none: every key stands in every params.yaml. Entries of a list may leave out what they do not need.
    return one.default is not MISSING or one.default_factory is not MISSING


def _converted(hint: Any, value: Any, path: Path | str, key: str) -> Any:
    if isinstance(hint, types.UnionType):  # a type or None, which YAML writes null
        return None if value is None else _converted(get_args(hint)[0], value, path, key)
    if is_dataclass(hint):
        return from_mapping(hint, value, path, key)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_converted(get_args(hint)[0], item, path, f"{key}[{n}]") for n, item in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if get_origin(hint) is tuple or type(value) is not hint:
        raise ParamsError(f"{path}: {key!r} must be {_named(hint)}, not {_shown(value)}{_hint(hint, value)}")
    return value


def _named(hint: Any) -> str:
    if isinstance(hint, types.GenericAlias):
        return f"a list of {get_args(hint)[0].__name__}"
    return {"int": "an int", "float": "a float", "bool": "true or false", "str": "text", "dict": "a mapping"}[
        hint.__name__
    ]


def _hint(hint: Any, value: Any) -> str:
    # YAML 1.1 reads 2e-3 as text, DVC's YAML 1.2 reads it as a number: only one spelling is safe in both.
    return " (write 0.002 or 2.0e-3)" if hint is float and isinstance(value, str) else ""


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def nearest(key: str, names: list[str]) -> str:
    """Say which of the names a mistyped key may have meant, or all of them."""
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else f"it may have {', '.join(names)}"
