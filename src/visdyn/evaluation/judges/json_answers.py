"""What a judge wrote as JSON, or as a Python dictionary, found before any regular expression is tried.

Numbers stay as they are spelled, so that the reader of scores decides what is one.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator

_CURLY = str.maketrans("“”„‟‘’‚‛", "\"\"\"\"''''")
_FENCE = re.compile(r"```[ \t]*\w*\s*(.*?)```", re.DOTALL)
_MAX_OBJECTS = 50  # tried in one answer
_MAX_OBJECT = 20_000  # characters; a longer one is no judge's answer


def find_dictionaries(text: str) -> list[dict[str, object]]:
    """Return every dictionary of an answer, outer ones before those inside; none where nothing is whole.

    Looked at are the whole text, else its fences, else whatever stands in braces; as JSON, and as Python writes it.
    Keys are in small letters with `_` for spaces and dashes; numbers are text as spelled. What names a key twice with
    different values is left out: nobody can say which was meant.
    """
    for variant in dict.fromkeys((text, text.translate(_CURLY))):
        whole = _parse(variant)
        values = [whole] if isinstance(whole, dict | list) else [_parse(part) for part in _FENCE.findall(variant)]
        found = [one for value in values for one in _walk_dictionaries(value)]
        if found := found or [one for value in _parse_braces(variant) for one in _walk_dictionaries(value)]:
            return found
    return []


def plain_value(value: object) -> str:
    """Return a score's text: its own, or that of `score`, `value` or `rating` in a dictionary."""
    if isinstance(value, dict):
        named = {_plain_key(key): inner for key, inner in value.items()}
        value = next((named[key] for key in ("score", "value", "rating") if key in named), value)
    if isinstance(value, list | tuple) and len(value) == 1:
        return plain_value(value[0])
    return str(value)


def _walk_dictionaries(value: object) -> Iterator[dict[str, object]]:
    if isinstance(value, dict):
        yield {_plain_key(key): inner for key, inner in value.items()}
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _walk_dictionaries(inner)


def _plain_key(key: object) -> str:
    return re.sub(r"[\s_-]+", "_", str(key).strip(" \t\n*_").lower())


def _parse_braces(text: str) -> Iterator[object]:
    position, tried = text.find("{"), 0
    while position >= 0 and tried < _MAX_OBJECTS:
        tried += 1
        end = _closing_brace(text, position)
        value = None if end is None else _parse(text[position:end])
        if value is not None:
            yield value
        position = text.find("{", position + 1 if value is None else end)


def _closing_brace(text: str, start: int) -> int | None:
    """Return the place after the brace that closes the one at `start`; quoted braces are text."""
    depth, quote, position = 0, "", start
    while position < min(len(text), start + _MAX_OBJECT):
        character = text[position]
        if quote:
            position += character == "\\"
            quote = "" if character == quote else quote
        elif character == '"' or (character == "'" and text[position - 1] in " \t\n{[(:,"):  # no apostrophe
            quote = character
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return position + 1
        position += 1
    return None


def _parse(text: str) -> object:
    if len(text) > _MAX_OBJECT:
        return None
    try:
        return json.loads(
            text, strict=False, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_join_pairs
        )
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():  # an odd escape in the reasoning
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and type(node.value) in (int, float, complex):
                node.value = ast.get_source_segment(text.strip(), node)
            elif isinstance(node, ast.Dict) and None not in node.keys:
                _join_pairs(
                    [(ast.unparse(key), ast.unparse(value)) for key, value in zip(node.keys, node.values, strict=True)]
                )
        return ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _join_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    joined: dict[str, object] = {}
    for key, value in pairs:
        if joined.setdefault(key, value) != value:
            raise ValueError(f"{key} is stated twice")
    return joined
