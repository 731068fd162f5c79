"""Reading Do-Undo's four scores out of a judge's free text."""

from __future__ import annotations

import re

from visdyn.evaluation.judges.json_answers import find_dictionaries, plain_value
from visdyn.evaluation.judges.judge_answers import MAX_SCORE

NAMES = {
    "instruction": r"instruction(?:[ _-]?(?:following|fidelity))?",
    "identity": r"identity(?:[ _-]?preservation)?",
    "temporal_coherence": r"temporal(?:[ _-]?coherence)?",
    "object_consistency": r"object[ _-]?consistency",
}
_STRAIGHT = str.maketrans("“”„«»‘’‚`：，", '"""""\'\'\'\'' + ":,")
_QUOTES = r"[\s\"'*\\]{0,12}"
# A comma ends a value, unless a digit follows at once: "7,5" must not be read as 7.
_IS = rf"{_QUOTES}[:=]{_QUOTES}"
_VALUE = rf"{_IS}(?:[{{\[]{_QUOTES}(?:score|value|rating){_IS})?((?:[^,;}}\n]|,(?=\d))*)"
_NUMBER = re.compile(r"[\s\"'*\[(]*([0-9]+(?:\.[0-9]+)?)(?:\s*/\s*10(?:\.0+)?)?[\s\"'*\]).]*")


def read_doundo(text: str) -> tuple[dict[str, float] | None, str | None]:
    """Read Do-Undo's four scores, in any order, from JSON or lines `name: value`; refuse what leaves a doubt.

    Values may be quoted, bold, "8/10" or nested ({"identity": {"score": 8}}); a name may come twice with one value.
    Refused are a missing name, two values for one, words, numbers outside 0 to 10, and a value cut off at the end.
    Where dictionaries that parse state all four, what the text says elsewhere counts for nothing.

    Returns:
        name -> score from 0 to 10, and None; or None, and the reason.
    """
    stated = _dictionary_values(text)
    cut = ""
    if not all(stated.values()):
        stated, cut = _spelled_values(text.translate(_STRAIGHT))
    scores = {}
    for name, values in stated.items():
        numbers = {_read_number(value) for value in values}
        if len(numbers) != 1 or None in numbers:
            return None, f"{name} is not stated as one number from 0 to 10"
        if name == cut:
            return None, f"the answer ends within {name}"
        scores[name] = numbers.pop()
    return scores, None


def _dictionary_values(text: str) -> dict[str, list[str]]:
    """Return what the dictionaries of an answer state for each name; only what holds a digit can be a score."""
    stated: dict[str, list[str]] = {name: [] for name in NAMES}
    for values in find_dictionaries(text):
        for name, pattern in NAMES.items():
            found = [plain_value(value) for key, value in values.items() if re.fullmatch(pattern, key)]
            stated[name] += [value for value in found if re.search(r"\d", value)]
    return stated


def _spelled_values(plain: str) -> tuple[dict[str, list[str]], str]:
    """Return the same from text that does not parse, and the name whose value ends an open dictionary, if any."""
    stated, cut = {}, ""
    for name, pattern in NAMES.items():
        found = list(re.finditer(rf"(?<![a-z0-9_]){pattern}{_VALUE}", plain, re.IGNORECASE))
        # Names also occur in prose and in the template; only what holds a digit can be a score.
        scored = [match for match in found if re.search(r"\d", match[1])]
        stated[name] = [match[1] for match in scored]
        if scored and scored[-1].end() == len(plain) and plain.count("{") > plain.count("}"):
            cut = name
    return stated, cut


def _read_number(text: str) -> float | None:
    match = _NUMBER.fullmatch(text)
    return float(match[1]) if match and float(match[1]) <= MAX_SCORE else None
