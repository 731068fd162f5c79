"""Tables of *Do-Undo*: our results in the paper's layout, published values beside.

The released protocol reverses from the ground-truth end frame (`reverse_from = gt`); chaining from the generated
frame stands in further columns. Judge tables hold our region judge, not Gemini, and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from visdyn.evaluation.metrics import registry
from visdyn.reporting import names, roster, summaries
from visdyn.reporting.results import ResultError, Results
from visdyn.reporting.tables import compare, judge_tables
from visdyn.reporting.tables.instruments import measured_with, name_instruments

SCORES = "evaluation_doundo/doundo_scores.csv"
CHAINED = "from generated"


def table1(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 1: similarity and flow with long prompts."""
    return _similarity_table(results, published, status, "long", {"forward clip_t": "CLIP-T F"})


def table2(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 2: the same with short prompts."""
    return _similarity_table(results, published, status, "short", {})


def table3(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 3: the judge's four criteria, both directions together, long prompts."""
    columns = {
        "IF": "Instruction (IF)",
        "IDP": "Identity (IDP)",
        "TC": "Temporal (TC)",
        "OC": "Object consistency (OC)",
    }
    parts, order = [], list(columns.values())
    for panel, scores in _judge_scores(results):
        scores = scores.assign(column=scores["criterion"].map(columns))
        parts.append(_mean_cells(scores, ["column"], order, published).assign(panel=panel))
    return judge_tables.name_region_judge(compare(pd.concat(parts), _add_judges(results, published), status), "D")


def table4(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 4: instruction following and identity for each action, long prompts."""
    parts = []
    for judge, scores in _judge_scores(results):
        scores = scores[scores["criterion"].isin(["IF", "IDP"])].assign(column=scores["verb"].str.replace("_", "-"))
        cells = summaries.over_chains(scores, ["system", "criterion", "column"])
        cells = _in_order(cells, published["panel"]).rename(columns={"row": "panel", "criterion": "row"})
        parts.append(cells.assign(row=cells["row"] + (f", {judge}" if judge else "")))
    cells = pd.concat(parts)
    if cells.empty:
        raise ResultError(f"{SCORES} has no instruction or identity scores; run stage evaluation_doundo")
    asked = [judge for judge, _ in _judge_scores(results)[1:] if judge_tables.is_papers(judge, "D")]
    copies = [published.assign(row=published["row"] + f", {judge}") for judge in asked]
    frame = compare(cells, pd.concat([published, *copies], ignore_index=True), status)
    return name_instruments(frame, "row", dict.fromkeys(["IF", "IDP"], registry.REGION))


def table5(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 5: as Table 1, with the spread over chains (Bagel stands for `Bagel-think`)."""
    renamed = {"any epe_norm": "EPE", "any epe": "EPE, px"}
    return _similarity_table(results, published, status, "long", renamed, {"Bagel": "Bagel (no thinking)"})


def table6(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 6: the judge's criteria split into forward and reverse, long prompts."""
    order = ["IF-F", "IF-R", "IDP-F", "IDP-R", "OC-F", "OC-R", "TC-F", "TC-R"]
    parts = []
    for panel, scores in _judge_scores(results):
        column = scores["criterion"] + "-" + scores["direction"].str[0].str.upper()
        parts.append(_mean_cells(scores.assign(column=column), ["column"], order, published).assign(panel=panel))
    return judge_tables.name_region_judge(compare(pd.concat(parts), _add_judges(results, published), status), "D")


def page(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """The newer version's two tables, from its project page: similarity, action accuracy (in percent) and flow.

    Its base stands in both panels. Undone from the true end image and with long prompts, as in its code.
    """
    scores = _read_scores(results, _long_from_truth, "long prompts")
    scores, heads, parts = registry.newer_values(scores), list(registry.NEWER_COLUMNS.values()), []
    for panel, printed in published.groupby("panel", sort=False):
        cells = _mean_cells(scores, ["column"], heads, published).assign(panel=panel)
        elsewhere = set(published["row"]) - set(printed["row"])
        parts.append(cells[~cells["row"].isin(elsewhere)])
    instruments = measured_with(results, "D")
    by_head = {head: instruments[name] for (name, _), head in registry.NEWER_COLUMNS.items()}
    return name_instruments(compare(pd.concat(parts), published, status), "column", by_head)


def _similarity_table(
    results: Results,
    published: pd.DataFrame,
    status: str,
    prompt: str,
    renamed_columns: Mapping[str, str],
    renamed_rows: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    scores = _read_scores(results, lambda frame: frame["prompt"].isin([prompt, ""]), f"prompts of length {prompt}")
    columns = {}  # "<direction> <metric>" -> head
    for entry in registry.metrics(registry.DOUNDO):
        if entry.each_direction and entry.measured_with == registry.REGION:
            continue  # these stand in the judge's own tables
        for direction in ("reverse", "forward") if entry.each_direction else ("any",):
            columns[f"{direction} {entry.name}"] = entry.heading(direction)
    columns |= renamed_columns
    undirected = scores["metric"].isin([key.removeprefix("any ") for key in columns if key.startswith("any ")])
    column = (scores["direction"].mask(undirected, "any") + " " + scores["metric"]).map(columns)
    chained = scores["reverse_from"] == "generated"
    column = column.where(~chained, column + f", {CHAINED}")
    order = [*columns.values(), *(f"{name}, {CHAINED}" for name in columns.values())]
    cells = _mean_cells(
        scores.assign(column=column).dropna(subset=["column"]), ["column"], order, published, renamed_rows
    )
    shares = [columns["any epe_norm"], f"{columns['any epe_norm']}, {CHAINED}"]
    cells["note"] = cells["column"].map(
        lambda name: "share of the longer side; the paper's normalisation is unknown" if name in shares else ""
    )
    instruments = measured_with(results, "D")
    by_head = {head: instruments[key.partition(" ")[2]] for key, head in columns.items()
               if key.partition(" ")[2] in instruments}  # fmt: skip
    by_head |= {f"{head}, {CHAINED}": instrument for head, instrument in by_head.items()}
    return name_instruments(compare(cells, published, status), "column", by_head)


def _judge_scores(results: Results) -> list[tuple[str, pd.DataFrame]]:
    """Return (panel, scores) of the region judge (no panel), then of each judge that answers in words."""
    own = _read_scores(results, _long_from_truth, "long prompts")
    asked = judge_tables.of_paper(results, "D")
    found = [("", own)]
    if asked is not None:
        asked = asked[_long_from_truth(asked)]
        found += [(judge_tables.panel(judge), scores) for judge, scores in asked.groupby("judge", sort=True)]
    found = [
        (panel, scores.assign(criterion=scores["metric"].map(names.judge_criterion)).dropna(subset=["criterion"]))
        for panel, scores in found
    ]
    if all(scores.empty for _, scores in found):
        raise ResultError(f"{SCORES} has no judge scores; run stage evaluation_doundo with a judge")
    return found


def _long_from_truth(frame: pd.DataFrame) -> pd.Series:
    return frame["prompt"].isin(["long", ""]) & (frame["reverse_from"] != "generated")


def _add_judges(results: Results, published: pd.DataFrame) -> pd.DataFrame:
    asked = judge_tables.of_paper(results, "D")
    return published if asked is None else judge_tables.beside(published, sorted(set(asked["judge"])), "D", "")


def _read_scores(results: Results, chosen: Callable[[pd.DataFrame], pd.Series], what: str) -> pd.DataFrame:
    scores = results.read(SCORES)
    scores = scores.assign(reverse_from=scores["reverse_from"].replace("empty", ""))
    scores = scores[chosen(scores)]
    if scores.empty:
        raise ResultError(f"{SCORES} has no rows with {what}; run stage evaluation_doundo")
    return scores


def _mean_cells(
    scores: pd.DataFrame,
    keys: list[str],
    order: list[str],
    published: pd.DataFrame,
    renamed_rows: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    cells = summaries.over_chains(scores, ["system", *keys])
    rank = {name: position for position, name in enumerate(order)}
    cells = cells.assign(_rank=cells["column"].map(rank).fillna(len(rank))).sort_values("_rank", kind="stable")
    cells = _in_order(cells.drop(columns="_rank"), published["row"])
    return cells.assign(row=cells["row"].replace(dict(renamed_rows or {})))


def _in_order(cells: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    known = names.DOUNDO_SYSTEMS
    rank = {name: position for position, name in enumerate(names.system_order(cells["system"], known))}
    cells = cells.assign(_rank=cells["system"].map(rank)).sort_values("_rank", kind="stable")
    rows = [roster.printed(system, "D", labels, known.get(system, system)) for system in cells["system"]]
    return cells.assign(row=rows).drop(columns=["_rank", "system"])
