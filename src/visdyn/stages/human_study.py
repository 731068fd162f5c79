"""Stage `human_study`: from exported answers to the tables of both papers; without an export, headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from visdyn.human_study import analysis
from visdyn.human_study.study_criteria import BEST_WORST
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.stage import Stage

_CELL = ["low", "high", "interval_over", "n", "annotators"]
COLUMNS = {
    "participation": ["study", "kind", "criterion", "annotators", "finished", "items", "answers"],
    "table5": ["study", "criterion", "subset", "system", "score", *_CELL, "p_wilcoxon", "p_pratt", "p_sign_flip",
               "nonzero", "significant"],
    "table7": ["study", "criterion", "system", "preference", *_CELL, "ties", "ties_halved"],
    "comparisons": ["study", "criterion", "first", "second", "n", "annotators", "wins", "ties", "losses", "p_wilcoxon",
                    "p_sign_flip"],
}  # fmt: skip


def located(stage: Stage) -> list[Path]:
    """Return the exports that the parameters name: absolute, or relative to the profile; `~` and `$NAME` expanded.

    Raises:
        StageError: one is not there.
    """
    paths = [stage.located(name, "human_study.exports") for name in stage.params.exports]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise StageError(
            f"human_study.exports names {missing[0]}, which is no file; write it with "
            "`visdyn study serve FOLDER --export CSV`, or take it off the list"
        )
    return paths


def tables(exports: Sequence[str | Path], reference: str, seed: int) -> dict[str, pd.DataFrame]:
    """Analyse exported answers.

    Args:
        exports: CSVs that `visdyn study serve --export` wrote; a study is named by its file's stem.
        reference: the system that best/worst answers test the others against.
        seed: of intervals and of drawn permutations.

    Returns:
        The frames `participation` (both kinds), `table5` (best/worst), `table7` and `comparisons` (pairwise), with the
        columns `COLUMNS`; empty ones where no export is of that kind. `significant` is 0, 1, or missing for the
        reference itself.

    Raises:
        AnswersError: a file is no export, two have one name, or `reference` was not shown.
    """
    names = [Path(path).stem for path in exports]
    if twice := {name for name in names if names.count(name) > 1}:
        raise analysis.AnswersError(f"two exports are called {sorted(twice)[0]}; rename one, names tell studies apart")
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in COLUMNS}
    for name, path in zip(names, exports, strict=True):
        answers = analysis.read_answers(path)
        for criterion in sorted(set(answers["criterion"])):
            for table, frame in _analysed(answers, criterion, reference, seed).items():
                parts[table].append(frame.assign(study=name, criterion=criterion)[COLUMNS[table]])
    return {name: pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS[name])
            for name, found in parts.items()}  # fmt: skip


def _analysed(answers: pd.DataFrame, criterion: str, reference: str, seed: int) -> dict[str, pd.DataFrame]:
    asked = answers[answers["criterion"] == criterion]
    kind = answers["kind"].iloc[0]
    found = {"participation": _participation(answers, asked, kind)}
    if kind == BEST_WORST:
        frame = analysis.table5(answers, reference, seed, criterion)
        significant = frame["significant"].astype("Int64").mask(frame["system"] == reference)
        return found | {"table5": frame.assign(significant=significant)}
    return found | {
        "table7": analysis.table7(answers, seed, criterion),
        "comparisons": analysis.comparisons(answers, seed, criterion),
    }


def _participation(answers: pd.DataFrame, asked: pd.DataFrame, kind: str) -> pd.DataFrame:
    people = analysis.participation(answers)
    items = len(asked[["subset", "item"]].drop_duplicates())
    row = {"kind": kind, "annotators": len(people), "finished": int(people["finished"].sum()), "items": items,
           "answers": len(asked)}  # fmt: skip
    return pd.DataFrame([row])
