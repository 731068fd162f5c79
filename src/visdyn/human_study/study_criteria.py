"""Criteria of the human studies, in order of priority, by kind of study."""

from __future__ import annotations

from dataclasses import dataclass

BEST_WORST, PAIRWISE = "best_worst", "pairwise"
OVERALL = "overall"


@dataclass(frozen=True)
class Criterion:
    """One criterion: its key in the results, a title, and what speaks for and against an image."""

    key: str
    title: str
    good: str
    bad: str


# Bootstrapping, section 4.3 and Figure 12: realism before instruction before over-editing. The words are ours.
BEST_WORST_CRITERIA = (
    Criterion(
        "realism",
        "Realism",
        "It could be a photograph of the same scene: natural textures and light.",
        "Artifacts, distorted shapes, or a scene that is no longer the input's.",
    ),
    Criterion(
        "instruction",
        "Instruction followed",
        "The image clearly shows the result of the instruction.",
        "The result is missing, or something unrelated was changed.",
    ),
    Criterion(
        "over_editing",
        "No over-editing",
        "Only what the instruction needs was changed.",
        "The instruction was followed, but other things were changed as well.",
    ),
)

# Do-Undo, appendix C: the action and the consistency of objects; camera movement and blur are not to be penalised.
PAIRWISE_CRITERIA = (
    Criterion(
        "action",
        "Action performed",
        "The first image shows the action done; the second shows it undone.",
        "The action or its undoing cannot be seen, or another action was done.",
    ),
    Criterion(
        "objects",
        "Objects kept",
        "Objects keep their identity, shape and number through both images.",
        "Objects appear, vanish or turn into others.",
    ),
)

CRITERIA = {BEST_WORST: BEST_WORST_CRITERIA, PAIRWISE: PAIRWISE_CRITERIA}
ADVICE = {
    BEST_WORST: "Choose the images that meet, or fail, as many criteria as possible. "
    "Where no image decides it, an earlier criterion counts more than a later one.",
    PAIRWISE: "Do not mark an image down for camera movement against the input, or for blur.",
}
CONSENT = (
    "Taking part is voluntary. You may stop at any time, and come back to where you stopped.",
    "Your choices and the time of each are stored. A name to greet you by is optional and leaves this "
    "computer in no export; no other personal data is asked for.",
    "The answers are analysed and published only as totals or under a number that stands for you.",
)
