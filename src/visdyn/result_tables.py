"""Result tables (`reports/results/<stage>/<name>.csv`): the columns of each file and the type of each column.

A column is declared here once, in the file's order. Stages check what they write against it (`check_columns`) and
tables, figures and the report read by it (`read_columns`); `docs/architecture.md` explains the columns, and a test
compares the two.

`KEYS` names the columns that tell rows apart. A reader refuses a file whose rows are doubled, cut or torn: its numbers
would be means over other rows than its stage wrote.

Types: `str` is text ("" where empty); `float` is a number, NaN where the cell is empty; `int` is a count and `bool`
a 0 or 1, both read as int64, or as float64 with NaN where a cell is empty. An unknown number is an empty cell,
never a 0.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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


# Table -> the last of the leading columns that tell its rows apart. A quarantine may name an item twice.
KEYS: dict[str, str] = {
    "world/counts.csv": "part",
    "base_measures/encoders.csv": "measure",
    "base_measures/tokenizer.csv": "measure",
    "base_models/training.csv": "step",
    "probing/likelihoods.csv": "kind",
    "probing/missing.csv": "model",
    "mining/keyframes.csv": "mode",
    "mining/segments.csv": "noun",
    "mining/test_split.csv": "verb",
    "mining/prompts.csv": "num_words",
    "idm_evaluation/likelihoods.csv": "kind",
    "idm_evaluation/predictions.csv": "id",
    "idm_evaluation/text_metrics.csv": "metric",
    "idm/data.csv": "subset",
    "annotation/pairs.csv": "pair",
    "annotation/summary.csv": "dataset",
    "fdm/data.csv": "subset",
    "fdm/arms.csv": "chain",
    "fdm/training.csv": "step",
    "doundo/training.csv": "step",
    "verification/candidates.csv": "candidate",
    "evaluation/fdm_scores.csv": "metric",
    "evaluation/candidate_scores.csv": "metric",
    "evaluation/candidate_judge_scores.csv": "criterion",
    **{f"{stage}/{file}.csv": key for stage in ("evaluation", "evaluation_doundo") for file, key in
       (("judge_scores", "criterion"), ("judge_runs", "system"), ("systems", "system"), ("measures", "metric"),
        ("leaderboard", "system"))},
    "evaluation_doundo/doundo_scores.csv": "metric",
    "spatial/answers.csv": "id",
    "spatial/missing.csv": "model",
    "spatial/accuracy.csv": "mode",
    "human_study/participation.csv": "criterion",
    "human_study/table5.csv": "system",
    "human_study/table7.csv": "system",
    "human_study/comparisons.csv": "second",
    "recorded/cells.csv": "column",
    "recorded/replies.csv": "subset",
    "recorded/averages.csv": "criterion",
    "recorded/identity.csv": "column",
    "recorded/paired.csv": "subset",
    "recorded/gains.csv": "reference",
    "recorded/passes.csv": "subset",
    "recorded/histograms.csv": "score",
    "recorded/repository.csv": "subset",
    "recorded/pictures.csv": "index",
    "robust/runs.csv": "chain",
    "robust/leaderboard.csv": "system",
    "robust/labels.csv": "chain",
    "robust/fdm_scores.csv": "metric",
    "robust/doundo_scores.csv": "metric",
    "external/crop_cost.csv": "subset",
    "external/aurora_copy.csv": "geometry",
    "external/segments.csv": "noun",
    "external/test_split.csv": "verb",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Which rows belong together in a table that is written whole.

    Attributes:
        given: within each value of these columns,
        whole: every value of these columns has a row
        has: for every value of these.
    """

    whole: tuple[str, ...]
    has: tuple[str, ...]
    given: tuple[str, ...] = ()


