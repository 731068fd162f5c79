"""The short prompt that undoes a narration: "open door" gives "close the door"."""

from __future__ import annotations

import re

# Verbs whose doing moves an object away from a place, and towards one.
TAKING = frozenset({"pick-up", "take", "grab", "get", "remove", "remove-from", "unstack"})
PUTTING = frozenset({"put-down", "put", "place", "place-in", "stack"})
_TO_A_PLACE = frozenset({"in", "into", "inside", "on", "onto", "to", "at"})
_FROM_A_PLACE = frozenset({"from", "off", "out"})
_PLACE_WORDS = (
    _TO_A_PLACE | _FROM_A_PLACE | {"of", "under", "over", "between", "behind", "with", "back", "left", "right"}
)
_PARTICLES = frozenset({"up", "down", "away"})
_SIDES = {"left": "right", "right": "left"}
_DETERMINED = re.compile(r"(the|a|an|some|my|his|her|its|both|all|one|two)\b")


def inverse_narration(narration: str, verb: str, inverse: str, noun: str, article: str = "the") -> str:
    """Return the sentence that undoes `narration`, by rules of the kit's own.

    The object keeps the narration's words (else the noun column's: "cutter:pizza" is the pizza cutter). Of a place,
    - put somewhere, the object is taken "from" there: "put pan on hob" gives "pick up the pan from hob";
    - taken from somewhere, the object is put down, or "back", without the place: the narration does not say whether
      that is "in" or "on". Only `place-in` and `stack` know ("remove salad from fridge": "place the salad in fridge");
    - moved left or right, the sides are exchanged; moved otherwise, it is moved "back".

    Args:
        verb, inverse: raw verbs such as "put-down" and "pick-up".
        article: set before an object that has none; "" keeps the annotations' own style ("close door").
    """
    thing, place = _split_object_and_place(narration, verb, noun)
    if inverse == verb:
        place = [_SIDES.get(word, word) for word in place] if _SIDES.keys() & set(place) else ["back"]
    elif inverse in TAKING:
        place = _from_place(place)
    elif inverse in PUTTING:
        place = _to_place(place, inverse)
    # The preposition of "place-in" and "remove-from" stands before the place.
    words = inverse.removesuffix("-in").removesuffix("-from").split("-")
    determined = thing if not article or _DETERMINED.match(thing) else f"{article} {thing}"
    return " ".join([*words, determined, *place])


def _split_object_and_place(narration: str, verb: str, noun: str) -> tuple[str, list[str]]:
    words = re.sub(r"[^\w\s'-]", " ", narration.lower()).split()
    spoken = verb.split("-")
    # A narration that does not open with the verb ("still open door") leaves only the noun certain.
    said = len(spoken) if words[: len(spoken)] == spoken else int(words[:1] == spoken[:1])
    words = words[said:] if said else []
    cut = next((i for i, word in enumerate(words) if word in _PLACE_WORDS), len(words))
    thing, place = words[:cut], words[cut:]
    if thing and thing[-1] in _PARTICLES:
        thing = thing[:-1]  # "put broccoli down"
    if thing and spoken[-1:] == place[:1] and place[0] not in _SIDES:
        place = place[1:]  # "turn tap on": the particle belongs to the verb
    return " ".join(thing) or " ".join(reversed(noun.split(":"))), place


def _from_place(place: list[str]) -> list[str]:
    rest = list(place)
    # "put pan back on hob": the preposition of the way there goes, "from" takes its place
    while rest and rest[0] in _TO_A_PLACE | {"back"}:
        rest.pop(0)
    return ["from", *rest] if rest else []


def _to_place(place: list[str], inverse: str) -> list[str]:
    rest = list(place)
    while rest and rest[0] in _FROM_A_PLACE | {"of"}:
        rest.pop(0)
    preposition = {"place-in": "in", "stack": "on"}.get(inverse)
    if preposition and rest:
        return [preposition, *rest]
    return [] if inverse in ("put-down", "stack") else ["back"]
