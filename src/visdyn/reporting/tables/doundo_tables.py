"""Tables of *Do-Undo*: our results in the paper's layout, published values beside.

The released protocol reverses from the ground-truth end frame (`reverse_from = gt`); chaining from the generated
frame stands in further columns. The paper's panels hold what Gemini says; the region judge has its own. The printed EPE
has no stated unit, so ours, a share of the longer side and pixels, stand in columns of their own; OF-F stands beside
the printed one only in pixels of the authors' size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from visdyn.evaluation.metrics import registry
from visdyn.reporting import names, roster, summaries
from visdyn.reporting.results import ResultError, Results
from visdyn.reporting.tables import compare, judge_tables
from visdyn.reporting.tables.comparison import fewer_items, items_of
from visdyn.reporting.tables.instruments import differing_instruments, measured_with, name_instruments

SCORES = "evaluation_doundo/doundo_scores.csv"
CHAINED = "from generated"
PAPERS_SIZE = 512  # pixels: images are scaled so by the authors' code before optical flow is taken
TOLERANCES = {
    "dino": "cosine",
    "clip_t": "cosine",
    "clip_prompt": "cosine",
    "of_f": "optical_flow",
    "epe_f": "optical_flow",
    "epe_r": "optical_flow",
    "action_accuracy": "accuracy",
    "noun_accuracy": "accuracy",
}  # metric -> its tolerance in comparison.yaml


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
    for judge in _judge_scores(results):
        scores = judge.scores.assign(column=judge.scores["criterion"].map(columns))
        parts.append(judge.place(_mean_cells(results, scores, ["column"], order, published)))
    return judge_tables.name_papers_judge(compare(pd.concat(parts), published, status), "D")


def table4(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 4: instruction following and identity for each action, long prompts."""
    parts = []
    for judge in _judge_scores(results):
        scores = judge.scores[judge.scores["criterion"].isin(["IF", "IDP"])]
        scores = scores.assign(column=scores["verb"].str.replace("_", "-"))
        cells = summaries.over_chains(scores, ["system", "criterion", "column"])
        cells = _in_order(cells, published["panel"]).rename(columns={"row": "panel", "criterion": "row"})
        cells = cells.assign(row=cells["row"] + (f", {judge.panel}" if judge.panel else ""))
        parts.append(cells.assign(metric="score", instrument=judge.instrument, note=judge.note))
    cells = pd.concat(parts)
    if cells.empty:
        raise ResultError(f"{SCORES} has no instruction or identity scores; run stage evaluation_doundo")
    return compare(cells, published, status)


