"""Table 5 (Bootstrapping) and Table 7 (Do-Undo) from exported answers, with intervals and tests.

Answers of one annotator depend on each other. Intervals therefore resample annotators, not answers, and beside the
paper's Wilcoxon test stands a sign-flip test clustered by annotator. Annotators who did not finish count with what
they answered; `participation` says who they are, and `finished` leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.evaluation.statistics import Interval, bootstrap_statistic, sign_flip_test, wilcoxon_against
from visdyn.human_study.export import COLUMNS
from visdyn.human_study.study_criteria import OVERALL
from visdyn.readers import read_frame

ALPHA = 0.05  # Table 5's dagger
_ITEM = ["annotator", "subset", "item"]


class AnswersError(ValueError):
    """A table of answers is not one that `export` wrote, or is of the other kind of study."""


def read_answers(path: str | Path) -> pd.DataFrame:
    """Read what `export` wrote: one row an answer, columns `export.COLUMNS`, all texts but three counts.

    Raises:
        AnswersError: columns are missing.
    """
    advice = "export the answers again"
    answers = read_frame(path, AnswersError, advice, dtype=str, keep_default_na=False)
    if missing := [name for name in COLUMNS if name not in answers]:
        raise AnswersError(f"{path} lacks the columns {', '.join(missing)}; {advice}")
    for name in ("annotator", "assigned", "position", "revision"):
        if not (whole := answers[name].str.fullmatch(r"\d+")).all():
            raise AnswersError(f"{path}: {name} is {answers[name][~whole].iloc[0]!r}, no whole number; {advice}")
        answers[name] = answers[name].astype(int)
    if len(twice := answers[answers.duplicated([*_ITEM, "criterion", "shown"])]):
        row = twice.iloc[0]
        raise AnswersError(f"{path}: annotator {row['annotator']} answers {row['item']} twice; {advice}")
    return answers


def participation(answers: pd.DataFrame) -> pd.DataFrame:
    """Return one row an annotator: annotator, assigned and answered pages, whether finished.

    A page counts as answered when it has as many answers as the fullest page of all.
    """
    per_page = answers.groupby(["annotator", "assigned", "position"]).size()
    full = (per_page == per_page.max()).groupby(level=["annotator", "assigned"]).sum()
    table = full.rename("answered").reset_index()
    return table.assign(finished=table["answered"] == table["assigned"])


def finished(answers: pd.DataFrame) -> pd.DataFrame:
    """Return the answers of those annotators who finished."""
    table = participation(answers)
    return answers[answers["annotator"].isin(table.loc[table["finished"], "annotator"])]


def best_worst_scores(answers: pd.DataFrame, criterion: str = OVERALL) -> pd.DataFrame:
    """Return Table 5's points: +1 for the best, -1 for the worst, 0 for every other system shown.

    Returns:
        Columns annotator, subset, item, system, score; one row per system and answer.

    Raises:
        AnswersError: no answer under this criterion, or one that is no best/worst answer.
    """
    chosen = _select_criterion(answers, criterion)
    if (chosen["best"] == "").any() or (chosen["shown"].str.count(r"\|") < 1).any():
        raise AnswersError("an answer names no best image; this is not a best/worst study")
    long = chosen.assign(system=chosen["shown"].str.split("|")).explode("system", ignore_index=True)
    score = (long["system"] == long["best"]).astype(int) - (long["system"] == long["worst"]).astype(int)
    return long[_ITEM].assign(system=long["system"], score=score)


def table5(
    answers: pd.DataFrame, reference: str, seed: int, criterion: str = OVERALL, subsets: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return Bootstrapping's Table 5: mean points by subset and system, each system tested against `reference`.

    Args:
        answers: of `read_answers`.
        reference: the system that the gaps are tested against (the paper's C-FDM).
        seed: of intervals and of drawn permutations.
        criterion: `overall`, or a criterion's key in a study that asked each.
        subsets: their order; None: sorted. `All` comes last: a mean over answers, as in the paper.

    Returns:
        One row per subset and system: subset, system, score (-1 to 1), low, high (95 %), interval_over (annotators,
        or answers where there is one annotator), n (answers), annotators, then for the gap to the reference the
        p-values p_wilcoxon (zeros dropped, scipy's default), p_pratt, p_sign_flip (clustered by annotator), nonzero
        (answers that differ) and significant (p_wilcoxon < .05: the dagger). The reference's own are empty.

    Raises:
        AnswersError: `reference` was not shown, or not in every answer.
    """
    scores = best_worst_scores(answers, criterion)
    if reference not in set(scores["system"]):
        raise AnswersError(
            f"no answer is about {reference!r}; the systems are {', '.join(_sort_names(scores['system']))}"
        )
    order = _sort_names(scores["subset"]) if subsets is None else list(subsets)
    parts = [(subset, scores[scores["subset"] == subset]) for subset in order] + [("All", scores)]
    rows = [row for subset, part in parts if len(part) for row in _summarise_subset(subset, part, reference, seed)]
    return pd.DataFrame(rows)


