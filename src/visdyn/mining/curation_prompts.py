"""The texts that curation sends to a VLM: reconstructed, in our own words; the Do-Undo paper's are not public.

What they ask for is what the paper's prose lists (section 3.1).
"""

from __future__ import annotations

STATUS = "reconstructed"

_QUALITY = """\
The first image was taken before, the second after a person did this: "{narration}".
Answer three questions with 0 (no) or 1 (yes):
clear: are both images well lit and free of strong blur?
object_present: can the object of the action be seen in both images?
action_applied: does the second image show the outcome of the action, carried out on the state in the first?
Reply with exactly these three lines and nothing else:
clear: <0 or 1>
object_present: <0 or 1>
action_applied: <0 or 1>"""

_EXPANSION = """\
These images are frames of one video, in order. They show this action: "{narration}".
Write an instruction that asks for this action, in one paragraph of plain prose:
- keep the verb and the object of the action as given;
- describe the object: colour, material, shape, and where it is;
- describe the hands: one or two, left or right, their posture and what they touch;
- say where the object is in relation to the person and to what surrounds it;
- mention only what can be seen.
Reply with the paragraph alone."""


def quality(narration: str) -> str:
    """Return the quality filter's prompt, to follow the start and the end frame."""
    return _QUALITY.format(narration=narration)


def expansion(narration: str) -> str:
    """Return the expansion's prompt, to follow the frames in the order in which the action is to happen."""
    return _EXPANSION.format(narration=narration)