def table5(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 5: as Table 1, with the spread over chains (Bagel stands for `Bagel-think`)."""
    return _similarity_table(results, published, status, "long", {}, {"Bagel": "Bagel (no thinking)"})


def table6(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Table 6: the judge's criteria split into forward and reverse, long prompts."""
    order = ["IF-F", "IF-R", "IDP-F", "IDP-R", "OC-F", "OC-R", "TC-F", "TC-R"]
    parts = []
    for judge in _judge_scores(results):
        scores = judge.scores
        column = scores["criterion"] + "-" + scores["direction"].str[0].str.upper()
        parts.append(judge.place(_mean_cells(results, scores.assign(column=column), ["column"], order, published)))
    return judge_tables.name_papers_judge(compare(pd.concat(parts), published, status), "D")


def page(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """The newer version's two tables, from its project page: similarity, action accuracy (in percent) and flow.

    Its base stands in both panels. Undone from the true end image and with long prompts, as in its code.
    """
    scores = _read_scores(results, _long_from_truth, "long prompts")
    scores, heads, parts = registry.newer_values(scores), list(registry.NEWER_COLUMNS.values()), []
    of_head = {head: name for (name, _), head in registry.NEWER_COLUMNS.items()}
    for panel, printed in published.groupby("panel", sort=False):
        cells = _mean_cells(results, scores, ["column"], heads, published, bench="doundo_page").assign(panel=panel)
        elsewhere = set(published["row"]) - set(printed["row"])
        cells = _add_facts(results, cells, cells["column"].map(of_head))
        parts.append(cells[~cells["row"].isin(elsewhere)])
    instruments = measured_with(results, "D")
    by_head = {head: instruments[name] for head, name in of_head.items() if name in instruments}
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
    if not _in_papers_pixels(results):
        columns["any of_f"] = "OF-F, px of our size"
    undirected = scores["metric"].isin([key.removeprefix("any ") for key in columns if key.startswith("any ")])
    column = (scores["direction"].mask(undirected, "any") + " " + scores["metric"]).map(columns)
    chained = scores["reverse_from"] == "generated"
    column = column.where(~chained, column + f", {CHAINED}")
    order = [*columns.values(), *(f"{name}, {CHAINED}" for name in columns.values())]
    cells = _mean_cells(
        results, scores.assign(column=column).dropna(subset=["column"]), ["column"], order, published, renamed_rows
    )
    of_head = {head: key.partition(" ")[2] for key, head in columns.items()}
    measured = cells["column"].str.removesuffix(f", {CHAINED}").map(of_head)
    cells = _add_facts(results, cells, measured)
    instruments = measured_with(results, "D")
    by_head = {head: instruments[key.partition(" ")[2]] for key, head in columns.items()
               if key.partition(" ")[2] in instruments}  # fmt: skip
    by_head |= {f"{head}, {CHAINED}": instrument for head, instrument in by_head.items()}
    return name_instruments(compare(cells, published, status), "column", by_head)


def _add_facts(results: Results, cells: pd.DataFrame, measured: pd.Series) -> pd.DataFrame:
    """Say of cells what they are beside the paper's; `measured` names each one's metric."""
    facts = differing_instruments(results, "D")
    return cells.assign(
        metric=measured.map(TOLERANCES).fillna(measured),
        instrument=[facts[name][0] for name in measured],
        scale=[facts[name][1] or own for name, own in zip(measured, cells["scale"], strict=True)],
        drawn=~cells["row"].str.startswith(names.BASELINES),
    )


@dataclass(frozen=True)
class _Judged:
    """A judge's scores: the panel they stand in, how it differs from the paper's judge, and the scores."""

    panel: str
    instrument: str
    scores: pd.DataFrame

    @property
    def note(self) -> str:
        """What is said of it where it stands under the paper's head: that it was asked by another prompt."""
        return "" if self.panel else self.instrument

    def place(self, cells: pd.DataFrame) -> pd.DataFrame:
        return cells.assign(panel=self.panel, metric="score", instrument=self.instrument, note=self.note)


def _judge_scores(results: Results) -> list[_Judged]:
    """Return the region judge's scores, then those of each judge that answers in words."""
    found = [_Judged(registry.REGION, registry.REGION, _read_scores(results, _long_from_truth, "long prompts"))]
    asked = judge_tables.of_paper(results, "D")
    if asked is not None:
        asked = asked[_long_from_truth(asked)]
        found += [
            _Judged(judge_tables.head(judge, "D"), judge_tables.instrument(judge, "D"), scores)
            for judge, scores in asked.groupby("judge", sort=True)
        ]
    found = [
        replace(one, scores=one.scores.assign(criterion=one.scores["metric"].map(names.judge_criterion)))
        for one in found
    ]
    found = [replace(one, scores=one.scores.dropna(subset=["criterion", "value"])) for one in found]
    if not any(len(one.scores) for one in found):
        raise ResultError(f"{SCORES} has no judge scores; run stage evaluation_doundo with a judge")
    return [one for one in found if len(one.scores)]


def _in_papers_pixels(results: Results) -> bool:
    """Tell whether the optical flow was measured at the size of the authors' code."""
    table = results.read_or_none("evaluation_doundo/measures.csv")
    notes = [] if table is None else table.loc[table["metric"] == "of_f", "note"]
    return any(f"at {PAPERS_SIZE} pixels" in note for note in notes)


def _long_from_truth(frame: pd.DataFrame) -> pd.Series:
    return frame["prompt"].isin(["long", ""]) & (frame["reverse_from"] != "generated")


def _read_scores(results: Results, chosen: Callable[[pd.DataFrame], pd.Series], what: str) -> pd.DataFrame:
    scores = results.read(SCORES)
    scores = scores.assign(reverse_from=scores["reverse_from"].replace("empty", ""))
    scores = scores[chosen(scores)]
    if scores.empty:
        raise ResultError(f"{SCORES} has no rows with {what}; run stage evaluation_doundo")
    return scores


def _mean_cells(
    results: Results,
    scores: pd.DataFrame,
    keys: list[str],
    order: list[str],
    published: pd.DataFrame,
    renamed_rows: Mapping[str, str] | None = None,
    bench: str = "doundo",
) -> pd.DataFrame:
    cells = summaries.over_chains(scores, ["system", *keys])
    rank = {name: position for position, name in enumerate(order)}
    cells = cells.assign(_rank=cells["column"].map(rank).fillna(len(rank))).sort_values("_rank", kind="stable")
    scale = [results.differs("D", system) or fewer_items(n, items_of(bench))
             for system, n in zip(cells["system"], cells["n"], strict=True)]  # fmt: skip
    cells = _in_order(cells.assign(scale=scale).drop(columns="_rank"), published["row"])
    return cells.assign(row=cells["row"].replace(dict(renamed_rows or {})))


def _in_order(cells: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    order = names.system_order(cells["system"], names.DOUNDO_SYSTEMS)
    rank = {name: position for position, name in enumerate(order)}
    cells = cells.assign(_rank=cells["system"].map(rank)).sort_values("_rank", kind="stable")
    rows = [roster.printed(system, "D", labels, names.doundo_system(system)) for system in cells["system"]]
    return cells.assign(row=rows).drop(columns=["_rank", "system"])
