"""Spatial reasoning (Bootstrapping, Table 2): how often a model picks the right option, with chance beside it.

Two modes. *Generation*: the model answers in words, which are matched with the options by two rules. The lenient one
is that of SpatialMQA's public code: lower-cased, the answer is in the output or the output in the answer, so that "o"
passes as "on/above" and an output that lists every option is right. The strict one wants one option to be named, and
counts the rest as invalid and wrong. *Likelihood*: the option with the highest log-likelihood, per token (`mean`) or
in total (`sum`, the default of EmbSpatial-Bench's evaluation code, ReForm-Eval), is the answer; none is invalid.
`spatial_models` puts the questions to each family of models.

The paper says greedy decoding and accuracy, and neither its prompts nor its matching. Its zero-shot 15.1 on
EmbSpatial-Bench is under the chance level of 25, as happens where unreadable answers count as wrong: read `invalid`
beside every accuracy. On SpatialMQA's test split chance is 27.1 and always answering "right of" gives 27.5.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from scipy import stats

from visdyn.datasets.spatial_questions import SpatialQuestion
from visdyn.images import ImageError, ImageRef
from visdyn.models.token.scoring import Scores
from visdyn.quarantine import Quarantine

RULES = {"generation": ("lenient", "strict"), "likelihood": ("sum", "mean")}
COLUMNS = ["model", "mode", "rule", "prompt", "benchmark", "group", "relation", "id", "answer", "output", "choice",
           "correct", "invalid", "ambiguous", "chance", "reason"]  # fmt: skip

_QUOTES = "\"'`*“”‘’"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LEAD_IN = re.compile(
    r"^(?:the\s+)?(?:(?:correct|right)\s+)?(?:answer|output|option)\b(?:\s+is\b:?|\s*[:=]|(?=\s+\(?[a-z]\)?\W*$))\s*",
    re.IGNORECASE,
)
_MARK_IN_BRACKETS = re.compile(r"\(([a-z])\)", re.IGNORECASE)
_LEADING_MARK = re.compile(r"^([a-z])(?:[).:]+(?:\s|$)|$)", re.IGNORECASE)


class AnswersInWords(Protocol):
    """All that generation asks of a model: the protocol of curation's `VisionLanguageModel`."""

    name: str

    def answer_many(self, questions: Sequence[tuple[Sequence[ImageRef], str]]) -> list[str]:
        """Return the model's greedy answer to each question: images and a prompt."""


class ScoresOptions(Protocol):
    """All that likelihood asks of a model."""

    name: str

    def score_options(self, image: ImageRef, prompt: str, options: Sequence[str]) -> Scores:
        """Return the log-likelihoods of the options as answers to image and prompt, one row for each, in nats."""


class QuestionAnswering(AnswersInWords, ScoresOptions, Protocol):
    """Both modes; `visdyn.evaluation.benches.spatial_models` gives them to every family."""


@dataclass(frozen=True)
class SpatialPrompt:
    """How a question is put.

    Attributes:
        name: goes into the results.
        template: text with the fields `question` and `options`.
        separator: between options.
        marks: put (A), (B), ... before the options, and read them in answers.
        status: `reconstructed`: same content as the public prompt, in the kit's own words. Scores depend on wording.
    """

    name: str
    template: str
    separator: str = "; "
    marks: bool = False
    status: str = "reconstructed"

    def of(self, question: SpatialQuestion) -> str:
        """Return the prompt for one question."""
        options = [f"({_LETTERS[i]}) {text}" if self.marks else text for i, text in enumerate(question.options)]
        return self.template.format(question=question.question, options=self.separator.join(options))


PROMPTS = {
    "spatialmqa": SpatialPrompt(
        "spatialmqa",
        "You are an expert who reasons about spatial relations. For the image and the question below, choose the one "
        "option that is true. Give the option alone, without a reason.\n"
        "Question: {question} Options: {options}.\nOutput:",
    ),
    "embspatial": SpatialPrompt(
        "embspatial",
        "Look at the image and choose the right option. Answer with its mark, such as (A), and nothing else.\n"
        "Question: {question}\nOptions: {options}\nAnswer:",
        separator=" ",
        marks=True,
    ),
    "kitchen": SpatialPrompt("kitchen", "Question: {question} Options: {options}.\nOutput:", status="ours"),
}
# By likelihood an option is scored as its text. The kitchen's are whole captions: a small model that captions pictures
# is asked which one it finds likelier. EmbSpatial's must not be asked for as marks.
LIKELIHOOD_PROMPTS = PROMPTS | {
    "kitchen": SpatialPrompt("picture alone", "", status="ours"),
    "embspatial": SpatialPrompt(
        "embspatial, options",
        "Look at the image and choose the right option. Answer with the option alone.\n"
        "Question: {question}\nOptions: {options}.\nAnswer:",
    ),
}


