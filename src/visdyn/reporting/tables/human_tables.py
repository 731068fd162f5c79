"""Bootstrapping's Table 5 and Do-Undo's Table 7 from the answers of people (stage `human_study`)."""

from __future__ import annotations

import pandas as pd

from visdyn.reporting import names, roster
from visdyn.reporting.results import ResultError, Results
from visdyn.reporting.tables import compare

BEST_WORST, PREFERENCE, PEOPLE = (f"human_study/{name}.csv" for name in ("table5", "table7", "participation"))
OVERALL = "overall"
_SHARES = "of what the printed percentages are shares is not said"


def table5(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 5: best minus worst by subset; each gap to C-FDM with its p-values in the note."""
    scores = _of_one_study(results.read(BEST_WORST))
    labels = published["column"]
    ours = scores.assign(
        row=[names.SUBSETS.get(subset, (subset, subset))[1] for subset in scores["subset"]],
        column=[roster.printed(name, "B", labels, names.fdm_system(name)) for name in scores["system"]],
        value=scores["score"],
        metric="people",
        scale=[results.differs("B", name) for name in scores["system"]],
        note=[_describe_tests(entry) for entry in scores.to_dict("records")],
    )
    return compare(ours[["panel", "row", "column", "value", "n", "metric", "scale", "note"]], published, status)


def table7(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 7: share of its comparisons that a system won; ties count for neither, or half for each (a column more)."""
    shares = _of_one_study(results.read(PREFERENCE))
    shares = shares.assign(
        row=[roster.printed(name, "D", published["row"], names.doundo_system(name))
             for name in shares["system"]],
        note=[_format_interval(entry, "%") for entry in shares.to_dict("records")],
    )  # fmt: skip
    parts = [
        shares.assign(column=column, value=shares[name])
        for name, column in {
            "preference": "Preference (%)",
            "ties": "Ties (%)",
            "ties_halved": "Ties halved (%)",
        }.items()
    ]
    ours = pd.concat(parts)[["panel", "row", "column", "value", "n", "note"]]
    return compare(ours.assign(metric="people", instrument=_SHARES), published, status)


def participation(results: Results) -> pd.DataFrame:
    """Return who took part: study, kind, criterion, annotators, finished, items, answers."""
    return results.read(PEOPLE)


def _of_one_study(frame: pd.DataFrame) -> pd.DataFrame:
    """Add `panel`: which study and criterion, named only where there are several."""
    keys = frame[["study", "criterion"]].drop_duplicates()
    if frame.empty:
        raise ResultError("no answers were exported")
    single = len(keys) == 1 and keys["criterion"].iloc[0] == OVERALL
    return frame.assign(panel="" if single else frame["study"] + ", " + frame["criterion"])


def _describe_tests(entry: dict) -> str:
    text = f"{int(entry['annotators'])} annotators; {_format_interval(entry, '')}"
    if pd.isna(entry["p_wilcoxon"]):
        return text
    dagger = "significant against C-FDM (dagger): " if entry["significant"] == 1 else ""
    tests = f"Wilcoxon p = {entry['p_wilcoxon']:.3g} with zeros dropped, {entry['p_pratt']:.3g} with zeros ranked"
    flips = f"sign flips by annotator p = {entry['p_sign_flip']:.3g}, {int(entry['nonzero'])} answers differ"
    return f"{text}; {dagger}{tests}, {flips}"


def _format_interval(entry: dict, unit: str) -> str:
    return f"95 % interval {entry['low']:.2f} to {entry['high']:.2f} {unit}".strip() + f" over {entry['interval_over']}"
