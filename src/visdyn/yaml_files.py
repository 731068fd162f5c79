"""The one reader of YAML: what DVC reads (YAML 1.2), or one sentence that says what is wrong and where.

Two readers of one params.yaml would compute with other values than `dvc.lock` records: to YAML 1.1 `012` is ten, `1:30`
is ninety and `no` is false. DVC's reader is ruamel.yaml, and so is this one.
"""

from __future__ import annotations

import copy
import io
import reprlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

LARGEST = 8 * 2**20  # bytes of a file
DEEPEST = 50  # lists and mappings in each other
MOST_VALUES = 100_000  # with every alias written out: nine aliases deep a few lines are 400 million

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother, _repr.maxlong = 2, 80, 80, 40


class YamlError(ValueError):
    """A file that is no YAML, or not of plain values; the message names the file, the line, and what is wrong."""


def read_yaml(path: str | Path) -> Any:
    """Return what a file says: text, numbers, true or false, None, and lists and mappings of them, by text.

    Raises:
        FileNotFoundError: there is no such file.
        YamlError: it is no UTF-8, no YAML, several documents, a key stands twice, it is too large, too deep or has
            too many values, or a value is none of the above (a date, say).
    """
    path = Path(path)
    content = path.read_bytes()
    if len(content) > LARGEST:
        raise YamlError(f"{path} has {len(content):,} bytes; a file of settings has at most {LARGEST:,}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(f"{path} is no UTF-8 text (byte {error.start}); save it as UTF-8") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, name: str | Path) -> Any:
    """Return what a text says, as `read_yaml` does; `name` is how errors call it."""
    return copy.deepcopy(_parse(text, str(name)))


def compose_yaml(text: str, name: str | Path) -> Any:
    """Return the node of a text, with the lines where its parts stand (`start_mark`, `end_mark`); None of an empty one.

    Raises:
        YamlError: as `read_yaml`.
    """
    _parse(text, str(name))
    return _new_reader().compose(text)


def yaml_text(value: Any) -> str:
    """Return plain values as YAML that `parse_yaml` reads as the same: one key a line, in the order given."""
    writer, stream = _new_reader(), io.StringIO()
    writer.default_flow_style, writer.sort_base_mapping_type_on_output = False, False
    writer.dump(value, stream)
    return stream.getvalue()


def clipped(value: Any) -> str:
    """Return a value as a message shows it, at most a line of it whatever its size."""
    shown = _repr.repr(value)
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


@lru_cache(maxsize=16)
def _parse(text: str, name: str) -> Any:
    # ruamel.yaml is imported here: workers that read no YAML need not wait for it.
    from ruamel.yaml.error import MarkedYAMLError

    try:
        _check_size(text, name)
        value = _new_reader().load(text)
    except YamlError:
        raise
    except MarkedYAMLError as error:
        said = _shorten(error.problem or error.context or "it cannot be read")
        raise YamlError(f"{name}{_place(error.problem_mark)} is no valid YAML: {said}") from None
    except Exception as error:  # whatever decoding raises: a number of too many digits, a character that may not stand
        raise YamlError(f"{name} is no valid YAML: {_shorten(str(error))}") from None
    if odd := next(_find_odd(value, ""), None):
        raise YamlError(f"{name}: {odd}")
    return value


def _new_reader():
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True)  # DVC's; without `pure` an installed C parser would read YAML 1.1


def _check_size(text: str, name: str) -> None:
    """Refuse what would exhaust memory or the stack before anything is built; aliases count as what they stand for."""
    from ruamel.yaml import events

    if "&" not in text and _bound_depth(text) <= DEEPEST and len(text) <= 2 * MOST_VALUES:  # a value takes two signs
        return
    sizes: dict[str, int] = {}  # anchor -> values behind it
    open_nodes: list[tuple[str | None, int]] = []  # (anchor, values before it)
    total = 0
    for event in _new_reader().parse(text):
        if isinstance(event, events.AliasEvent):
            if event.anchor not in sizes:
                raise YamlError(f"{name}{_place(event.start_mark)}: *{event.anchor} stands for nothing before it")
            total += sizes[event.anchor]
        elif isinstance(event, events.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, events.CollectionStartEvent):
            total += 1
            open_nodes.append((event.anchor, total - 1))
            if len(open_nodes) > DEEPEST:
                raise YamlError(f"{name}{_place(event.start_mark)} is nested more than {DEEPEST} deep")
        elif isinstance(event, events.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        if total > MOST_VALUES:
            raise YamlError(
                f"{name}{_place(event.start_mark)} has more than {MOST_VALUES:,} values, aliases written out"
            )


def _bound_depth(text: str) -> int:
    """Return a number that the nesting does not exceed: all brackets, and the longest way to a line's first word."""
    before = max((len(line) - len(line.lstrip(" -?:")) for line in text.splitlines()), default=0)
    return text.count("[") + text.count("{") + before


def _find_odd(value: Any, place: str) -> Iterator[str]:
    """Yield a sentence for each key that is no text and each value that is none of YAML's plain ones."""
    where = f"{place!r}" if place else "it"
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield f"{where} has the key {clipped(key)} ({type(key).__name__}); keys are text, so quote it"
            yield from _find_odd(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _find_odd(inner, f"{place}[{number}]")
    elif not isinstance(value, str | int | float | None):
        yield f"{where} is {clipped(value)} ({type(value).__name__}), no plain value; quote it if it is text"


def _place(mark: Any) -> str:
    return "" if mark is None else f" line {mark.line + 1}, column {mark.column + 1}"


def _shorten(said: str) -> str:
    said = " ".join(said.split())
    return said if len(said) <= 160 else f"{said[:157]}..."
