"""Judges behind one protocol: the region judge, and any that answers a prompt in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from visdyn.evaluation.judges.judge_answers import Reading, Scores, parse_scores, read_answer
from visdyn.evaluation.metrics import region_judge
from visdyn.images import ImageRef

__all__ = [
    "EDIT_PROMPT",
    "EDIT_PROMPT_STATUS",
    "AnswerJudge",
    "Judge",
    "Reading",
    "RegionJudge",
    "Scores",
    "Verdict",
    "parse_scores",
    "read_answer",
]

EDIT_PROMPT_STATUS = "reconstructed"
# Same role, images, criteria, scales and answer format as Bootstrapping, Figure 10, in the kit's own words: scores
# obtained with it are not those of the printed prompt. The judge sees source and prediction, never the target.
EDIT_PROMPT = """\
You are an experienced digital artist who assesses image edits made by a generative model.

You are shown two images: first the image before the edit, then the edited image. Judge how well the second image
carries out the editing instruction given below. The two may look the same: then the edit has failed.

Give two scores, each from 0 to 10.
- score1, editing success. 0: the edited scene does not follow the instruction at all. 10: it follows the instruction
  perfectly. If what the instruction speaks of is not in the first image, score1 is 0.
- score2, minimal editing. 0: the edited scene has nothing in common with the first image. 10: the edited image is
  recognisably the first one, changed as little as the instruction allows, and the change has its effect.

Editing instruction: {instruction}

Answer with a Python dictionary and nothing else; keep the reasoning to one or two sentences:
{{"score": [score1, score2], "reasoning": "..."}}
"""


@dataclass(frozen=True)
class Verdict:
    """A judge's answer on one prediction.

    Attributes:
        scores: editing success and minimal editing, 0 to 10; None where the answer was refused.
        reason: why it was refused; None otherwise. Report the number of refusals beside every mean.
        answer: the raw words, for the record; empty for judges that use none.
        success, copied: where the judge can tell, whether the prediction shows the target's state or the source's.
    """

    scores: Scores | None
    reason: str | None = None
    answer: str = ""
    success: bool | None = None
    copied: bool | None = None

    @property
    def score(self) -> float | None:
        """The smaller of the two scores; None where refused."""
        return None if self.scores is None else self.scores.score


class Judge(Protocol):
    """Scores one prediction; `target` is None for judges (or items) that go without."""

    def score(self, source: ImageRef, prediction: ImageRef, target: ImageRef | None, instruction: str) -> Verdict:
        """Return the verdict; an answer that cannot be read is a verdict with a reason, not an exception."""


class RegionJudge:
    """The reference-based judge (`visdyn.evaluation.metrics.region_judge`); it does not read the instruction."""

    def __init__(self, threshold: float = region_judge.THRESHOLD, outside_scale: float = region_judge.OUTSIDE_SCALE):
        self.options = {"threshold": threshold, "outside_scale": outside_scale}

    def score(
        self,
        source: ImageRef,
        prediction: ImageRef,
        target: ImageRef | None,
        instruction: str = "",
        candidates: Sequence[ImageRef] = (),
    ) -> Verdict:
        """Return the verdict on one prediction; refused without a target, or with one that equals the source."""
        if target is None:
            return Verdict(None, "the region judge needs the target image")
        try:
            found = region_judge.judge(source, prediction, target, candidates, **self.options)
        except region_judge.NoChangeError as error:
            return Verdict(None, str(error))
        scores = Scores(found.editing_success, found.minimal_editing)
        return Verdict(scores, success=found.success, copied=found.copied)


class AnswerJudge:
    """A judge that is asked in words and answers in words.

    Args:
        ask: given the two images (source, prediction) and the prompt, returns the model's answer: a client of an
            endpoint, a local model, or recorded answers.
        prompt: template with one field `instruction`.
    """

    def __init__(self, ask: Callable[[Sequence[ImageRef], str], str], prompt: str = EDIT_PROMPT):
        self.ask = ask
        self.prompt = prompt

    def score(self, source: ImageRef, prediction: ImageRef, target: ImageRef | None, instruction: str) -> Verdict:
        """Return the verdict read from the answer; the target is not shown.

        Raises:
            ValueError: the instruction is empty (a judge would score it all the same).
        """
        if not instruction.strip():
            raise ValueError("a judge needs the instruction; this item's is empty")
        answer = self.ask([source, prediction], self.prompt.format(instruction=instruction))
        scores, reason = read_answer(answer)
        return Verdict(scores, reason, answer if isinstance(answer, str) else "")