_SCORE_GRID = Grid(("system", "chain", "subset", "id"), ("metric",))
_DOUNDO_GRID = Grid(("system", "chain", "prompt", "id"), ("metric",), ("direction", "reverse_from"))
_KIND_GRID = Grid(("model", "chain", "subset", "id"), ("kind",), ("definition", "task"))
# Every item has all of its rows: so its stage makes them, an unknown number being an empty cell.
ITEMS: dict[str, Grid] = {
    "probing/likelihoods.csv": _KIND_GRID,
    "idm_evaluation/likelihoods.csv": _KIND_GRID,
    "verification/candidates.csv": Grid(("arm", "chain", "draw", "subset", "id"), ("candidate",)),
    "evaluation/fdm_scores.csv": _SCORE_GRID,
    "evaluation/candidate_scores.csv": Grid(("arm", "chain", "draw", "subset", "id"), ("candidate", "metric")),
    "evaluation_doundo/doundo_scores.csv": _DOUNDO_GRID,
    "robust/fdm_scores.csv": Grid(("system", "chain", "draw", "subset", "id"), ("metric",)),
    "robust/doundo_scores.csv": _DOUNDO_GRID,
}
# Every model, or every chain of it, has all items. Where some failed it may lack them: only an edited file is held to
# it.
MODELS: dict[str, Grid] = {
    "probing/likelihoods.csv": Grid(("model", "chain"), ("subset", "id", "kind"), ("definition", "task")),
    "mining/keyframes.csv": Grid(("mode",), ("dataset", "class", "video")),
    "idm_evaluation/likelihoods.csv": Grid(("model", "chain"), ("subset", "id", "kind"), ("definition", "task")),
    "idm_evaluation/predictions.csv": Grid(("model", "chain"), ("subset", "id", "reference")),
    "idm_evaluation/text_metrics.csv": Grid(("model", "chain"), ("metric",)),
    "annotation/pairs.csv": Grid(("chain",), ("dataset", "class", "video", "pair")),
    "annotation/summary.csv": Grid(("chain",), ("dataset",)),
    "fdm/training.csv": Grid(("arm", "chain"), ("step",)),
    "doundo/training.csv": Grid(("variant", "chain"), ("step",)),
    "verification/candidates.csv": Grid(("arm", "chain", "draw"), ("subset", "id", "candidate")),
    "evaluation/candidate_scores.csv": Grid(("arm", "chain", "draw"), ("subset", "id", "candidate", "metric")),
    "evaluation/fdm_scores.csv": Grid(("chain",), ("subset", "id", "metric"), ("system",)),
    "evaluation_doundo/doundo_scores.csv": Grid(
        ("chain",), ("direction", "reverse_from", "prompt", "verb", "familiarity", "id", "metric"), ("system",)
    ),
    "spatial/answers.csv": Grid(("model", "chain"), ("benchmark", "mode", "rule", "prompt", "group", "relation", "id")),
}


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


def key_columns(name: str) -> list[str]:
    """Return the columns that tell a table's rows apart; none where a row may stand twice (a quarantine).

    Raises:
        ResultTableError: no such table is declared.
    """
    columns = list(declared_columns(name))
    last = "metric" if name.startswith("choices/") else KEYS.get(name)
    return columns[: columns.index(last) + 1] if last else []


def check_columns(name: str, table: pd.DataFrame) -> None:
    """Check that a table may be written as result `name`: its columns are those declared, in their order and types.

    Args:
        name: `<stage>/<file>.csv`.
        table: as it will be written; an unknown number is NaN, None or "".

    Raises:
        ResultTableError: the table, or one of its columns, is not declared; a declared column is missing; a cell is
            not of its column's type; a row stands twice.
    """
    names = list(map(str, table.columns))
    columns = declared_columns(name, names)
    _compare_names(name, names, list(columns))
    for column, kind in columns.items():
        if kind is not str:
            _to_numbers(name, column, table[column], kind)
    _refuse_doubled(name, table)