def _summarise_subset(subset: str, scores: pd.DataFrame, reference: str, seed: int) -> list[dict]:
    # One row an answer, one column a system: the tests below are paired.
    wide = scores.pivot(index=_ITEM, columns="system", values="score").sort_index()
    if wide.isna().any(axis=None):
        raise AnswersError(f"subset {subset}: not every answer is about the same systems, so they cannot be paired")
    annotators = wide.index.get_level_values("annotator")
    rows = []
    for system in wide.columns:
        row = {"subset": subset, "system": system} | _summarise_mean(
            wide[system].to_numpy(float), annotators, seed, "score"
        )
        rows.append(row | _test_against_reference(wide[system], wide[reference], annotators, seed, system == reference))
    return rows


def _test_against_reference(
    scores: pd.Series, reference: pd.Series, annotators: pd.Index, seed: int, itself: bool
) -> dict:
    if itself:
        return dict.fromkeys(("p_wilcoxon", "p_pratt", "p_sign_flip", "nonzero")) | {"significant": False}
    wilcox, pratt = (wilcoxon_against(scores, reference, method) for method in ("wilcox", "pratt"))
    flipped = sign_flip_test(scores, reference, list(annotators), seed)
    return {"p_wilcoxon": wilcox.pvalue, "p_pratt": pratt.pvalue, "p_sign_flip": flipped.pvalue,
            "nonzero": wilcox.num_nonzero, "significant": wilcox.pvalue < ALPHA}  # fmt: skip


def comparisons(answers: pd.DataFrame, seed: int, criterion: str = OVERALL) -> pd.DataFrame:
    """Return how every pair of systems compared (Do-Undo, appendix C).

    Returns:
        One row a pair: first, second, n (answers), annotators, wins (of the first), ties, losses, p_wilcoxon and
        p_sign_flip (clustered by annotator) of +1, 0, -1 against 0.
    """
    chosen = _select_pairs(answers, criterion)
    rows = []
    for (first, second), part in chosen.groupby(["first", "second"]):
        points = (part["best"] == first).astype(int) - (part["best"] == second).astype(int)
        wilcox = wilcoxon_against(points, np.zeros(len(points)))
        flipped = sign_flip_test(points, np.zeros(len(points)), list(part["annotator"]), seed)
        counts = {"wins": int((points > 0).sum()), "ties": int((points == 0).sum()), "losses": int((points < 0).sum())}
        rows.append({"first": first, "second": second, "n": len(part), "annotators": part["annotator"].nunique(),
                     **counts, "p_wilcoxon": wilcox.pvalue, "p_sign_flip": flipped.pvalue})  # fmt: skip
    return pd.DataFrame(rows)


def table7(answers: pd.DataFrame, seed: int, criterion: str = OVERALL) -> pd.DataFrame:
    """Return Do-Undo's Table 7: how often each system was preferred, in per cent of the comparisons it stood in.

    An interpretation: the paper's three preferences sum to 133.2 %, and it does not say of what they are shares. Of
    comparisons with ties allowed they sum to 150 % less the ties when three systems meet equally often.

    Returns:
        One row a system, most preferred first: system, preference (per cent; a tie counts for neither), low, high
        (95 %), interval_over, n (comparisons), annotators, ties (per cent), ties_halved (per cent, a tie counting
        half for each).
    """
    chosen, rows = _select_pairs(answers, criterion), []
    for system in _sort_names(pd.concat([chosen["first"], chosen["second"]])):
        part = chosen[(chosen["first"] == system) | (chosen["second"] == system)]
        wins, ties = (100.0 * (part["best"] == name).to_numpy(float) for name in (system, ""))
        row = {"system": system} | _summarise_mean(wins, part["annotator"], seed, "preference")
        rows.append(row | {"ties": ties.mean(), "ties_halved": wins.mean() + ties.mean() / 2})
    return pd.DataFrame(rows).sort_values(["preference", "system"], ascending=[False, True], ignore_index=True)


def _select_pairs(answers: pd.DataFrame, criterion: str) -> pd.DataFrame:
    chosen = _select_criterion(answers, criterion)
    if (chosen["shown"].str.count(r"\|") != 1).any():
        raise AnswersError("an answer is about more or fewer than two systems; this is not a pairwise study")
    pairs = chosen["shown"].str.split("|").map(sorted)
    return chosen.assign(first=pairs.str[0], second=pairs.str[1])


def _select_criterion(answers: pd.DataFrame, criterion: str) -> pd.DataFrame:
    chosen = answers[answers["criterion"] == criterion]
    if chosen.empty:
        asked = ", ".join(_sort_names(answers["criterion"])) or "none at all"
        raise AnswersError(f"there is no answer under {criterion!r}; there are answers under: {asked}")
    return chosen


def _summarise_mean(values: np.ndarray, annotators: pd.Index | pd.Series, seed: int, name: str) -> dict:
    codes, labels = pd.factorize(annotators)
    over = "annotators" if len(labels) > 1 else "answers"
    interval = clustered_mean(values, codes if len(labels) > 1 else np.arange(len(values)), seed)
    return {name: interval.value, "low": interval.low, "high": interval.high, "interval_over": over,
            "n": len(values), "annotators": len(labels)}  # fmt: skip


def clustered_mean(values: np.ndarray, clusters: np.ndarray, seed: int) -> Interval:
    """Return the mean of values (N,) with a 95 % bootstrap interval that resamples clusters, int labels (N,) from 0."""
    sums, sizes = np.bincount(clusters, weights=values), np.bincount(clusters)
    return bootstrap_statistic(len(sums), lambda rows: sums[rows].sum(-1) / sizes[rows].sum(-1), seed)


def _sort_names(column: pd.Series) -> list[str]:
    return sorted(set(column))
