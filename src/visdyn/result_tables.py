"""Result tables (`reports/results/<stage>/<name>.csv`): the columns of each file and the type of each column.

A column is declared here once, in the file's order. Stages check what they write against it (`check_columns`) and
tables, figures and the report read by it (`read_columns`); `docs/architecture.md` explains the columns, and a test
compares the two.

Types: `str` is text ("" where empty); `float` is a number, NaN where the cell is empty; `int` is a count and `bool`
a 0 or 1, both read as int64, or as float64 with NaN where a cell is empty. An unknown number is an empty cell,
never a 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

Columns = Mapping[str, type]


class ResultTableError(ValueError):
    """A result table has other columns than it declares, or a cell of another type; the message names both."""


_LIKELIHOODS: Columns = {
    "model": str, "chain": int, "definition": str, "task": str, "subset": str, "id": str, "kind": str,
    "log_likelihood": float, "num_tokens": int,
}  # fmt: skip
_QUARANTINE: Columns = {"item": str, "reason": str}
_USED: Columns = {"model": str, "chain": int, "subset": str, "available": int, "used": int}
_SEGMENTS: Columns = {"source": str, "verb": str, "noun": str, "count": int, "reversible_share": float}
_JUDGE_SCORES: Columns = {
    "judge": str, "judge_prompt": str, "prompt_version": str, "paper": str, "system": str, "chain": int,
    "subset": str, "id": str, "direction": str, "reverse_from": str, "prompt": str, "repeat": int, "criterion": str,
    "value": float,
}  # fmt: skip
_JUDGE_RUNS: Columns = {
    "judge": str, "judge_prompt": str, "prompt_version": str, "paper": str, "system": str, "asked": int,
    "reused": int, "invalid": int, "refused": int, "failed": int, "cost_usd": float, "note": str,
}  # fmt: skip
_SYSTEMS: Columns = {
    "paper": str, "system": str, "label": str, "origin": str, "model": str, "expected": int, "found": int,
    "missing": int, "note": str,
}  # fmt: skip
_MEASURES: Columns = {
    "paper": str, "metric": str, "measured_with": str, "status": str, "n": int, "empty": int, "note": str,
}  # fmt: skip
_DOUNDO_SCORES: Columns = {
    "system": str, "chain": int, "direction": str, "reverse_from": str, "prompt": str, "verb": str, "familiarity": str,
    "id": str, "metric": str, "value": float,
}  # fmt: skip
_LEADERBOARD: Columns = {
    "paper": str, "metric": str, "system": str, "mean": float, "n": int, "low": float, "high": float,
    "interval_over": str, "num_chains": int, "reference": str, "difference": float, "difference_low": float,
    "difference_high": float, "p": float, "p_sign_flip": float, "num_nonzero": int,
}  # fmt: skip

TABLES: dict[str, Columns] = {
    "world/counts.csv": {"part": str, "count": int},
    "base_measures/encoders.csv": {"encoder": str, "measure": str, "value": float, "n": int},
    "base_measures/tokenizer.csv": {"measure": str, "value": float, "n": int},
    "base_models/training.csv": {"model": str, "chain": int, "step": int, "loss": float},
    "probing/likelihoods.csv": _LIKELIHOODS,
    "probing/missing.csv": {"model": str, "reason": str},
    "mining/keyframes.csv": {
        "dataset": str, "class": str, "video": str, "mode": str,
        "num_frames": int, "num_keyframes": int, "num_pairs": int, "num_clean_pairs": int,
    },
    "mining/segments.csv": _SEGMENTS,
    "mining/test_split.csv": {
        "verb": str, "unseen": bool, "mined": int, "passed": int, "wanted": int, "chosen": int, "source": str,
    },
    "mining/prompts.csv": {
        "source": str, "split": str, "direction": str, "length": str, "num_words": int, "count": int,
    },
    "mining/quarantine.csv": _QUARANTINE,
    "idm_evaluation/likelihoods.csv": _LIKELIHOODS,
    "idm_evaluation/predictions.csv": {
        "model": str, "chain": int, "subset": str, "id": str, "reference": str, "prediction": str,
    },
    "idm_evaluation/text_metrics.csv": {
        "model": str, "chain": int, "metric": str, "value": float, "n": int, "low": float, "high": float,
    },
    "idm/data.csv": _USED,
    "idm/quarantine.csv": _QUARANTINE,
    "annotation/pairs.csv": {
        "chain": int, "dataset": str, "class": str, "video": str, "pair": str, "action": str, "log_likelihood": float,
        "selected": bool, "true_action": str, "correct": bool,
    },
    "annotation/summary.csv": {
        "chain": int, "dataset": str, "videos": int, "mean_seconds": float, "total_hours": float,
        "observations_per_video": float, "actions_per_video": float, "words_per_action": float, "pairs": int,
        "selected": int,
    },
    "annotation/quarantine.csv": _QUARANTINE,
    "fdm/data.csv": _USED,
    "fdm/arms.csv": {
        "arm": str, "chain": int, "num_supervised": int, "num_synthetic": int, "weighting": str, "floor": float,
        "steps": int,
    },
    "fdm/training.csv": {"arm": str, "chain": int, "step": int, "loss": float},
    "fdm/quarantine.csv": _QUARANTINE,
    "doundo/training.csv": {"variant": str, "chain": int, "step": int, "loss": float, "consistency": float},
    "verification/candidates.csv": {
        "arm": str, "chain": int, "draw": int, "subset": str, "id": str, "candidate": int,
        "idm_log_likelihood": float, "fdm_log_likelihood": float, "zero_shot_log_likelihood": float,
        "idm_same_labels_log_likelihood": float,
    },
    "evaluation/fdm_scores.csv": {
        "system": str, "chain": int, "subset": str, "id": str, "metric": str, "value": float,
    },
    "evaluation/candidate_scores.csv": {
        "arm": str, "chain": int, "draw": int, "subset": str, "id": str, "candidate": int, "metric": str,
        "value": float,
    },
    "evaluation/candidate_judge_scores.csv": {
        "arm": str, "draw": int, "candidate": int,
        **{column: kind for column, kind in _JUDGE_SCORES.items() if column != "system"},
    },
    "evaluation/judge_scores.csv": _JUDGE_SCORES,
    "evaluation/judge_runs.csv": _JUDGE_RUNS,
    "evaluation/systems.csv": _SYSTEMS,
    "evaluation/measures.csv": _MEASURES,
    "evaluation/leaderboard.csv": _LEADERBOARD,
    "evaluation/quarantine.csv": _QUARANTINE,
    "evaluation_doundo/doundo_scores.csv": _DOUNDO_SCORES,
    "evaluation_doundo/judge_scores.csv": _JUDGE_SCORES,
    "evaluation_doundo/judge_runs.csv": _JUDGE_RUNS,
    "evaluation_doundo/systems.csv": _SYSTEMS,
    "evaluation_doundo/measures.csv": _MEASURES,
    "evaluation_doundo/leaderboard.csv": _LEADERBOARD,
    "evaluation_doundo/quarantine.csv": _QUARANTINE,
    "spatial/answers.csv": {
        "model": str, "chain": int, "benchmark": str, "mode": str, "rule": str, "prompt": str, "group": str,
        "relation": str, "id": str, "answer": str, "output": str, "choice": str, "correct": bool, "invalid": bool,
        "ambiguous": bool, "chance": float, "reason": str,
    },
    "spatial/missing.csv": {"model": str, "reason": str},
    "spatial/accuracy.csv": {
        "model": str, "chain": int, "benchmark": str, "mode": str, "n": int, "accuracy": float,
        "strict_accuracy": float, "chance": float, "invalid_rate": float, "low": float, "high": float,
        "p_chance": float, "constant_accuracy": float,
    },
    "human_study/participation.csv": {
        "study": str, "kind": str, "criterion": str, "annotators": int, "finished": int, "items": int,
        "answers": int,
    },
    "human_study/table5.csv": {
        "study": str, "criterion": str, "subset": str, "system": str, "score": float, "low": float, "high": float,
        "interval_over": str, "n": int, "annotators": int, "p_wilcoxon": float, "p_pratt": float,
        "p_sign_flip": float, "nonzero": int, "significant": bool,
    },
    "human_study/table7.csv": {
        "study": str, "criterion": str, "system": str, "preference": float, "low": float, "high": float,
        "interval_over": str, "n": int, "annotators": int, "ties": float, "ties_halved": float,
    },
    "human_study/comparisons.csv": {
        "study": str, "criterion": str, "first": str, "second": str, "n": int, "annotators": int, "wins": int,
        "ties": int, "losses": int, "p_wilcoxon": float, "p_sign_flip": float,
    },
    "recorded/cells.csv": {
        "table": str, "panel": str, "row": str, "column": str, "system": str, "subset": str, "metric": str,
        "average": str, "published": float, "value": float, "n": int, "dropped": int, "tolerance": float,
        "status": str, "note": str,
    },
    "recorded/replies.csv": {
        "system": str, "subset": str, "items": int, "samples": int, "n": int, "dropped": int, "dropped_items": str,
        "score": float, "editing_success": float, "minimal_editing": float,
    },
    "recorded/averages.csv": {
        "system": str, "criterion": str, "subsets": float, "pooled": float, "pooled_dropped_as_0": float,
        "recorded": float, "n": int,
    },
    "recorded/identity.csv": {"system": str, "column": str, "cells": int, "equal": int},
    "recorded/paired.csv": {
        "system": str, "reference": str, "metric": str, "subset": str, "n": int, "clusters": int, "difference": float,
        "low": float, "high": float, "wins": int, "ties": int, "losses": int, "p_sign_flip": float,
        "p_wilcoxon": float,
    },
    "recorded/gains.csv": {
        "system": str, "reference": str, "n": int, "n_reference": int, "score": float, "reference_score": float,
        "percent": float, "low": float, "high": float,
    },
    "recorded/passes.csv": {
        "system": str, "subset": str, "n": int, "image_cells": int, "image_equal": int, "printed": float,
        "recorded": float, "difference": float,
    },
    "recorded/histograms.csv": {"system": str, "subset": str, "criterion": str, "score": int, "count": int},
    "recorded/repository.csv": {
        "system": str, "subset": str, "replies": int, "unread": int, "recorded": int, "different": int,
        "aggregates": int, "aggregates_different": int,
    },
    "recorded/pictures.csv": {
        "system": str, "subset": str, "index": int, "l1": float, "mean_l1": float, "recorded_l1": float,
        "counts": bool, "reason": str,
    },
    "robust/runs.csv": {
        "system": str, "run": str, "chain": int, "num_supervised": int, "num_synthetic": int, "weighting": str,
        "floor": float, "steps": int, "mode": str,
    },
    "robust/leaderboard.csv": _LEADERBOARD,
    "robust/labels.csv": {"system": str, "chain": int, "pairs": int, "selected": int, "correct": float},
    "robust/fdm_scores.csv": {
        "system": str, "chain": int, "draw": int, "subset": str, "id": str, "metric": str, "value": float,
    },
    "robust/doundo_scores.csv": _DOUNDO_SCORES,
    "external/crop_cost.csv": {"subset": str, "n": int, "copy": float, "crop": float, "crop_both": float},
    "external/aurora_copy.csv": {"subset": str, "geometry": str, "n": int, "l1": float, "published": float},
    "external/segments.csv": _SEGMENTS,
    "external/test_split.csv": {
        "source": str, "split": str, "verb": str, "unseen": bool, "available": int, "wanted": int, "chosen": int,
    },
}  # fmt: skip


# Every `choices/<name>.csv`: what was tried on the dev items.
CHOICE: Columns = {
    "choice": str, "parameter": str, "value": str, "chain": int, "metric": str, "score": float, "n": int, "steps": int,
    "processor": str, "chosen": bool,
}  # fmt: skip

# Columns that follow the declared ones where the data are real: all of them, or none.
OF_REAL_DATA: dict[str, Columns] = {"world/counts.csv": {"found": str, "sha256": str}}


def declared_columns(name: str, found: Sequence[str] = ()) -> Columns:
    """Return the columns of a result table and their types, in the file's order.

    Args:
        name: `<stage>/<file>.csv`.
        found: the columns of a table at hand; one of `OF_REAL_DATA` among them asks for those too.

    Raises:
        ResultTableError: no such table is declared.
    """
    if name.startswith("choices/"):
        return CHOICE
    if name not in TABLES:
        raise ResultTableError(f"{name} is no declared result table; declare its columns in {Path(__file__).name}")
    further = OF_REAL_DATA.get(name, {})
    return {**TABLES[name], **further} if set(found) & set(further) else TABLES[name]


def check_columns(name: str, table: pd.DataFrame) -> None:
    """Check that a table may be written as result `name`: its columns are those declared, in their order and types.

    Args:
        name: `<stage>/<file>.csv`.
        table: as it will be written; an unknown number is NaN, None or "".

    Raises:
        ResultTableError: the table, or one of its columns, is not declared; a declared column is missing; a cell is
            not of its column's type.
    """
    names = list(map(str, table.columns))
    columns = declared_columns(name, names)
    _compare_names(name, names, list(columns))
    for column, kind in columns.items():
        if kind is not str:
            _to_numbers(name, column, table[column], kind)


def read_columns(name: str, path: str | Path) -> pd.DataFrame:
    """Read result table `name` from a file, each column by its declared type (see the module's head).

    Raises:
        ResultTableError: as for `check_columns`, or an empty file.
    """
    declared_columns(name)  # an undeclared name is said before the file is looked for
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise ResultTableError(f"{name} is empty; run its stage again") from None
    columns = declared_columns(name, list(table.columns))
    _compare_names(name, list(table.columns), list(columns))
    numbers = {column: _to_numbers(name, column, table[column], kind)
               for column, kind in columns.items() if kind is not str}  # fmt: skip
    return table.assign(**numbers)


def _compare_names(name: str, found: Sequence[str], declared: Sequence[str]) -> None:
    where = f"declared in {Path(__file__).name}"
    if missing := [column for column in declared if column not in found]:
        raise ResultTableError(f"{name} lacks the columns {', '.join(missing)}, {where}")
    if undeclared := [column for column in found if column not in declared]:
        raise ResultTableError(f"{name} has the columns {', '.join(undeclared)}, not {where}")
    if list(found) != list(declared):
        raise ResultTableError(f"{name} has its columns in the order {', '.join(found)}, not as {where}")


def _to_numbers(name: str, column: str, cells: pd.Series, kind: type) -> pd.Series:
    """Return cells as float64, or as int64 where `kind` is int or bool and none is empty; empty cells are NaN."""
    unknown = cells.isna() | cells.isin([""])
    numbers = pd.to_numeric(cells.mask(unknown), errors="coerce")
    fitting = numbers.notna()
    if kind is int:
        fitting &= numbers == numbers.round()
    elif kind is bool:  # True and False would be written as words
        fitting &= numbers.isin([0, 1]) & ~cells.map(lambda cell: isinstance(cell, bool | np.bool_))
    if not (fitting | unknown).all():
        wanted = {float: "a number", int: "a whole number", bool: "0 or 1"}[kind]
        raise ResultTableError(
            f"{name}, column {column}: {cells[~(fitting | unknown)].tolist()[0]!r} where {wanted} belongs"
        )
    return numbers.astype("int64" if kind is not float and not unknown.any() else float)
