"""The one reader each of text, JSON and CSV files: what is read is what was meant, or an error that names the file.

Text is UTF-8, or UTF-16 and UTF-32 with their mark. JSON has one value for each key, finite numbers and whole
characters. A CSV file is separated by commas, semicolons or tabs, and each row has as many cells as its head. Of a list
of items a bad one becomes an `Unusable`, so that the others can be read.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visdyn.paths import printable

_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_SEPARATORS = ",;\t"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class FileError(ValueError):
    """A text, JSON or CSV file cannot be read; the message names it and says what to do."""


@dataclass(frozen=True)
class Unusable:
    """What stands in a list for an item that cannot be read."""

    reason: str


def read_text(path: str | Path, error: type[Exception] = FileError, advice: str = "check the path") -> str:
    """Return a file's text, without a byte-order mark.

    Args:
        error: what is raised.
        advice: what to do where there is no such file.

    Raises:
        error: the file is missing, no regular file, or no Unicode text.
    """
    path, name = Path(path), printable(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device would be waited for, without end
            raise error(f"{name} is no file; {advice}")
        content = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{name} does not exist; {advice}") from None
    except (OSError, ValueError) as problem:
        if isinstance(problem, error):
            raise
        raise error(f"{name} cannot be read ({printable(problem)}); {advice}") from problem
    return decode_text(content, name, error)


def decode_text(content: bytes, name: str, error: type[Exception] = FileError) -> str:
    """Return the text of a file's bytes; `name` is what an error calls it."""
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as problem:
        where = f"byte {content[problem.start]:#04x} at place {problem.start}"
        raise error(f"{name} is no {encoding[:6].rstrip('-').upper()} text ({where}); save it as UTF-8") from problem


def read_json(
    path: str | Path,
    kind: type | tuple[type, ...] = object,
    error: type[Exception] = FileError,
    advice: str = "check the path",
) -> Any:
    """Return the value of a JSON file; `kind` is the type that it must have (`dict`, `list`).

    Raises:
        error: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, error, advice), printable(path), kind, error)


def parse_json(text: str, name: str, kind: type | tuple[type, ...] = object, error: type[Exception] = FileError) -> Any:
    """Return the value of a JSON text; `name` is what an error calls it.

    Raises:
        error: it is no JSON, has a key twice, a number that is not finite, half a character (a lone surrogate) or too
            many levels, or is of another type than `kind`.
    """
    try:
        value = _decode(text)
    except _BadJSONError as problem:
        raise error(f"{name} is not valid JSON ({problem}); mend it, or fetch it again") from None
    if not isinstance(value, kind):
        wanted = " or a ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise error(f"{name} holds a {type(value).__name__} where a {wanted} is expected; is it the right file?")
    return value


def read_items(path: str | Path, error: type[Exception] = FileError, advice: str = "check the path") -> list:
    """Return the items of a JSON array; one that cannot be read alone is an `Unusable`.

    Raises:
        error: as `read_json`; items are set aside only where it is clear where they end.
    """
    text, name = read_text(path, error, advice), printable(path)
    try:
        value = _decode(text)
    except _BadJSONError as problem:
        if (items := _decode_items(text)) is None:
            raise error(f"{name} is not valid JSON ({problem}); mend it, or fetch it again") from None
        return items
    if not isinstance(value, list):
        raise error(f"{name} holds a {type(value).__name__} where a list is expected; is it the right file?")
    return value


def read_lines(
    path: str | Path, error: type[Exception] = FileError, advice: str = "check the path"
) -> list[tuple[int, Any]]:
    """Return the values of a file of JSON lines, each with its line's number (from 1); a bad one is an `Unusable`.

    Raises:
        error: as `read_text`.
    """
    # Not splitlines(): it would cut a text at the line separators that JSON allows inside a string.
    lines = enumerate(read_text(path, error, advice).split("\n"), start=1)
    return [(number, _decode_or_set_aside(line)) for number, line in lines if line.strip()]


def read_records(path: str | Path, error: type[Exception] = FileError, advice: str = "check the path") -> list[dict]:
    """Return the objects of a file of JSON lines that the kit wrote itself: every line is one.

    Raises:
        error: as `read_text`, or a line is no JSON object.
    """
    found = read_lines(path, error, advice)
    for number, value in found:
        if not isinstance(value, dict):
            reason = value.reason if isinstance(value, Unusable) else f"is a {type(value).__name__}, not an object"
            raise error(f"{printable(path)} line {number} {reason}; make the file again")
    return [value for _, value in found]


class _BadJSONError(ValueError):
    """A JSON text that is refused; the message says why."""


def _decode(text: str) -> Any:
    try:
        value = _STRICT.decode(text)
    except RecursionError:
        raise _BadJSONError("it is nested too deeply") from None
    except ValueError as problem:
        raise _BadJSONError(printable(problem)) from None
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _BadJSONError("a text holds half a character, a lone surrogate") from None
    return value


def _decode_or_set_aside(text: str) -> Any:
    try:
        return _decode(text)
    except _BadJSONError as problem:
        return Unusable(f"is not valid JSON ({problem})")


def _decode_items(text: str) -> list | None:
    """Return the items of an array one by one; None where it cannot be told where they end."""
    items, place = [], _skip_space(text, 0)
    if text[place : place + 1] != "[":
        return None
    while True:
        start = _skip_space(text, place + 1)  # after the bracket or comma
        try:
            _, place = _LENIENT.raw_decode(text, start)
        except (ValueError, RecursionError):
            return None
        items.append(_decode_or_set_aside(text[start:place]))
        place = _skip_space(text, place)
        if text[place : place + 1] == "]":
            return items if _skip_space(text, place + 1) == len(text) else None
        if text[place : place + 1] != ",":
            return None


def _skip_space(text: str, place: int) -> int:
    return _SPACE.match(text, place).end()


def _make_object(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _make_float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is larger than any number")
    return number


_STRICT = json.JSONDecoder(object_pairs_hook=_make_object, parse_constant=_refuse_constant, parse_float=_make_float)
_LENIENT = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


def read_rows(
    path: str | Path,
    columns: Sequence[str] = (),
    error: type[Exception] = FileError,
    advice: str = "check the path",
    report: Callable[[str, str], None] | None = None,
) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV file, each with the number of its last line (from 1), as texts by column.

    Args:
        columns: that it must have.
        report: takes rows with fewer or more cells than the head has (place, reason); None makes them an error.

    Raises:
        error: as `read_text`; the file is empty, lacks a column or has one twice; a quote is not closed; a cell is
            longer than 131,072 characters; a byte is 0; a ragged row, without `report`.
    """
    text, name = read_text(path, error, advice), printable(path)
    head, rows = _split_rows(text, name, columns, error)
    found = []
    for line, cells in rows:
        if len(cells) == len(head):
            found.append((line, dict(zip(head, cells, strict=True))))
        elif report is None:
            raise error(f"{name} line {line} has {len(cells)} cells under {len(head)} columns; mend the line")
        else:
            report(f"{Path(path).name} line {line}", f"has {len(cells)} cells under {len(head)} columns")
    return found


