"""Reading a mapping into frozen dataclasses strictly: what does not fit is refused by file, section and key.

A field's type says what may stand there: `Literal["a", "b"]` for choices, `X | None` where null means none, and the
bounded types below. Every number is finite.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True)
class Within:
    """A number from `low` to `high`, both included; with `above`, more than `low`."""

    low: float
    high: float = math.inf
    above: bool = False

    def admits(self, value: float) -> bool:
        """Tell whether the number may stand there."""
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"from {self.low} to {self.high}"
        return f"above {self.low}" if self.above else f"at least {self.low}"


@dataclass(frozen=True)
class Filled:
    """Text or a list that is not empty."""

    def admits(self, value: str | tuple) -> bool:
        """Tell whether anything stands there."""
        return len(value) > 0

    def __str__(self) -> str:
        return "not empty"


Count = Annotated[int, Within(1)]
Whole = Annotated[int, Within(0)]
Positive = Annotated[float, Within(0, above=True)]
NotNegative = Annotated[float, Within(0)]
Share = Annotated[float, Within(0, 1)]
Name = Annotated[str, Filled()]
OneOrMore = Annotated[tuple[T, ...], Filled()]


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
    hints = get_type_hints(kind, include_extras=True)
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
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # a type or None, which YAML writes null
        if value is None or is_dataclass(parts[0]):
            return None if value is None else from_mapping(parts[0], value, path, key)
        try:
            return _converted(parts[0], value, path, key)
        except ParamsError as error:
            raise ParamsError(f"{error}; null says none") from error
    if origin is Annotated:
        converted = _converted(parts[0], value, path, key)
        if refused := next((bound for bound in parts[1:] if not bound.admits(converted)), None):
            raise ParamsError(f"{path}: {key!r} must be {refused}, not {_shown(value)}")
        return converted
    if origin is Literal:
        if value not in parts:
            close = f"; {near}" if (near := nearest(str(value), parts)).startswith("did") else ""
            raise ParamsError(f"{path}: {key!r} must be one of {', '.join(parts)}, not {_shown(value)}{close}")
        return value
    if is_dataclass(hint):
        return from_mapping(hint, value, path, key)
    if origin is tuple and isinstance(value, list):
        return tuple(_converted(parts[0], item, path, f"{key}[{n}]") for n, item in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if origin is tuple or type(value) is not hint:
        raise ParamsError(f"{path}: {key!r} must be {_named(hint)}, not {_shown(value)}{_hint(hint, value)}")
    if hint is float and not math.isfinite(value):
        raise ParamsError(f"{path}: {key!r} must be a finite number, not {_shown(value)}")
    return value


def _named(hint: Any) -> str:
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        inner = get_args(inner)[0] if get_origin(inner) is Annotated else inner
        return f"a list of {'text' if get_origin(inner) is Literal else inner.__name__}"
    return {"int": "an int", "float": "a float", "bool": "true or false", "str": "text", "dict": "a mapping"}[
        hint.__name__
    ]


def _hint(hint: Any, value: Any) -> str:
    # YAML 1.1 reads 2e-3 as text, DVC's YAML 1.2 reads it as a number: only one spelling is safe in both.
    return " (write 0.002 or 2.0e-3)" if hint is float and isinstance(value, str) else ""


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def nearest(key: str, names: Sequence[str]) -> str:
    """Say which of the names a mistyped key may have meant, or all of them."""
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else f"it may have {', '.join(names)}"
