"""Judges behind an endpoint, for both papers' criteria: repeats with their spread, and every outcome counted.

Bootstrapping (Figure 10): editing success and minimal editing, their minimum being the score. Do-Undo (section 4,
Tables 3, 4 and 6): instruction, identity, temporal coherence and object consistency, for the forward and the reverse
image. Do-Undo prints neither its prompt nor which images are shown: here the judge sees the image before and the image
after the action, never the target. Prompts are in the kit's own words and marked `reconstructed`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial

import pandas as pd

from visdyn.endpoint.client import Endpoint, EndpointError, EndpointSettings, EndpointStoppedError
from visdyn.endpoint.local_server import LocalSettings
from visdyn.endpoint.replies import Question, Reply, ReplyStore, reply_key
from visdyn.endpoint.request_progress import Prices, RequestProgress
from visdyn.evaluation.judges.judge_answers import MAX_SCORE, read_answer
from visdyn.images import ImageError, ImageRef

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
DOUNDO_PROMPT = """\
You assess images that a generative model made of a person's hands acting on things in a kitchen.

You are shown two images: first the scene before an action, then the scene after it as the model pictures it.
{direction}
The action: {instruction}

Rate the second image on four criteria, each from 0 (not at all) to 10 (fully).
- instruction: it shows the outcome of this very action, done to the right object and in the way described. Two images
  that look the same mean that nothing was done.
- identity: the object that is acted on is the same one, with the colour, material, shape and markings it had.
- temporal_coherence: the images could be two moments of one recording: one viewpoint, one room, one light, and a
  change that is physically possible in between.
- object_consistency: everything else is as it was; nothing has appeared, vanished, moved or changed without cause.

Answer with a JSON object and nothing else; keep the reasoning to one or two sentences:
{{"instruction": ..., "identity": ..., "temporal_coherence": ..., "object_consistency": ..., "reasoning": "..."}}
"""
_DIRECTIONS = {
    "forward": "The action is carried out on the scene of the first image.",
    "reverse": "The action takes back an earlier one, so that the scene should again be as it was before that.",
}
_DOUNDO_KEYS = {
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

OUTCOMES = ("answered", "unparsable", "failed")
Scored = tuple[dict[str, float] | None, str | None]  # metric -> value from 0 to 10, or the reason why there is none


def read_editing(text: str) -> Scored:
    """Read editing success, minimal editing and their minimum, `score` (`visdyn.evaluation.judges.judge_answers`)."""
    scores, reason = read_answer(text)
    return (None, reason) if scores is None else ({**scores._asdict(), "score": scores.score}, None)


def read_doundo(text: str) -> Scored:
    """Read Do-Undo's four scores, in any order, from JSON or lines `name: value`; refuse what leaves a doubt.

    Values may be quoted, bold, "8/10" or nested ({"identity": {"score": 8}}); a name may come twice with one value.
    Refused are a missing name, two values for one, words, numbers outside 0 to 10, and a value cut off at the end.
    """
    plain = text.translate(_STRAIGHT)
    scores = {}
    for metric, key in _DOUNDO_KEYS.items():
        found = list(re.finditer(rf"(?<![a-z0-9_]){key}{_VALUE}", plain, re.IGNORECASE))
        # Names also occur in prose and in the template; only what holds a digit can be a score.
        stated = [match for match in found if re.search(r"\d", match[1])]
        values = {_value(match[1]) for match in stated}
        if len(values) != 1 or None in values:
            return None, f"{metric} is not stated as one number from 0 to 10"
        if stated[-1].end() == len(plain) and plain.count("{") > plain.count("}"):
            return None, f"the answer ends within {metric}"
        scores[metric] = values.pop()
    return scores, None


def _value(text: str) -> float | None:
    match = _NUMBER.fullmatch(text)
    return float(match[1]) if match and float(match[1]) <= MAX_SCORE else None


@dataclass(frozen=True)
class Criteria:
    """What a judge is asked.

    Attributes:
        name: `editing` or `doundo`.
        prompts: template with one field `instruction` for each direction.
        metrics: names of the scores, each from 0 to 10, higher is better.
        read: reads them from an answer.
        status: `reconstructed` where the paper's own prompt is not used.
    """

    name: str
    prompts: Mapping[str, str]
    metrics: tuple[str, ...]
    read: Callable[[str], Scored]
    status: str = "reconstructed"

    @property
    def version(self) -> str:
        """Name, status and a hash of the prompts; scores of different versions do not compare."""
        digest = hashlib.sha256(repr(sorted(self.prompts.items())).encode()).hexdigest()
        return f"{self.name}-{self.status}-{digest[:8]}"


EDITING = Criteria(
    "editing",
    dict.fromkeys(_DIRECTIONS, EDIT_PROMPT),
    ("editing_success", "minimal_editing", "score"),
    read_editing,
    EDIT_PROMPT_STATUS,
)
DOUNDO = Criteria(
    "doundo",
    {name: DOUNDO_PROMPT.replace("{direction}", words) for name, words in _DIRECTIONS.items()},
    tuple(_DOUNDO_KEYS),
    read_doundo,
)


@dataclass(frozen=True)
class JudgedItem:
    """One prediction: the image it starts from, the predicted image, and the instruction that should lead there."""

    system: str
    id: str
    source: ImageRef
    prediction: ImageRef
    instruction: str
    subset: str = ""
    direction: str = "forward"
    chain: int = 0
    length: str = ""
    reverse_from: str = ""

    @property
    def name(self) -> tuple[str, str, str, str, int, str, str]:
        """What tells predictions apart; chain is the system's, length and reverse_from as in `Request`."""
        return self.system, self.subset, self.id, self.direction, self.chain, self.length, self.reverse_from


