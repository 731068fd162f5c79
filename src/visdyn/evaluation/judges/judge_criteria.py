"""The scores that judges are asked for: what they are called, how an answer is read, and the JSON that holds it.

Bootstrapping (Figure 10): editing success and minimal editing, their minimum being the score. Do-Undo (section 4,
Tables 3, 4 and 6): instruction, identity, temporal coherence and object consistency, for the forward and the reverse
image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from visdyn.evaluation.judges.doundo_answers import NAMES, read_doundo
from visdyn.evaluation.judges.judge_answers import read_answer

Scored = tuple[dict[str, float] | None, str | None]  # metric -> value from 0 to 10, or the reason why there is none


@dataclass(frozen=True)
class Criteria:
    """What a prompt asks for.

    Attributes:
        name: `editing` or `doundo`, as prompt files say.
        metrics: names of the scores, each from 0 to 10, higher is better.
        read: reads them from an answer.
        properties: JSON schema of the answer's fields, in the order in which they are asked for.
    """

    name: str
    metrics: tuple[str, ...]
    read: Callable[[str], Scored]
    properties: Mapping[str, dict]

    @property
    def response_format(self) -> dict:
        """The field of a request that asks for such JSON alone; keywords that not every server knows are left out."""
        schema = {"type": "object", "properties": dict(self.properties), "required": list(self.properties),
                  "additionalProperties": False}  # fmt: skip
        return {"type": "json_schema", "json_schema": {"name": self.name, "strict": True, "schema": schema}}


def read_editing(text: str) -> Scored:
    """Read editing success, minimal editing and their minimum, `score` (`visdyn.evaluation.judges.judge_answers`)."""
    scores, reason = read_answer(text)
    return (None, reason) if scores is None else ({**scores._asdict(), "score": scores.score}, None)


_REASONING = {"reasoning": {"type": "string"}}
EDITING = Criteria(
    "editing",
    ("editing_success", "minimal_editing", "score"),
    read_editing,
    {"score": {"type": "array", "items": {"type": "number"}}} | _REASONING,
)
DOUNDO = Criteria("doundo", tuple(NAMES), read_doundo, {name: {"type": "number"} for name in NAMES} | _REASONING)
CRITERIA = {one.name: one for one in (EDITING, DOUNDO)}
