"""Reading two scores out of a judge's free text: tolerant of form, strict about content.

Language models wrap the asked-for dictionary in fences, curly quotes and prose, or cut it short. JSON (or a Python
dictionary) is parsed first, so that what the reasoning says cannot be taken for a score; regular expressions read what
does not parse. A form that leaves no doubt about the two numbers is read; anything else is refused with a reason, so
that refusals can be counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from visdyn.evaluation.judges.json_answers import find_dictionaries, plain_value

MAX_SCORE = 10.0

_STRAIGHT = str.maketrans("“”„‟«»‘’‚‛`［］（）：，＝＂＇", '""""""\'\'\'\'\'[]():,="\'')
_QUOTES = r"[\s\"'*\\]{0,12}"
_KEY = re.compile(rf"(?<![a-z0-9_])(?:output[ _])?scores?{_QUOTES}[:=]{_QUOTES}(?=[\[(])", re.IGNORECASE)
_NUMBER = r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:\s*/\s*10(?:\.0*)?)?"
_ITEM = re.compile(rf"[\s\"'*\\]*{_NUMBER}[\s\"'*\\]*")
_LANGUAGE = re.compile(r"[a-z0-9]{1,12}\s+(?=[\[({])", re.IGNORECASE)  # of a fence, once its backticks are off
_NAMES = (("score1", "score2"), ("score_1", "score_2"), ("editing_success", "minimal_editing"))
_MAX_LIST = 200  # characters; a longer bracket is prose


class Scores(NamedTuple):
    """A judge's two scores, each from 0 to 10; the final score is the smaller one (Bootstrapping, Figure 10)."""

    editing_success: float
    minimal_editing: float

    @property
    def score(self) -> float:
        """The final score."""
        return min(self)


class Reading(NamedTuple):
    """What was read from an answer: scores, or None and the reason why they were refused."""

    scores: Scores | None
    reason: str | None


def parse_scores(text: str | None) -> Scores | None:
    """Return the two scores stated in a judge's answer, or None where they are not stated beyond doubt."""
    return read_answer(text).scores


def read_answer(text: str | None) -> Reading:
    """Return the two scores stated in a judge's answer, or the reason for refusing it. Never raises.

    Read are lists of exactly two numbers from 0 to 10 after a key `score` (quoted in any way or not at all, nested,
    as strings, as "8/10"), the keys `score1` and `score2` (or `editing_success` and `minimal_editing`), and an answer
    that is nothing but such a list. Refused are other counts, numbers outside the range, cut-off lists, words for
    numbers, and answers that state two different pairs. Beside a dictionary that parses and holds numbers, what the
    text says elsewhere counts for nothing.
    """
    if not isinstance(text, str) or not text.strip():
        return Reading(None, "the answer is empty")
    plain = text.translate(_STRAIGHT)
    readings = list(_dictionary_scores(text)) or _keyed_lists(plain) or _named_pairs(plain) or _bare_list(plain)
    if not readings:
        return Reading(None, "the answer has no score field with a list")
    if refused := [reading for reading in readings if reading.scores is None]:
        return refused[0]
    if len({reading.scores for reading in readings}) > 1:
        return Reading(
            None, "the answer states different scores: " + ", ".join(str(list(r.scores)) for r in readings[:4])
        )
    return readings[0]


def _dictionary_scores(text: str) -> Iterator[Reading]:
    for values in find_dictionaries(text):
        lists = [
            values[key] for key in ("score", "scores", "output_score") if isinstance(values.get(key), list | tuple)
        ]
        pairs = [[values[name] for name in names] for names in _NAMES if set(names) <= set(values)]
        for stated in (*lists, *pairs):
            items = [plain_value(item) for item in _flatten(stated)]
            if any(re.search(r"\d", item) for item in items):  # else it is the template
                yield _read_items(items)


def _flatten(values: list | tuple) -> Iterator[object]:
    for value in values:
        yield from _flatten(value) if isinstance(value, list | tuple) else (value,)


def _keyed_lists(text: str) -> list[Reading]:
    lists = [_bracketed(text, match.end()) for match in _KEY.finditer(text)]
    # A list without any number, such as the template's own [...] or [score1, score2], is no answer beside a real one.
    readings = [
        Reading(None, "the score list is not closed") if inner is None else _read_list(inner) for inner in lists
    ]
    real = [reading for reading, inner in zip(readings, lists, strict=True) if inner is None or _numbers(inner)]
    return real or readings


def _named_pairs(text: str) -> list[Reading]:
    for names in _NAMES:
        # A comma before a digit is a decimal one: the value is then refused, not cut to its whole part.
        value = r"((?:[^,;}\n]|,(?=\d))*)"
        found = [re.findall(rf"(?<![a-z0-9_]){name}{_QUOTES}[:=]{value}", text, re.IGNORECASE) for name in names]
        if any(found):
            if [len(values) for values in found] != [1, 1]:
                return [Reading(None, f"{names[0]} and {names[1]} are not stated once each")]
            return [_read_items([values[0] for values in found])]
    return []


def _bare_list(text: str) -> list[Reading]:
    stripped = text.strip(" \t\r\n'")  # backticks are straight quotes by now
    if language := _LANGUAGE.match(stripped):
        stripped = stripped[language.end() :]
    inner = _bracketed(stripped, 0) if stripped[:1] in ("[", "(") else None
    whole = inner is not None and len(inner) + 2 == len(stripped)
    return [_read_list(inner)] if whole else []


def _bracketed(text: str, start: int) -> str | None:
    """Return what stands inside the bracket that opens at `start`, or None if it is not closed properly."""
    closing = {"[": "]", "(": ")"}
    expected: list[str] = []
    for position in range(start, min(len(text), start + _MAX_LIST)):
        if (character := text[position]) in closing:
            expected.append(closing[character])
        elif character in "])":
            if expected.pop() != character:
                return None
            if not expected:
                return text[start + 1 : position]
        elif character in "{}":
            return None
    return None


def _read_list(inner: str) -> Reading:
    return _read_items(_items(inner))


def _items(inner: str) -> list[str]:
    items = re.sub(r"[\[\]()]", " ", inner).split(",")
    return items[:-1] if len(items) > 1 and not items[-1].strip() else items


def _numbers(inner: str) -> list[str]:
    return [item for item in _items(inner) if _ITEM.fullmatch(item)]


def _read_items(items: list[str]) -> Reading:
    if len(items) != 2:
        return Reading(None, f"the score list is {len(items)} long, not 2")
    matches = [_ITEM.fullmatch(item) for item in items]
    if not all(matches):
        bad = next(item.strip() for item, match in zip(items, matches, strict=True) if not match)
        return Reading(None, f"{bad[:40]!r} in the score list is not a number")
    values = [float(match[1]) for match in matches]
    if not all(0 <= value <= MAX_SCORE for value in values):
        return Reading(None, f"the scores {values} are not between 0 and 10")
    return Reading(Scores(*(value + 0.0 for value in values)), None)