class Choice(NamedTuple):
    """What an output was read as: the index of the one option it names, else None, and how many it names."""

    index: int | None
    num_named: int


def lenient_match(output: str, option: str) -> bool:
    """Whether SpatialMQA's public rule takes `output` for `option`; an empty output is taken for none.

    A full stop at the end is dropped, as in that code's BLIP scripts.
    """
    said, option = output.strip().rstrip(".").lower(), option.lower()
    return bool(said) and (said in option or option in said)


def read_choice(output: str, options: Sequence[str], marks: bool = False) -> Choice:
    """Read which one option an output names. Never raises.

    Read are an option's text, alone or as whole words in a sentence; the beginning of exactly one option ("left" for
    "left of") or one side of its slash ("above" for "on/above"), alone; and, where the prompt gave marks, "A", "(A)",
    "A." or "A) text" in any case. A text that is part of a longer option does not count where the longer one is said.
    Two options, or a mark beside another option's text, are refused.
    """
    said = _plain(_LEAD_IN.sub("", output.strip().strip(_QUOTES)))
    marked = _marks(output, len(options)) if marks else set()
    named = _named(said, options) | marked
    if said and not named:
        named = {i for i, option in enumerate(options) if _shortened(said, _plain(option))}
    # Options of one text are one answer.
    num_named = len({_plain(options[i]) for i in named})
    return Choice(min(named) if num_named == 1 else None, num_named)


def _shortened(said: str, option: str) -> bool:
    return option.startswith(said + " ") or said in option.split("/")


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w/]+", " ", text.lower()).split())


def _named(said: str, options: Sequence[str]) -> set[int]:
    named, rest = set(), f" {said} "
    # A longer option is looked for first and cut out: "coffee table" does not name "table".
    for index in sorted(range(len(options)), key=lambda i: -len(_plain(options[i]))):
        words = f" {_plain(options[index])} "
        if words.strip() and words in rest:
            named.add(index)
            rest = rest.replace(words, " | ")
    return named


def _marks(output: str, count: int) -> set[int]:
    text = _LEAD_IN.sub("", output.strip().strip(_QUOTES))
    letters = set(_MARK_IN_BRACKETS.findall(text.upper())) | set(_LEADING_MARK.findall(text.upper()))
    return {_LETTERS.index(letter) for letter in letters if _LETTERS.index(letter) < count}


def generate_answers(
    model: AnswersInWords,
    questions: Sequence[SpatialQuestion],
    prompt: SpatialPrompt | None = None,
    quarantine: Quarantine | None = None,
) -> pd.DataFrame:
    """Ask every question and match the answers with both rules: two rows a question, columns `COLUMNS`.

    To make a long run resumable, wrap the model in `visdyn.models.understanding.chat_cache.CachedVLM`.

    Args:
        prompt: None takes the benchmark's own from `PROMPTS`.
        quarantine: takes the questions whose image cannot be read; where it is None such a question raises.
    """
    rows = []
    for question in questions:
        put = prompt or PROMPTS[question.benchmark]
        text = put.of(question)
        output = _asked(question, quarantine, lambda image, text=text: model.answer_many([([image], text)])[0])
        if output is not None:
            rows += [_row(model, put, question, output, rule, *_judged(output, question, put, rule))
                     for rule in RULES["generation"]]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _judged(output: str, question: SpatialQuestion, prompt: SpatialPrompt, rule: str) -> tuple:
    """Return choice, correct, invalid, ambiguous, chance and reason under a rule."""
    options, answer = question.options, question.answer_text
    if rule == "lenient":
        marked = _marks(output, len(options)) if prompt.marks else set()
        # An answer by mark has no text to match; "A" alone would match every option with that letter in it.
        taken = [o for i, o in enumerate(options) if (i in marked if marked else lenient_match(output, o))]
        chance = np.mean([lenient_match(option, answer) for option in options])
        reason = "" if taken else "matches no option"
        return " | ".join(taken), answer in taken, not taken, len(set(taken)) > 1, chance, reason
    index, num_named = read_choice(output, options, prompt.marks)
    choice = "" if index is None else options[index]
    reason = "" if choice else f"names {num_named} options" if num_named else "names no option"
    return choice, choice == answer, index is None, num_named > 1, options.count(answer) / len(options), reason


