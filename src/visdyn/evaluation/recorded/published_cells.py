"""The paper's printed cells against what the recorded replies and aggregates give, cell by cell."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from visdyn.evaluation.recorded.evidence import (
    AVERAGES,
    IMAGE_METRICS,
    SUBSETS,
    Evidence,
    RecordedSystem,
    average,
)

REPRODUCED, CONTRADICTS, ONE_RUN = "reproduced", "contradicts", "smaller scale"
COLUMNS = ["table", "panel", "row", "column", "system", "subset", "metric", "average", "published", "value", "n",
           "dropped", "tolerance", "status", "note"]  # fmt: skip
IDENTITY = ["system", "column", "cells", "equal"]
PASSES = ["system", "subset", "n", "image_cells", "image_equal", "printed", "recorded", "difference"]

_SUBSETS = {"MagicBrush": "magicbrush", "MB": "magicbrush", "AG": "ag", "Something": "something", "ST": "something",
            "WhatsUp": "whatsup", "WU": "whatsup", "Kubric": "kubric", "KU": "kubric"}  # fmt: skip
_AVERAGES = ("AURORA-BENCH Avg.", "Avg.", "All", "GPT4o")
_METRICS = {"L1": "l1", "CLIP-I": "clip_i", "CLIP-T": "clip_t", "DINO": "dino"}
_CRITERIA = {" ES": "editing_success", " ME": "minimal_editing"}
_RECORDED = {name: recorded for recorded, name in IMAGE_METRICS.items()}
_SLACK = 1e-9  # a difference of exactly the tolerance is within it, whatever its last bits
ALL = "all"


def compare_cells(
    evidence: Evidence, published: Mapping[str, pd.DataFrame], tolerances: Mapping[str, float],
    averages: Mapping[str, str],
) -> pd.DataFrame:  # fmt: skip
    """Compare every printed cell of a recorded system with the value that the recorded numbers give.

    Args:
        evidence: the recorded numbers.
        published: table (`b_table2`) -> its printed cells (panel, row, column, value, note).
        tolerances: metric (score, editing_success, ..., dino) -> largest distance at which a cell is met.
        averages: table -> how its averages are made, one of `evidence.AVERAGES`.

    Returns:
        Columns `COLUMNS`, in the paper's order. n counts replies (of image metrics: samples), dropped what the file's
        samples have no reply to. Status: `reproduced` within the tolerance, `contradicts` beyond it, `smaller scale`
        where the paper prints the mean of several runs and one is recorded.
    """
    rows = [
        row
        for table, cells in published.items()
        for cell in cells.itertuples()
        if not pd.isna(cell.value) and (row := _compare_cell(evidence, table, cell, tolerances, averages)) is not None
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def identify_systems(evidence: Evidence, table6: pd.DataFrame, tolerances: Mapping[str, float]) -> pd.DataFrame:
    """Count for each recorded file and each column of Table 6 the image metrics that agree: columns `IDENTITY`."""
    wanted = table6[table6["row"].isin(_METRICS) & table6["panel"].isin(_SUBSETS)].dropna(subset=["value"])
    rows = []
    for system in evidence.systems:
        for column, cells in wanted.groupby("column", sort=False):
            distances = [
                abs(evidence.aggregate(system.name, _SUBSETS[cell.panel], _RECORDED[_METRICS[cell.row]]) - cell.value)
                <= tolerances[_METRICS[cell.row]] + _SLACK
                for cell in cells.itertuples()
            ]
            rows.append((system.name, column, len(distances), sum(distances)))
    return pd.DataFrame(rows, columns=IDENTITY)


def compare_passes(cells: pd.DataFrame) -> pd.DataFrame:
    """Set the judge's printed scores of Table 6 beside the recorded ones where the images measure the same.

    Where all image metrics of a system's column are those recorded with the replies, the two scores are two passes of
    the judge, or one and the same; equal metrics do not prove equal images.

    Args:
        cells: from `compare_cells`.

    Returns:
        Columns `PASSES`: one row a subset (and `all`) of the systems whose image metrics all agree; image_cells and
        image_equal count those metrics in that subset.
    """
    table = cells[cells["table"] == "b_table6"]
    images = table[table["metric"].isin(_RECORDED)]
    equal = images["status"] == REPRODUCED
    same = equal.groupby(images["system"], sort=False).all()
    rows = []
    for cell in table[table["metric"] == "score"].itertuples():
        if same.get(cell.system, False):
            of_cell = (images["system"] == cell.system) & ((images["subset"] == cell.subset) | (cell.subset == ALL))
            counts = (int(of_cell.sum()), int(equal[of_cell].sum()))
            rows.append(
                (cell.system, cell.subset, cell.n, *counts, cell.published, cell.value, cell.value - cell.published)
            )
    return pd.DataFrame(rows, columns=PASSES)


def _compare_cell(
    evidence: Evidence, table: str, cell, tolerances: Mapping[str, float], averages: Mapping[str, str]
) -> tuple | None:
    """Return one row of `compare_cells`, or None where nothing is recorded of a cell."""
    label, metric = cell.column, _METRICS.get(cell.row, "score")
    for ending, criterion in _CRITERIA.items():
        if label.endswith(ending):
            label, metric = label.removesuffix(ending), criterion
    system = next((one for one in evidence.systems if one.printed.get(table) == label), None)
    subset = next((_SUBSETS[name] for name in (cell.panel, cell.row) if name in _SUBSETS), None)
    rule = averages[table] if {cell.panel, cell.row} & set(_AVERAGES) else ""
    if system is None or not (subset or rule):
        return None
    value, n, dropped = _measure(evidence, system, subset, metric, rule)
    notes = []
    if reference := cell.note.partition("difference to ")[2]:
        other = next(one for one in evidence.systems if one.printed.get(table) == reference)
        value -= _measure(evidence, other, subset, metric, rule)[0]
        notes.append(f"difference to {reference}")
    status = REPRODUCED if abs(value - cell.value) <= tolerances[metric] + _SLACK else CONTRADICTS
    if (runs := evidence.runs.get(table, 1)) > 1:
        status = ONE_RUN
        notes.append(f"one recorded run; the paper prints the mean of {runs}")
    elif status == CONTRADICTS and rule:
        others = [
            name
            for name in AVERAGES
            if abs(average(evidence, system.name, metric, name) - cell.value) <= tolerances[metric] + _SLACK
        ]
        notes += [f"another average meets it: {name}" for name in others]
    place = (table, cell.panel, cell.row, cell.column, system.name, subset or ALL, metric, rule)
    return (*place, cell.value, value, n, dropped, tolerances[metric], status, "; ".join(notes))


def _measure(
    evidence: Evidence, system: RecordedSystem, subset: str | None, metric: str, rule: str
) -> tuple[float, int, int]:
    """Return a value, how many replies (of image metrics: samples) it stands on, and how many samples have none."""
    of_subsets = [subset] if subset else list(SUBSETS)
    samples = int(sum(evidence.aggregate(system.name, one, "#sample") for one in of_subsets))
    if metric in _RECORDED:
        return evidence.aggregate(system.name, subset, _RECORDED[metric]), samples, 0
    of_system = evidence.replies["system"] == system.name
    replies = evidence.replies[of_system & evidence.replies["subset"].isin(of_subsets)]
    value = replies[metric].mean() if subset else average(evidence, system.name, metric, rule)
    return float(value), len(replies), samples - len(replies)
