"""The Do-Undo test set out of what was mined: balanced verbs, and verbs that no training pair has (section 3.1).

Version 1 of the paper has 662 samples: "top-8 classes" of equal weight, and rotate, remove-from and stack to test
generalisation. How many of each it does not say; 8 x 79 and what EPIC's validation split has of the other three make
664 before the quality filter. Version 2 prints its counts: 451 samples of ten verbs. Which samples were drawn is not
published: the draw here is seeded. `familiarity` says how much of each test pair a model was trained on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from visdyn.mining.reversible import OUT_OF_DISTRIBUTION
from visdyn.trajectory import ReversiblePair

SPLITS = ("all", "v1", "v2")
TOP = 8
UNSEEN_VERBS = ("rotate", "remove-from", "stack")
V2_COUNTS = {
    "turn-on": 81,
    "turn-off": 78,
    "take": 61,
    "open": 56,
    "pick-up": 55,
    "put": 39,
    "put-down": 33,
    "get": 24,
    "close": 14,
    "move": 10,
}


def wanted_counts(available: Counter, split: str, per_verb: int | None = None) -> dict[str, int]:
    """Return verb -> number of pairs that a split asks for, of the verbs that are available.

    Args:
        available: pairs of each verb.
        split: `all`; `v1`: the 8 most frequent verbs, and as many of the unseen ones; `v2`: the printed counts.
        per_verb: pairs of each verb in v1; None takes as many as the rarest of the 8 has, so that all 8 are equal.

    Raises:
        ValueError: unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown test split {split!r}; one of {', '.join(SPLITS)}")
    if split == "all":
        return dict(available)
    if split == "v2":
        return dict(V2_COUNTS)
    seen = {verb: count for verb, count in available.items() if verb not in OUT_OF_DISTRIBUTION}
    top = sorted(seen, key=lambda verb: (-seen[verb], verb))[:TOP]
    each = min((seen[verb] for verb in top), default=0) if per_verb is None else per_verb
    return dict.fromkeys((*top, *UNSEEN_VERBS), each)


def select_test(pairs: Sequence[ReversiblePair], split: str, per_verb: int | None, seed: int) -> list[ReversiblePair]:
    """Draw the test set: of each verb the wanted number, or all there are where they are fewer; in the order given.

    The draw of one verb depends on the seed and on that verb's pairs alone.
    """
    available = Counter(pair.verb for pair in pairs)
    chosen: set[str] = set()
    for verb, count in wanted_counts(available, split, per_verb).items():
        names = sorted(pair.id for pair in pairs if pair.verb == verb)
        chosen |= set(random.Random(f"{seed}-{verb}").sample(names, min(count, len(names))))
    return [pair for pair in pairs if pair.id in chosen]


def balance_table(
    mined: Sequence[str],
    curated: Sequence[ReversiblePair],
    chosen: Sequence[ReversiblePair],
    split: str,
    per_verb: int | None,
) -> pd.DataFrame:
    """Say how the test set came about, by verb: columns verb, unseen (0, 1), mined, passed, wanted, chosen.

    `unseen` are the verbs that no training pair may have.

    Args:
        mined: the verb of each mined pair, before the quality filter.
        curated, chosen: the pairs after it, and the test set.
    """
    before, after = Counter(mined), Counter(pair.verb for pair in curated)
    wanted, kept = wanted_counts(after, split, per_verb), Counter(pair.verb for pair in chosen)
    verbs = sorted({*before, *wanted})
    rows = [(v, int(v in OUT_OF_DISTRIBUTION), before[v], after[v], wanted.get(v, 0), kept[v]) for v in verbs]
    return pd.DataFrame(rows, columns=["verb", "unseen", "mined", "passed", "wanted", "chosen"])


def familiarity(pairs: Sequence[ReversiblePair], training: Sequence[ReversiblePair]) -> list[str]:
    """Say of each test pair how well its annotation is known from training.

    `unseen`: no training pair has its verb (Do-Undo, Figure 13). `rare`: of the others, the third whose verb and noun
    have the fewest training pairs together (Figure 8, "rare annotations"; the paper gives no number), and what ties
    with it. `common`: the rest.
    """
    verbs, counts = {pair.verb for pair in training}, Counter((pair.verb, pair.noun) for pair in training)
    known = sorted(counts[pair.verb, pair.noun] for pair in pairs if pair.verb in verbs)
    most = known[(len(known) - 1) // 3] if known else 0

    def judge(pair: ReversiblePair) -> str:
        if pair.verb not in verbs:
            return "unseen"
        return "rare" if counts[pair.verb, pair.noun] <= most else "common"

    return [judge(pair) for pair in pairs]