def score_likelihoods(
    model: ScoresOptions,
    questions: Sequence[SpatialQuestion],
    prompt: SpatialPrompt | None = None,
    quarantine: Quarantine | None = None,
) -> pd.DataFrame:
    """Score every question's options; per token and in total: two rows a question, columns `COLUMNS`.

    Of equally likely options the first is chosen, and the row is marked `ambiguous`.

    Args:
        prompt: by default the benchmark's of `LIKELIHOOD_PROMPTS`. The options' bare texts are scored, without marks.
        quarantine: as in `generate_answers`.

    Raises:
        ValueError: the model gave another number of scores than options, or one that is not finite.
    """
    rows = []
    for question in questions:
        put = prompt or LIKELIHOOD_PROMPTS[question.benchmark]
        scores = _asked(
            question, quarantine, lambda image, put=put, q=question: model.score_options(image, put.of(q), q.options)
        )
        for rule in RULES["likelihood"] if scores is not None else ():
            values = _checked(scores, question, rule)
            tied = len({question.options[i] for i in np.flatnonzero(values == values.max())}) > 1
            choice = question.options[int(values.argmax())]
            chance = question.options.count(question.answer_text) / len(question.options)
            judged = (choice, choice == question.answer_text, False, tied, chance, "")
            rows.append(_row(model, put, question, " ".join(f"{value:.6g}" for value in values), rule, *judged))
    return pd.DataFrame(rows, columns=COLUMNS)


def _checked(scores: Scores, question: SpatialQuestion, rule: str) -> np.ndarray:
    values = np.asarray(scores.total if rule == "sum" else scores.mean, np.float64)
    if values.shape != (len(question.options),) or not np.isfinite(values).all():
        raise ValueError(
            f"the model gave {values.tolist()} as log-likelihoods of the {len(question.options)} options of question "
            f"{question.id}; one finite number each is needed"
        )
    return values


def _asked(question: SpatialQuestion, quarantine: Quarantine | None, ask):
    try:
        return ask(question.image)
    except ImageError as error:
        if quarantine is None:
            raise
        quarantine.add(f"{question.benchmark}/{question.id}", str(error))
        return None


def _row(model, prompt: SpatialPrompt, question: SpatialQuestion, output: str, rule: str, *judged) -> list:
    choice, correct, invalid, ambiguous, chance, reason = judged
    mode = "generation" if rule in RULES["generation"] else "likelihood"
    asked = [question.benchmark, question.group, question.relation, question.id, question.answer_text]
    flags = [int(correct), int(invalid), int(ambiguous), float(chance)]
    return [model.name, mode, rule, prompt.name, *asked, output, choice, *flags, reason]


def summarise(table: pd.DataFrame, by: Sequence[str] = (), level: float = 0.95) -> pd.DataFrame:
    """Return the accuracy of each model, mode, rule, prompt and benchmark (and `by`) with what it must be read beside.

    Columns:
        n, num_correct, accuracy; low, high: Wilson's interval at `level`;
        chance: expected accuracy of a uniformly drawn option under the same rule;
        p_chance: one-sided p of doing as well or better by drawing (exact);
        constant, constant_accuracy: the text that is most often right, and the accuracy of always saying it;
        invalid: share of outputs that name no option (or several, under the strict rule); they count as wrong;
        ambiguous: share of outputs taken for several options, or of ties.

    Args:
        table: of `generate_answers` or `score_likelihoods`, or several concatenated.
        by: further columns to break down by, such as `group` or `relation`.

    Raises:
        ValueError: the table is empty.
    """
    if table.empty:
        raise ValueError("there are no answers to summarise; every question was set aside or none was asked")
    keys = ["model", "mode", "rule", "prompt", "benchmark", *by]
    rows = [dict(zip(keys, key, strict=True)) | _summary(part, level) for key, part in table.groupby(keys)]
    return pd.DataFrame(rows)


def _summary(part: pd.DataFrame, level: float) -> dict:
    n, correct = len(part), int(part["correct"].sum())
    interval = stats.binomtest(correct, n).proportion_ci(level, "wilson")
    counts = part["answer"].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return {
        "n": n, "num_correct": correct, "accuracy": correct / n, "low": interval.low, "high": interval.high,
        "chance": part["chance"].mean(), "p_chance": _p_chance(part["chance"], correct),
        "constant": counts.index[0], "constant_accuracy": counts.iloc[0] / n,
        "invalid": part["invalid"].mean(), "ambiguous": part["ambiguous"].mean(),
    }  # fmt: skip


def _p_chance(chances: pd.Series, correct: int) -> float:
    """Return the probability of `correct` or more right answers: chances differ with the number of options."""
    distribution = np.ones(1)
    for chance, count in zip(*np.unique(chances, return_counts=True), strict=True):
        distribution = np.convolve(distribution, stats.binom.pmf(np.arange(count + 1), count, chance))
    return float(min(distribution[correct:].sum(), 1.0))
