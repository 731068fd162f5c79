"""Scores of judges that answer in words (`judge_scores.csv` of a paper's evaluation), in rows and panels of their own.

They never share a cell with the region judge. A judge that is the paper's own (GPT-4o, Gemini), by its name and by the
model that the parameters give it, has the paper's printed values beside it; where it was not asked the paper's prompt,
its name says what it was asked. An item's score is the mean over its repeats, which are no draws of the experiment.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from visdyn.evaluation.metrics.registry import REGION
from visdyn.reporting.results import EVALUATIONS, Results

PROMPT = ("judge_prompt", "prompt_version")
PAPERS_PROMPT = "paper"  # the name of the prompt that a paper prints (`evaluation/judges/prompts`)
# The papers' judges and their models, as a name spells them, letters and digits alone. D says which Gemini in two ways.
PAPERS_JUDGE = {"B": re.compile("gpt4o(20241120)?"), "D": re.compile("gemini.*")}
PAPERS_MODEL = {"B": re.compile("gpt4o20241120"), "D": re.compile("gemini.*")}
PAPERS_JUDGE_PRINTED = {"B": "GPT4o", "D": "Gemini"}
# How a judge's score differs from the paper's: D's prompt is not published.
_PROMPT = {"B": "", "D": "the prompt of the paper's judge is not published"}
_OTHER_MODEL, _SECOND = " (model ", " (a second "  # in the name of a judge that is not the paper's, although called so


def of_paper(results: Results, paper: str) -> pd.DataFrame | None:
    """Return a paper's readable scores as the region judge's files have them: judge, system, chain, id, ...

    `judge` is as `name_judges` makes it, one of them at most the paper's; `metric` is the criterion, `verb` the subset,
    which is Do-Undo's verb. None where no such judge was asked.
    """
    scores = results.read_or_none(f"{EVALUATIONS[paper]}/judge_scores.csv")
    if scores is None:
        return None
    scores = scores[scores["value"].notna()]
    if scores.empty:
        return None
    scores = name_judges(scores, results, paper)
    keys = [name for name in scores.columns if name not in ("repeat", "value")]
    means = scores.groupby(keys, sort=False)["value"].mean().reset_index()
    return means.assign(metric=means["criterion"], verb=means["subset"])


def name_judges(scores: pd.DataFrame, results: Results, paper: str) -> pd.DataFrame:
    """Return scores of judges that answer in words with the prompt in the judge's name, unless it is the paper's.

    The name of one that is called like the paper's also says its model where that is another, and that it is a second
    one where several are the paper's.
    """
    section, settings = EVALUATIONS[paper], [results.setting, *(other.setting for other in results.beside)]
    models = {
        name: f"{_OTHER_MODEL}{model})"
        for setting in settings
        for name, model in setting.judges.get(section, {}).items()
        if _matches(name, PAPERS_JUDGE[paper]) and not _matches(Path(model).name, PAPERS_MODEL[paper])
    }
    asked = zip(*(scores[column] for column in ("judge", *PROMPT)), strict=True)
    named = [name + models.get(name, "") + (f" (prompt {prompt} {version})" if prompt != PAPERS_PROMPT else "")
             for name, prompt, version in asked]  # fmt: skip
    judges = pd.Series(named, scores.index, dtype=object)
    second = [judge for judge in sorted(judges.unique()) if is_papers(judge, paper)][1:]
    suffix = f"{_SECOND}{PAPERS_JUDGE_PRINTED[paper]})"
    return scores.assign(judge=judges.mask(judges.isin(second), judges + suffix))


def has_papers(scores: pd.DataFrame, results: Results, paper: str) -> bool:
    """Tell whether the paper's own judge has given any of these scores."""
    judges = name_judges(scores[scores["value"].notna()], results, paper)["judge"].unique()
    return any(is_papers(judge, paper) for judge in judges)


def panel(judge: str) -> str:
    """Return the label under which a judge's values stand."""
    return f"judge {judge}"


def head(judge: str, paper: str, papers: str = "") -> str:
    """Return the head over a judge's values beside printed ones: the paper's (`papers`) for its judge, else its own."""
    return papers if is_papers(judge, paper) else panel(judge)


def is_papers(judge: str, paper: str) -> bool:
    """Tell whether a judge, by its name in tables, is the paper's, asked the paper's prompt where one is printed."""
    name, other_prompt, _ = judge.partition(" (prompt ")
    if _OTHER_MODEL in judge or _SECOND in judge or not _matches(name, PAPERS_JUDGE[paper]):
        return False
    return not other_prompt or bool(_PROMPT[paper])


def _matches(name: str, wanted: re.Pattern) -> bool:
    return bool(wanted.fullmatch("".join(char for char in name.lower() if char.isalnum())))


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