@dataclass(frozen=True)
class Asked:
    """A question with its repeat and the key of its reply; no key where an image cannot be read."""

    question: Question
    repeat: int
    key: str
    record: dict
    problem: str | None = None


def ask_all(
    questions: Sequence[Question],
    endpoint: Endpoint,
    store: ReplyStore,
    repeats: int = 1,
    prices: Prices | None = None,
    report: Callable[[str], object] = print,
    every_s: float = 10.0,
    give_up_after: int = 10,
) -> list[tuple[Asked, Reply | None, str | None]]:
    """Ask every question `repeats` times, but nothing whose reply is in the store; keep each reply as it comes.

    Equal questions share one reply for each repeat. After a kill the same call goes on: at most `concurrency` requests
    that were under way are sent again. Failed requests are sent again too, replies that make no sense are not.

    Args:
        report: takes a progress line about every `every_s` seconds, and a last one.
        give_up_after: so many failures without one reply, new or kept, end the run.

    Returns:
        question by question, repeats in order: what was asked, the reply or None, the reason why there is none.

    Raises:
        EndpointStoppedError: going on makes no sense; what was answered is kept.
    """
    with store.session(), ThreadPoolExecutor(endpoint.settings.concurrency) as pool:
        endpoint.resume()
        asked = [one for many in pool.map(partial(_describe, endpoint.settings, repeats), questions) for one in many]
        wanted = {one.key: one for one in asked if one.problem is None}
        missing = [one for key, one in wanted.items() if store.get(key) is None]
        progress = RequestProgress(len(wanted), len(wanted) - len(missing), prices, every_s, report)
        reasons = {}
        futures = {pool.submit(_ask_one, endpoint, store, one): one.key for one in missing}
        try:
            for future in as_completed(futures):
                reply, reasons[futures[future]] = future.result()
                progress.add_reply(reply)
                if progress.bad == progress.done >= give_up_after and not progress.found:
                    reason = reasons[futures[future]]
                    raise EndpointStoppedError(f"the first {progress.bad} requests all failed; last: {reason}")
        except BaseException as error:
            endpoint.stop(str(error))
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            report(progress.line())
        return [(one, store.get(one.key), one.problem or reasons.get(one.key)) for one in asked]


def kept_replies(
    questions: Sequence[Question],
    settings: EndpointSettings | LocalSettings,
    store: ReplyStore,
    repeats: int,
    reason: str,
) -> list[tuple[Asked, Reply | None, str | None]]:
    """Return what `ask_all` would, from the store alone: a judge that cannot be asked any more, for `reason`."""
    with store.session():
        asked = [one for question in questions for one in _describe(settings, repeats, question)]
        return [(one, store.get(one.key), one.problem or reason) for one in asked]


def _describe(settings: EndpointSettings | LocalSettings, repeats: int, question: Question) -> list[Asked]:
    try:
        messages, problem = question.described(settings.max_side), None
    except ImageError as error:
        messages, problem = [], str(error)
    found = []
    for repeat in range(repeats):
        record = {"model": settings.model, "base_url": settings.base_url, "repeat": repeat,
                  "sampling": settings.sampling_of(repeat), "messages": messages}  # fmt: skip
        key = "" if problem else reply_key(settings.model, messages, record["sampling"], repeat)
        found.append(Asked(question, repeat, key, record, problem))
    return found


def _ask_one(endpoint: Endpoint, store: ReplyStore, asked: Asked) -> tuple[Reply | None, str | None]:
    try:
        reply = endpoint.ask(asked.question, asked.repeat)
    except ImageError as error:  # it was there when the keys were made
        return None, str(error)
    except EndpointError as error:
        if error.attempts:
            store.add_failure(asked.key, asked.record, str(error), error.attempts)
        if isinstance(error, EndpointStoppedError):
            endpoint.stop(str(error))  # here, before this thread or another takes the next question
            raise
        return None, str(error)
    store.add(asked.key, asked.record, reply)
    return reply, None


