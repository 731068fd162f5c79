"""Reversible actions among EPIC-KITCHENS segments (Do-Undo, section 3.1): vocabularies, inverses, statistics.

The raw `verb` column is matched, exactly: the verb classes merge what has to stay apart (class 0 holds "take",
"pick-up" and "grab"; class 1 "put" and "put-down"). The paper lists the verbs of v1 and says that different
actions can share an inverse ("grab" and "pick-up" are undone by "put" or "put-down"); it prints no full inverse map.
The map below is the kit's choice, every inverse being a verb of the same vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from visdyn.datasets.epic_kitchens import Segment
from visdyn.mining.inverse_text import inverse_narration
from visdyn.quarantine import Quarantine
from visdyn.trajectory import ReversiblePair

_V1 = {
    "pick-up": "put-down",
    "put-down": "pick-up",
    "put": "pick-up",
    "open": "close",
    "grab": "put-down",
    "turn-off": "turn-on",
    "turn-on": "turn-off",
    "close": "open",
    "place": "remove",
    "move": "move",
    "remove": "place",
}
# v2's project page lists v1's verbs without "put", but its test set counts put, take and get as well.
_V2 = _V1 | {"put": "take", "take": "put", "get": "put"}
VOCABULARIES = {"v1": _V1, "v2": _V2}
# Verbs outside the training vocabulary, to test generalisation. The paper's own are rotate, remove-from and stack; the
# kitchen world's are these six (its "move" is in the vocabulary).
OUT_OF_DISTRIBUTION = {
    "place-in": "remove-from",
    "remove-from": "place-in",
    "stack": "unstack",
    "unstack": "stack",
    "rotate": "rotate",
}


@dataclass(frozen=True)
class MinedPair:
    """A segment with a reversible verb.

    Attributes:
        segment: the annotated segment; its first and last frames are the two images.
        verb, inverse_verb: raw verbs of the vocabulary.
        forward_short, reverse_short: the narration, and the kit's sentence that undoes it.
        out_of_distribution: the verb is none of the training vocabulary's.
    """

    segment: Segment
    verb: str
    inverse_verb: str
    forward_short: str
    reverse_short: str
    out_of_distribution: bool = False


def inverse_verbs(vocabulary: str = "v1", out_of_distribution: bool = False) -> dict[str, str]:
    """Return verb -> inverse verb of a vocabulary ("v1", "v2"), on request with the out-of-distribution verbs."""
    if vocabulary not in VOCABULARIES:
        raise ValueError(f"unknown vocabulary {vocabulary!r}; one of {', '.join(VOCABULARIES)}")
    return VOCABULARIES[vocabulary] | (OUT_OF_DISTRIBUTION if out_of_distribution else {})


def mine_pairs(
    segments: Iterable[Segment],
    vocabulary: str = "v1",
    out_of_distribution: bool = False,
    article: str = "the",
) -> list[MinedPair]:
    """Return the segments whose raw verb has an inverse in the vocabulary, in their order, with both short prompts.

    Segments of other verbs are left out by definition; `statistics` reports the share that is kept.

    Args:
        article: see `inverse_narration`; the kitchen world's texts have none.
    """
    inverses = inverse_verbs(vocabulary, out_of_distribution)
    return [_mine_segment(segment, vocabulary, inverses, article) for segment in segments if segment.verb in inverses]


def _mine_segment(segment: Segment, vocabulary: str, inverses: dict[str, str], article: str) -> MinedPair:
    inverse = inverses[segment.verb]
    undone = inverse_narration(segment.narration, segment.verb, inverse, segment.noun, article)
    known = segment.verb in VOCABULARIES[vocabulary]
    return MinedPair(segment, segment.verb, inverse, segment.narration.strip(), undone, not known)


def with_short_prompts(
    pairs: Iterable[ReversiblePair],
    quarantine: Quarantine | None = None,
    vocabulary: str = "v2",
    out_of_distribution: bool = True,
) -> list[ReversiblePair]:
    """Write the short reverse prompt where a pair has none (the released files have none).

    Args:
        quarantine: takes the pairs whose verb has no inverse in the vocabulary: narrations are free text.

    Raises:
        ValueError: there is such a pair, and no quarantine; the pair is named.
    """
    inverses, completed = inverse_verbs(vocabulary, out_of_distribution), []
    for pair in pairs:
        if not pair.reverse_short and pair.verb not in inverses:
            reason = f"verb {pair.verb!r} has no inverse, so no short prompt undoes it; choose another vocabulary"
            if quarantine is None:
                raise ValueError(f"pair {pair.id}: {reason}")
            quarantine.add(pair.id, reason)
            continue
        reverse = pair.reverse_short or inverse_narration(pair.narration, pair.verb, inverses[pair.verb], pair.noun)
        completed.append(replace(pair, reverse_short=reverse))
    return completed


def statistics(segments: Sequence[Segment], pairs: Iterable[MinedPair]) -> pd.DataFrame:
    """Count the mined segments per verb and noun, for Do-Undo's Figures 3, 4 and 10.

    Args:
        segments: all the segments that were searched.
        pairs: what was mined from them (and perhaps curated since).

    Returns:
        Tidy table: verb, noun, count (mined segments of both), reversible_share (mined share of all the segments, in
        [0, 1], the same in every row), sorted by verb and noun.
    """
    mined = pd.DataFrame([(pair.verb, pair.segment.noun) for pair in pairs], columns=["verb", "noun"])
    counts = mined.groupby(["verb", "noun"]).size().rename("count").reset_index()
    counts["reversible_share"] = len(mined) / len(segments) if segments else 0.0
    return counts
