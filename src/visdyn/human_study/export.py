"""Answers as CSV, one row an answer, without tokens and without the names that annotators are greeted by."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from visdyn.human_study.plan import plan
from visdyn.human_study.study import Study
from visdyn.human_study.study_store import Store
from visdyn.paths import write_atomically

COLUMNS = ("kind", "annotator", "assigned", "position", "subset", "item", "criterion", "shown", "best", "worst",
           "revision", "answered_at")  # fmt: skip


def rows(study: Study, store: Store) -> list[dict[str, object]]:
    """Return all answers, sorted by annotator, position and criterion.

    `kind` is the study's: of two systems, best/worst and pairwise answers look alike. `assigned` is the number of the
    annotator's pages (fewer rows: not finished), `position` the page (from 1), `shown` the systems in the order shown,
    joined by `|`; `best` and `worst` are empty for no preference, and of a pair `worst` is the other one.

    Raises:
        KeyError: an answer to a page that the annotator does not have; the store refuses such files before.
    """
    tasks = {annotator.number: plan(study, annotator.number, store.draw) for annotator in store.annotators()}
    places = {number: {task.key: place for place, task in enumerate(pages)} for number, pages in tasks.items()}
    found = []
    for answer in store.answers():
        pages, place = tasks[answer.annotator], places[answer.annotator][answer.task]
        item = pages[place].item
        values = (study.settings.kind, answer.annotator, len(pages), place + 1, item.subset, item.id,
                  answer.criterion, "|".join(answer.shown), answer.choice.best, answer.choice.worst,
                  answer.revision, answer.answered_at)  # fmt: skip
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return sorted(found, key=lambda row: (row["annotator"], row["position"], row["criterion"]))


def export(study: Study, store: Store, path: str | Path) -> int:
    """Write the answers to a CSV file, in whole or not at all; returns their number."""
    path, answers = Path(path), rows(study, store)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(answers)
    write_atomically(path, text.getvalue().encode())
    return len(answers)
