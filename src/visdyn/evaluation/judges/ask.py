"""Judges behind an endpoint, for both papers' criteria: repeats with their spread, and every outcome counted.

A judge sees the image before and the image after the action, never the target. Do-Undo does not say which images are
shown; Bootstrapping's prompt does. What is asked is a prompt file (`visdyn.evaluation.judges.judge_prompts`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial

import pandas as pd

from visdyn.endpoint.client import Endpoint, EndpointError, EndpointSettings, EndpointStoppedError
from visdyn.endpoint.local_server import LocalSettings
from visdyn.endpoint.plugin_judge import PluginSettings
from visdyn.endpoint.replies import Question, Reply, ReplyStore, reply_key
from visdyn.endpoint.request_progress import Prices, RequestProgress
from visdyn.evaluation.judges.judge_criteria import Criteria, Scored
from visdyn.evaluation.judges.judge_prompts import Prompt
from visdyn.images import ImageError, ImageRef

DIRECTIONS = ("forward", "reverse")
# refused: the server or the model gave no words to read, and said so; unparsable: words without readable scores;
# failed: no reply at all. Only what has failed is asked again.
OUTCOMES = ("answered", "unparsable", "refused", "failed")


Settings = EndpointSettings | LocalSettings | PluginSettings


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
    that were under way are sent again. Failed requests are sent again too; refusals, and replies that make no sense,
    are not.

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
    settings: Settings,
    store: ReplyStore,
    repeats: int,
    reason: str,
) -> list[tuple[Asked, Reply | None, str | None]]:
    """Return what `ask_all` would, from the store alone: a judge that cannot be asked any more, for `reason`."""
    with store.session():
        asked = [one for question in questions for one in _describe(settings, repeats, question)]
        return [(one, store.get(one.key), one.problem or reason) for one in asked]


def _describe(settings: Settings, repeats: int, question: Question) -> list[Asked]:
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
    items: Sequence[JudgedItem], prompt: Prompt, endpoint: Endpoint, store: ReplyStore, repeats: int = 1, **options
) -> pd.DataFrame:
    """Judge every item `repeats` times; `options` go to `ask_all`.

    Returns:
        a row for each item, repeat and metric: system, subset, id, direction, chain, length, reverse_from, repeat,
        metric, value (0 to 10; NaN where there is none), outcome (`OUTCOMES`), reason, judge (model), judge_prompt and
        prompt_version (the prompt's name and full version), left_out (parameters that the server refuses), key (of the
        reply in the store).

    Raises:
        ValueError: an empty instruction, an unknown direction, an item given twice; nothing is asked then.
        EndpointStoppedError: as `ask_all`.
    """
    answers = ask_all(_questions(items, prompt), endpoint, store, repeats, **options)
    return _table(items, prompt, answers, repeats).assign(judge=endpoint.settings.model)


def judge_from_store(
    items: Sequence[JudgedItem],
    prompt: Prompt,
    settings: Settings,
    store: ReplyStore,
    repeats: int,
    reason: str,
) -> pd.DataFrame:
    """Return what `judge_items` returns, from replies kept before; all else has failed, for `reason`."""
    answers = kept_replies(_questions(items, prompt), settings, store, repeats, reason)
    return _table(items, prompt, answers, repeats).assign(judge=settings.model)


def _questions(items: Sequence[JudgedItem], prompt: Prompt) -> list[Question]:
    questions = [_question(item, prompt) for item in items]
    if len({item.name for item in items}) < len(items):
        raise ValueError("an item is given twice; system, subset, id and direction together must differ")
    return questions


def _table(items: Sequence[JudgedItem], prompt: Prompt, answers: Sequence[tuple], repeats: int) -> pd.DataFrame:
    owners = [item for item in items for _ in range(repeats)]
    rows = [_rows(item, prompt, *answer) for item, answer in zip(owners, answers, strict=True)]
    return pd.DataFrame([row for many in rows for row in many])


def _question(item: JudgedItem, prompt: Prompt) -> Question:
    if not item.instruction.strip():
        raise ValueError(f"a judge needs the instruction; that of item {item.name} is empty")
    if item.direction not in DIRECTIONS:
        raise ValueError(f"the direction of item {item.name} is none of {', '.join(DIRECTIONS)}")
    words = prompt.fill(item.instruction, item.direction)
    return Question((item.source, item.prediction), words, prompt.text_first)


def _rows(item: JudgedItem, prompt: Prompt, asked: Asked, reply: Reply | None, reason: str | None) -> list[dict]:
    scores, outcome = None, "failed"
    if reply is not None:
        scores, reason = read_scores(reply, prompt.criteria)
        outcome = "answered" if scores is not None else "refused" if reply.refusal else "unparsable"
    row = {"system": item.system, "subset": item.subset, "id": item.id, "direction": item.direction}
    row |= {"chain": item.chain, "length": item.length, "reverse_from": item.reverse_from, "repeat": asked.repeat}
    rest = {"outcome": outcome, "reason": reason or "", "judge_prompt": prompt.name,
            "prompt_version": prompt.full_version, "left_out": ", ".join(reply.left_out) if reply else "",
            "key": asked.key}  # fmt: skip
    values = dict.fromkeys(prompt.criteria.metrics, math.nan) | (scores or {})
    return [{**row, "metric": metric, "value": value, **rest} for metric, value in values.items()]


def read_scores(reply: Reply, criteria: Criteria) -> Scored:
    """Read a reply's scores without its thinking; where it was cut short, without a last number that may be cut."""
    words = reply.text.rpartition("</think>")[2].partition("<think>")[0]
    cut = reply.finish_reason == "length"
    scores, reason = criteria.read(re.sub(r"[\d.]+$", "", words) if cut else words)
    if scores is None and reply.refusal:
        return None, reply.refusal
    if scores is None and reply.finish_reason != "stop":
        reason = f"{reason} (finish_reason {reply.finish_reason}{'; allow more tokens in sampling' if cut else ''})"
    return scores, reason


def summarise(table: pd.DataFrame, by: Sequence[str] = ("system", "direction")) -> pd.DataFrame:
    """Summarise `judge_items` by system and direction (add `subset` for Bootstrapping's tables).

    Returns:
        a row for each group and metric: n_items; n_asked (items times repeats), the sum of n_answered, n_unparsable,
        n_refused and n_failed; mean over items of each item's mean over repeats; sd_items, its standard deviation;
        sd_repeats, the standard deviation of the repeats' own means (NaN for one repeat); judge, judge_prompt,
        prompt_version. Only answered ones have scores.
    """
    groups = table.groupby([*by, "metric", "judge", "judge_prompt", "prompt_version"], sort=False)
    return pd.DataFrame([dict(zip(groups.keys, name, strict=True)) | _summary(group) for name, group in groups])


def _summary(group: pd.DataFrame) -> dict[str, float]:
    counts = {f"n_{outcome}": int((group["outcome"] == outcome).sum()) for outcome in OUTCOMES}
    per_item = group.groupby(["system", "subset", "id", "direction"])["value"].mean()
    per_repeat = group.groupby("repeat")["value"].mean()
    means = {"mean": per_item.mean(), "sd_items": per_item.std(), "sd_repeats": per_repeat.std()}
    return {"n_items": len(per_item), "n_repeats": len(per_repeat), "n_asked": len(group), **counts, **means}
