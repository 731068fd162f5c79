"""The form of one page: values for the template, and the parsing of a submission."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from visdyn.human_study.pictures import Pictures
from visdyn.human_study.plan import Task
from visdyn.human_study.study import Study
from visdyn.human_study.study_criteria import BEST_WORST, OVERALL, PAIRWISE
from visdyn.human_study.study_store import Answer, Choice

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NONE = "none"
_KEYS = "1234567890"
_CAPTIONS = {BEST_WORST: ("",), PAIRWISE: ("after the action", "after undoing it")}


def candidates(task: Task, study: Study, pictures: Pictures) -> list[dict]:
    """Return the anonymous candidates in the order shown: letter, and images with address, caption and text."""
    shown = []
    for letter, system in zip(LETTERS, task.shown, strict=False):
        images = [
            {"id": name, "caption": caption, "alt": f"Image {letter} {caption}".strip()}
            for name, caption in zip(pictures.outputs(task.item, system), _CAPTIONS[study.settings.kind], strict=True)
        ]
        shown.append({"letter": letter, "images": images})
    return shown


def questions(study: Study, task: Task, stored: Mapping[str, Answer], given: Mapping[str, str]) -> list[dict]:
    """Return the groups of radio buttons.

    Args:
        study, task: what is asked, about what.
        stored: the answers so far, by criterion.
        given: a refused submission's fields, shown again; empty for a fresh page.

    Returns:
        One entry a criterion: key, title, the revision it was `seen` at, and `groups` of options with field, value,
        text, whether checked, and an access key while digits last.
    """
    titles = {item.key: item.title for item in study.settings.criteria} | {OVERALL: ""}
    keys = iter(_KEYS)
    entries = []
    for key in study.questions:
        answer = stored.get(key)
        groups = [_make_group(role, text, key, task, study, answer, given, keys) for role, text in _list_roles(study)]
        entries.append({"key": key, "title": titles[key], "seen": answer.revision if answer else 0, "groups": groups})
    return entries


def choices(study: Study, task: Task, given: Mapping[str, str]) -> dict[str, tuple[Choice, int]]:
    """Read a submission: criterion -> (choice, revision seen).

    Raises:
        ValueError: a question is open, best and worst are the same image, or a value is none the page offers; the
            message is for the annotator.
    """
    found = {}
    for key in study.questions:
        seen = given.get(f"seen.{key}", "0")
        if not (seen.isascii() and seen.isdigit() and len(seen) < 7):
            raise ValueError("The form is not the one this page shows. Please answer again.")
        picked = [_read_pick(task, study, given.get(f"{role}.{key}")) for role, _ in _list_roles(study)]
        found[key] = (_make_choice(task, picked), int(seen))
    return found


def _list_roles(study: Study) -> list[tuple[str, str]]:
    if study.settings.kind == PAIRWISE:
        return [("prefer", "Which do you prefer?")]
    return [("best", "Which image is the best?"), ("worst", "Which image is the worst?")]


def _make_group(
    role: str,
    text: str,
    key: str,
    task: Task,
    study: Study,
    answer: Answer | None,
    given: Mapping[str, str],
    keys: Iterator[str],
) -> dict:
    """Return one group of radio buttons; `keys` are the access keys that are left."""
    field, stored = f"{role}.{key}", _stored_value(role, task, answer)
    values = [(str(slot), LETTERS[slot]) for slot in range(len(task.shown))]
    if study.settings.kind == PAIRWISE:
        values.append((NONE, "No preference"))
    # A refused submission is shown as it was sent; else the stored answer, if there is one.
    checked = given.get(field, stored if not given else None)
    options = [
        {"value": value, "text": label, "checked": value == checked, "id": f"{field}.{value}", "key": next(keys, "")}
        for value, label in values
    ]
    return {"field": field, "text": text, "options": options}


def _stored_value(role: str, task: Task, answer: Answer | None) -> str | None:
    if answer is None:
        return None
    system = answer.choice.worst if role == "worst" else answer.choice.best
    return str(task.shown.index(system)) if system else NONE


def _read_pick(task: Task, study: Study, value: str | None) -> str:
    """Return the system picked, or "" for no preference."""
    offered = {str(slot): system for slot, system in enumerate(task.shown)}
    if study.settings.kind == PAIRWISE:
        offered[NONE] = ""
    if value not in offered:
        raise ValueError("Please answer every question on this page.")
    return offered[value]


def _make_choice(task: Task, picked: list[str]) -> Choice:
    if len(picked) == 2:
        if picked[0] == picked[1]:
            raise ValueError("The best and the worst image cannot be the same one. Please choose two.")
        return Choice(*picked)
    other = next((system for system in task.shown if system != picked[0]), "") if picked[0] else ""
    return Choice(picked[0], other)