def read_frame(path: str | Path, error: type[Exception] = FileError, advice: str = "check the path", **options):
    """Return a CSV file of commas as a `pandas.DataFrame`, checked as by `read_rows`.

    Args:
        **options: of `pandas.read_csv`.

    Raises:
        error: as `read_rows`, or a cell is not of the type that `options` ask for.
    """
    import pandas

    text, name = read_text(path, error, advice), printable(path)
    head, rows = _split_rows(text, name, (), error, ",")
    for line, cells in rows:
        if len(cells) != len(head):
            raise error(f"{name} line {line} has {len(cells)} cells under {len(head)} columns; {advice}")
    try:
        return pandas.read_csv(io.StringIO(text), **options)
    except (ValueError, TypeError) as problem:  # pandas' own errors are ValueErrors
        raise error(f"{name} cannot be read as a table ({printable(problem)}); {advice}") from problem


def _split_rows(
    text: str, name: str, columns: Sequence[str], error: type[Exception], separators: str = _SEPARATORS
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return a CSV file's head and its rows with their lines' numbers, empty lines left out."""
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error(f"{name} line {line} holds a byte 0; it is damaged, or no CSV file")
    heads = {separator: _read_head(text, name, separator, error) for separator in separators}
    fitting = [separator for separator, head in heads.items() if set(columns) <= set(head)]
    separator = fitting[0] if fitting else separators[0]
    head = heads[separator]
    if missing := [column for column in columns if column not in head]:
        raise error(f"{name} lacks the column {', '.join(missing)}; it needs {', '.join(columns)}")
    if twice := sorted({column for column in head if column and head.count(column) > 1}):
        raise error(f"{name} has the column {', '.join(map(printable, twice))} twice; keep one")
    return head, _iterate_rows(text, name, separator, len(head), error)


def _iterate_rows(
    text: str, name: str, separator: str, width: int, error: type[Exception]
) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        next(reader)
        for cells in reader:
            while len(cells) > width and not cells[-1]:  # a spreadsheet's empty columns
                cells.pop()
            if cells:
                yield reader.line_num, cells
    except csv.Error as problem:
        raise error(f"{name} line {reader.line_num} is no line of CSV ({problem}); mend it") from None


def _read_head(text: str, name: str, separator: str, error: type[Exception]) -> list[str]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        head = [column.strip() for column in next(reader, [])]
    except csv.Error as problem:
        raise error(f"{name} line 1 is no line of CSV ({problem}); mend it") from None
    while head and not head[-1]:
        head.pop()
    if not head:
        raise error(f"{name} is empty; it needs a line with its columns")
    return head