def read_columns(name: str, path: str | Path) -> pd.DataFrame:
    """Read result table `name` from a file, each column by its declared type (see the module's head).

    Raises:
        ResultTableError: as for `check_columns`; or the file is empty, is no text, is cut, has a row with more or fewer
            cells than columns, or an item lacks some of its rows (`ITEMS`).
    """
    declared_columns(name)  # an undeclared name is said before the file is looked for
    return _parse(name, Path(path).read_bytes()).copy(deep=False)


def check_whole(name: str, table: pd.DataFrame) -> None:
    """Check that every model of a table has the same items (`MODELS`): for a file that was edited since.

    Raises:
        ResultTableError: one lacks rows that others have.
    """
    _refuse_gaps(name, table, MODELS)


@lru_cache(maxsize=8)  # a report reads the large tables once an item
def _parse(name: str, content: bytes) -> pd.DataFrame:
    cells = _read_cells(name, content)
    columns = declared_columns(name, list(cells.columns))
    _compare_names(name, list(cells.columns), list(columns))
    numbers = {column: _to_numbers(name, column, cells[column], kind)
               for column, kind in columns.items() if kind is not str}  # fmt: skip
    table = cells.assign(**numbers)
    _refuse_doubled(name, table)
    _refuse_gaps(name, table, ITEMS)
    return table


def _read_cells(name: str, content: bytes) -> pd.DataFrame:
    """Return the cells of a CSV file as text; each row has as many as the head, and the last line ends."""
    try:
        text = content.decode("utf-8-sig")
        if not text.strip():
            raise ResultTableError(f"{name} is empty; run its stage again")
        if not text.endswith(("\n", "\r")):
            raise ResultTableError(f"{name} is cut: its last line has no end; run its stage again")
        # A torn row is filled up, or makes its first cell an index, where pandas alone reads.
        counts = _count_cells(text)
        torn = next((number for number, count in enumerate(counts) if count != counts[0]), None)
        if torn is not None:
            raise ResultTableError(f"{name}, row {torn} has {counts[torn]} cells under {counts[0]} columns")
        return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, index_col=False)
    except (UnicodeDecodeError, csv.Error, pd.errors.ParserError) as error:
        raise ResultTableError(f"{name} is no CSV file in UTF-8 ({error}); run its stage again") from None


def _count_cells(text: str) -> list[int]:
    """Return how many cells each row of a CSV text has, its head first."""
    if '"' in text:
        return [len(row) for row in csv.reader(io.StringIO(text, newline=""), strict=True)]
    return [line.count(",") + 1 for line in io.StringIO(text, newline=None)]  # splitlines would end lines at U+2028 too


def _refuse_doubled(name: str, table: pd.DataFrame) -> None:
    keys = key_columns(name)
    if keys and (doubled := table.duplicated(keys)).any():
        row = table.loc[doubled.to_numpy(), keys].iloc[0]
        count = f"; {doubled.sum()} rows stand more than once" if doubled.sum() > 1 else ""
        raise ResultTableError(f"{name} has a row twice: {_describe_row(row)}{count}")


def _refuse_gaps(name: str, table: pd.DataFrame, grids: Mapping[str, Grid]) -> None:
    grid = grids.get(name)
    if grid is None or table.empty:
        return
    parts = table.groupby(list(grid.given), dropna=False) if grid.given else [((), table)]
    for given, part in parts:
        wanted = len(part[list(grid.has)].drop_duplicates())
        counts = part.groupby(list(grid.whole), dropna=False).size()
        if len(short := counts[counts < wanted]):
            values = short.index[0] if len(grid.whole) > 1 else (short.index[0],)
            row = pd.Series([*given, *values], [*grid.given, *grid.whole])
            raise ResultTableError(
                f"{name} is not whole: {_describe_row(row)} has {short.iloc[0]} of {wanted} rows "
                f"(by {', '.join(grid.has)}); rows were cut or renamed since its stage wrote them"
            )


def _describe_row(row: pd.Series) -> str:
    return ", ".join(f"{column} {_clip(value)}" for column, value in row.items() if value == value and value != "")


def _clip(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
