"""Reading a mapping into frozen dataclasses strictly: what does not fit is refused by file, section and key.

A field's type says what may stand there, and nothing else does: `Literal["a", "b"]` for choices, `X | None` where null
means none, and the bounded types below; a field of one's own range is `Annotated[float, Within(0, 1, above=True)]`.
Every number is finite. Text that may be anything says so: `Name` (a path, a hub id), `Text` (the same, or empty),
`Prose`, `Annotated[dict, Free("what it is")]`. `tests/test_params.py` refuses a field that says nothing.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from visdyn.yaml_files import YamlError, clipped, read_yaml

T = TypeVar("T")
MOST = 2**31 - 1  # of a count: more than that overflows somewhere below, hours later


@dataclass(frozen=True)
class Within:
    """A number from `low` to `high`, both included; with `above` more than `low`, with `below` less than `high`.

    With `zero`, 0 may stand there too.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    zero: bool = False

    def refuse(self, value: float) -> str | None:
        """Return what the number must be, or None where it may stand there."""
        if self.zero and value == 0:
            return None
        too_low = value < self.low or (self.above and value == self.low)
        too_high = value > self.high or (self.below and value == self.high)
        if not (too_low or too_high):
            return None
        if self.high in (math.inf, MOST):
            return f"at most {self.high}" if too_high else f"{'above' if self.above else 'at least'} {self.low}"
        if not self.above and not self.below:
            return f"{'0, or ' if self.zero else ''}from {self.low} to {self.high}"
        low = "above" if self.above else "at least"
        return f"{low} {self.low} and {'below' if self.below else 'at most'} {self.high}"


@dataclass(frozen=True)
class Filled:
    """Text or a list that is not empty."""

    def refuse(self, value: str | tuple) -> str | None:
        """Return what it must be, or None where anything stands there."""
        return None if (value.strip() if isinstance(value, str) else value) else "not empty"


@dataclass(frozen=True)
class Once:
    """A list in which nothing stands twice."""

    def refuse(self, value: tuple) -> str | None:
        """Return what the list must be, or None."""
        twice = next((one for place, one in enumerate(value) if one in value[:place]), None)
        return None if twice is None else f"a list in which nothing stands twice, as {clipped(twice)} does"


@dataclass(frozen=True)
class Free:
    """Text (or a mapping) that may be anything, but for control characters; `what` says what it is.

    Attributes:
        lines: whether it may have line breaks.
        checked: False where another place checks it, because an error here would quote what may be a secret.
    """

    what: str
    lines: bool = False
    checked: bool = True

    def refuse(self, value: str | dict) -> str | None:
        """Return what the text must be, or None."""
        odd = r"[\x00-\x08\x0b-\x1f\x7f]" if self.lines else r"[\x00-\x1f\x7f]"
        found = self.checked and isinstance(value, str) and re.search(odd, value)
        return "text without control characters" + ("" if self.lines else " and line breaks") if found else None


@dataclass(frozen=True)
class Like:
    """Text of a form: a regular expression that all of it fits, and `form`, the same in words."""

    pattern: str
    form: str

    def refuse(self, value: str) -> str | None:
        """Return what the text must be, or None."""
        return None if re.fullmatch(self.pattern, value) else self.form


Count = Annotated[int, Within(1, MOST)]
Whole = Annotated[int, Within(0, MOST)]
Positive = Annotated[float, Within(0, above=True)]
NotNegative = Annotated[float, Within(0)]
Share = Annotated[float, Within(0, 1)]
PartOf = Annotated[float, Within(0, 1, below=True)]  # a share that is never all: of a dropout, of an average's past
Seconds = Annotated[float, Within(0, 86_400, above=True)]
Name = Annotated[str, Filled(), Free("a name, a path or a hub id")]
Text = Annotated[str, Free("a name, a path or a hub id; empty is none")]
Prose = Annotated[str, Filled(), Free("words", lines=True)]
Several = Annotated[tuple[T, ...], Once()]
OneOrMore = Annotated[tuple[T, ...], Filled(), Once()]


class ParamsError(ValueError):
    """params.yaml does not fit its types; the message names file, section, key and the nearest valid key."""


def read_values(folder: Path) -> dict[str, Any]:
    """Read the params.yaml of a profile's folder as plain values; {} where there is none.

    Raises:
        ParamsError: it is no YAML, or no mapping.
    """
    path = folder / "params.yaml"
    try:
        values = (read_yaml(path) if path.is_file() else None) or {}
    except YamlError as error:
        raise ParamsError(str(error)) from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} must be a mapping of keys, not {_shown(values)}")
    return values


def from_mapping(kind: type[T], values: Any, path: Path | str, section: str = "") -> T:
    """Build the dataclass `kind` from a mapping read from `path`; `section` is its dotted place in the file."""
    where = f"{path}: section {section!r}" if section else f"{path}"
    if not isinstance(values, dict):
        raise ParamsError(f"{where} must be a mapping of keys, not {_shown(values)}")
    names = [one.name for one in fields(kind)]
    for key in values:
        if key not in names:
            raise ParamsError(f"{where} has the unknown key {clipped(key)}; {nearest(str(key), names)}")
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
        for wanted in (bound.refuse(converted) for bound in parts[1:]):
            if wanted:
                raise ParamsError(f"{path}: {key!r} must be {wanted}, not {_shown(value)}")
        return converted
    if origin is Literal:
        if value not in parts or type(value) is not type(parts[parts.index(value)]):  # 2.0 and true are no 2 and 1
            known = [str(part) or "''" for part in parts]
            close = f"; {near}" if (near := nearest(str(value), known)).startswith("did") else ""
            raise ParamsError(f"{path}: {key!r} must be one of {', '.join(known)}, not {_shown(value)}{close}")
        return value
    if is_dataclass(hint):
        return from_mapping(hint, value, path, key)
    if origin is tuple and isinstance(value, list):
        return tuple(_converted(parts[0], item, path, f"{key}[{n}]") for n, item in enumerate(value))
    if hint is float and type(value) is int and abs(value) <= sys.float_info.max:
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
    return " (write 0.002 or 2e-3, without quotes)" if hint is float and isinstance(value, str) else ""


def _shown(value: Any) -> str:
    return f"{clipped(value)} ({type(value).__name__})"


def nearest(key: str, names: Sequence[str]) -> str:
    """Say which of the names a mistyped key may have meant, or all of them."""
    close = difflib.get_close_matches(key[:80], names, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else f"it may have {', '.join(names)}"