def judge_items(
    items: Sequence[JudgedItem], criteria: Criteria, endpoint: Endpoint, store: ReplyStore, repeats: int = 1, **options
) -> pd.DataFrame:
    """Judge every item `repeats` times; `options` go to `ask_all`.

    Returns:
        a row for each item, repeat and metric: system, subset, id, direction, chain, length, reverse_from, repeat,
        metric, value (0 to 10; NaN where there is none), outcome (answered, unparsable, failed), reason, judge (model),
        prompt (`Criteria.version`), key (of the reply in the store).

    Raises:
        ValueError: an empty instruction, an unknown direction, an item given twice; nothing is asked then.
        EndpointStoppedError: as `ask_all`.
    """
    answers = ask_all(_questions(items, criteria), endpoint, store, repeats, **options)
    return _table(items, criteria, answers, repeats).assign(judge=endpoint.settings.model)


def judge_from_store(
    items: Sequence[JudgedItem],
    criteria: Criteria,
    settings: EndpointSettings | LocalSettings,
    store: ReplyStore,
    repeats: int,
    reason: str,
) -> pd.DataFrame:
    """Return what `judge_items` returns, from replies kept before; all else has failed, for `reason`."""
    answers = kept_replies(_questions(items, criteria), settings, store, repeats, reason)
    return _table(items, criteria, answers, repeats).assign(judge=settings.model)


def _questions(items: Sequence[JudgedItem], criteria: Criteria) -> list[Question]:
    questions = [_question(item, criteria) for item in items]
    if len({item.name for item in items}) < len(items):
        raise ValueError("an item is given twice; system, subset, id and direction together must differ")
    return questions


def _table(items: Sequence[JudgedItem], criteria: Criteria, answers: Sequence[tuple], repeats: int) -> pd.DataFrame:
    owners = [item for item in items for _ in range(repeats)]
    rows = [_rows(item, criteria, *answer) for item, answer in zip(owners, answers, strict=True)]
    return pd.DataFrame([row for many in rows for row in many])


def _question(item: JudgedItem, criteria: Criteria) -> Question:
    if not item.instruction.strip():
        raise ValueError(f"a judge needs the instruction; that of item {item.name} is empty")
    if item.direction not in criteria.prompts:
        raise ValueError(f"the direction of item {item.name} is none of {', '.join(criteria.prompts)}")
    prompt = criteria.prompts[item.direction].format(instruction=item.instruction)
    return Question((item.source, item.prediction), prompt)


def _rows(item: JudgedItem, criteria: Criteria, asked: Asked, reply: Reply | None, reason: str | None) -> list[dict]:
    scores, outcome = None, "failed"
    if reply is not None:
        scores, reason = read_scores(reply, criteria)
        outcome = "unparsable" if scores is None else "answered"
    row = {"system": item.system, "subset": item.subset, "id": item.id, "direction": item.direction}
    row |= {"chain": item.chain, "length": item.length, "reverse_from": item.reverse_from, "repeat": asked.repeat}
    rest = {"outcome": outcome, "reason": reason or "", "prompt": criteria.version, "key": asked.key}
    values = dict.fromkeys(criteria.metrics, math.nan) | (scores or {})
    return [{**row, "metric": metric, "value": value, **rest} for metric, value in values.items()]


def read_scores(reply: Reply, criteria: Criteria) -> Scored:
    """Read a reply's scores without its thinking; where it was cut short, without a last number that may be cut."""
    words = reply.text.rpartition("</think>")[2].partition("<think>")[0]
    cut = reply.finish_reason == "length"
    scores, reason = criteria.read(re.sub(r"[\d.]+$", "", words) if cut else words)
    if scores is None and reply.finish_reason != "stop":
        reason = f"{reason} (finish_reason {reply.finish_reason}{'; raise max_tokens' if cut else ''})"
    return scores, reason


def summarise(table: pd.DataFrame, by: Sequence[str] = ("system", "direction")) -> pd.DataFrame:
    """Summarise `judge_items` by system and direction (add `subset` for Bootstrapping's tables).

    Returns:
        a row for each group and metric: n_items; n_asked (items times repeats) = n_answered + n_unparsable + n_failed;
        mean over items of each item's mean over repeats; sd_items, its standard deviation; sd_repeats, the standard
        deviation of the repeats' own means (NaN for one repeat); judge, prompt. Only answered ones have scores.
    """
    groups = table.groupby([*by, "metric", "judge", "prompt"], sort=False)
    return pd.DataFrame([dict(zip(groups.keys, name, strict=True)) | _summary(group) for name, group in groups])


def _summary(group: pd.DataFrame) -> dict[str, float]:
    counts = {f"n_{outcome}": int((group["outcome"] == outcome).sum()) for outcome in OUTCOMES}
    per_item = group.groupby(["system", "subset", "id", "direction"])["value"].mean()
    per_repeat = group.groupby("repeat")["value"].mean()
    means = {"mean": per_item.mean(), "sd_items": per_item.std(), "sd_repeats": per_repeat.std()}
    return {"n_items": len(per_item), "n_repeats": len(per_repeat), "n_asked": len(group), **counts, **means}
