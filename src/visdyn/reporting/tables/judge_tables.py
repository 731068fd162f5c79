"""Scores of judges that answer in words (`judge_scores.csv` of a paper's evaluation), in rows and panels of their own.

They never share a cell with the region judge. A judge that is the paper's own (GPT-4o, Gemini) has the paper's printed
values beside it. An item's score is the mean over its repeats, which are no draws of the experiment.
"""

from __future__ import annotations

import pandas as pd

from visdyn.evaluation.metrics.registry import REGION
from visdyn.reporting.results import EVALUATIONS, Results

PAPERS_JUDGE = {"B": "gpt4o", "D": "gemini"}
PAPERS_JUDGE_PRINTED = {"B": "GPT4o", "D": "Gemini"}


def of_paper(results: Results, paper: str) -> pd.DataFrame | None:
    """Return a paper's readable scores as the region judge's files have them: judge, system, chain, id, ...

    `metric` is the criterion, `verb` the subset, which is Do-Undo's verb. None where no such judge was asked.
    """
    scores = results.read_or_none(f"{EVALUATIONS[paper]}/judge_scores.csv")
    if scores is None:
        return None
    scores = scores[scores["value"].notna()]
    if scores.empty:
        return None
    keys = [name for name in scores.columns if name not in ("repeat", "value")]
    means = scores.groupby(keys, sort=False)["value"].mean().reset_index()
    return means.assign(metric=means["criterion"], verb=means["subset"])


def panel(judge: str) -> str:
    """Return the label under which a judge's values stand."""
    return f"judge {judge}"


def is_papers(judge: str, paper: str) -> bool:
    """Tell whether a judge is the one that the paper asked."""
    return PAPERS_JUDGE[paper] in "".join(char for char in judge.lower() if char.isalnum())


def beside(published: pd.DataFrame, judges: list[str], paper: str, source: str) -> pd.DataFrame:
    """Return the published numbers, those of panel `source` once more under every judge that is the paper's own."""
    own = published[published["panel"] == source]
    copies = [own.assign(panel=panel(judge)) for judge in judges if is_papers(judge, paper)]
    return pd.concat([published, *copies], ignore_index=True)


def name_region_judge(frame: pd.DataFrame, paper: str) -> pd.DataFrame:
    """Return a comparison frame whose nameless panel is called by its judge, the paper's own in brackets as its values.

    The values of ours there are the region judge's, whatever the paper's head says.
    """
    return frame.assign(panel=frame["panel"].mask(frame["panel"] == "", region_panel("", paper)))


def region_panel(printed: str, paper: str) -> str:
    """Return the head over the region judge's values where the paper prints `printed` over its own judge's.

    `Forward-dynamics Prediction (GPT4o score)` becomes `Forward-dynamics Prediction (region judge [GPT4o score])`.
    """
    name, bracket, inside = printed.partition(" (")
    papers = inside.removesuffix(")") if bracket else PAPERS_JUDGE_PRINTED[paper]
    head = f"{REGION} [{papers}]"
    return f"{name} ({head})" if printed else head
