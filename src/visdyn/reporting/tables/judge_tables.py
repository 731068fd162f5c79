"""Scores of judges that answer in words (`judge_scores.csv` of a paper's evaluation), in rows and panels of their own.

They never share a cell with the region judge. A judge that is the paper's own (GPT-4o, Gemini) has the paper's printed
values beside it; where it was not asked the paper's prompt, its name says what it was asked. An item's score is the
mean over its repeats, which are no draws of the experiment.
"""

from __future__ import annotations

import pandas as pd

from visdyn.evaluation.metrics.registry import REGION
from visdyn.reporting.results import EVALUATIONS, Results

PAPERS_PROMPT = "paper"  # the name of the prompt that a paper prints (`evaluation/judges/prompts`)
PAPERS_JUDGE = {"B": "gpt4o", "D": "gemini"}
PAPERS_JUDGE_PRINTED = {"B": "GPT4o", "D": "Gemini"}
# How a judge's score differs from the paper's: D's prompt is not published.
_PROMPT = {"B": "", "D": "the prompt of the paper's judge is not published"}


def of_paper(results: Results, paper: str) -> pd.DataFrame | None:
    """Return a paper's readable scores as the region judge's files have them: judge, system, chain, id, ...

    `judge` names the prompt too, unless it is the paper's; `metric` is the criterion, `verb` the subset, which is
    Do-Undo's verb. None where no such judge was asked.
    """
    scores = results.read_or_none(f"{EVALUATIONS[paper]}/judge_scores.csv")
    if scores is None:
        return None
    scores = scores[scores["value"].notna()]
    if scores.empty:
        return None
    scores = name_prompts(scores)
    keys = [name for name in scores.columns if name not in ("repeat", "value")]
    means = scores.groupby(keys, sort=False)["value"].mean().reset_index()
    return means.assign(metric=means["criterion"], verb=means["subset"])


def name_prompts(scores: pd.DataFrame) -> pd.DataFrame:
    """Return scores of judges that answer in words with the prompt in the judge's name, unless it is the paper's."""
    asked = " (prompt " + scores["judge_prompt"] + " " + scores["prompt_version"] + ")"
    return scores.assign(judge=scores["judge"] + asked.mask(scores["judge_prompt"] == PAPERS_PROMPT, ""))


def panel(judge: str) -> str:
    """Return the label under which a judge's values stand."""
    return f"judge {judge}"


def head(judge: str, paper: str, papers: str = "") -> str:
    """Return the head over a judge's values beside printed ones: the paper's (`papers`) for its judge, else its own."""
    return papers if is_papers(judge, paper) else panel(judge)


def is_papers(judge: str, paper: str) -> bool:
    """Tell whether a judge, by its name in tables, is the paper's, asked the paper's prompt where one is printed."""
    name, other_prompt, _ = judge.partition(" (prompt ")
    known = PAPERS_JUDGE[paper] in "".join(char for char in name.lower() if char.isalnum())
    return known and (not other_prompt or bool(_PROMPT[paper]))


def instrument(judge: str, paper: str) -> str:
    """Return how a judge differs from the paper's, "" where it does not."""
    if not is_papers(judge, paper):
        return f"judge {judge}"
    asked = judge.partition(" (prompt ")[2].removesuffix(")")
    return f"{_PROMPT[paper]}; asked by prompt {asked}" if asked else _PROMPT[paper]


def name_papers_judge(frame: pd.DataFrame, paper: str) -> pd.DataFrame:
    """Return a comparison frame whose nameless panel, which holds the paper's judge's values alone, is called by it."""
    return frame.assign(panel=frame["panel"].mask(frame["panel"] == "", PAPERS_JUDGE_PRINTED[paper]))


def region_panel(printed: str) -> str:
    """Return the head over the region judge's values: that of the paper's panel with the judge's name for the paper's.

    `Forward-dynamics Prediction (GPT4o score)` becomes `Forward-dynamics Prediction (region judge)`.
    """
    name = printed.partition(" (")[0]
    return f"{name} ({REGION})" if printed else REGION
