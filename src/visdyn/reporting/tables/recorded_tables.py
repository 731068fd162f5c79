"""What the authors' own recorded replies say of Bootstrapping's tables (results of stage `recorded`)."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from visdyn.reporting.results import Results
from visdyn.reporting.tables import CELL, compare

CELLS = "recorded/cells.csv"


def summary(results: Results) -> pd.DataFrame:
    """Return how many cells of each table have which status: table, tolerance, one column a status, n a cell."""
    cells = results.read(CELLS)
    keys = [cells["table"].str.replace("b_table", "Table "), cells["tolerance"]]
    counts = cells.groupby(keys)["status"].value_counts().unstack(fill_value=0).rename_axis(columns=None)
    n = cells.groupby(keys)["n"].agg(lambda values: f"{values.min()} to {values.max()}")
    return counts.assign(**{"n a cell": n}).reset_index()


def printed_table(name: str) -> Callable[[Results, pd.DataFrame | None, str], pd.DataFrame]:
    """Return the builder of one of the paper's tables (`b_table2`), of the cells that are recorded alone."""

    def build(results: Results, numbers: pd.DataFrame | None, status: str) -> pd.DataFrame:
        cells = results.read(CELLS)
        cells = cells[cells["table"] == name]
        dropped = cells["dropped"].map(lambda count: f"{count} samples without a reply" if count else "")
        rule = cells["average"].where(cells["average"] == "", "average: " + cells["average"])
        notes = ["; ".join(filter(None, texts)) for texts in zip(cells["note"], rule, dropped, strict=True)]
        printed = numbers.merge(cells[CELL], on=CELL)
        return compare(cells.assign(note=notes), printed, status)

    return build


def averages(results: Results) -> pd.DataFrame:
    """Return every system's averages by all rules, and the recorded file's own."""
    return results.read("recorded/averages.csv")


def replies(results: Results) -> pd.DataFrame:
    """Return how many replies there are to each subset's samples, and which items have none."""
    return results.read("recorded/replies.csv")


def pairs(results: Results) -> pd.DataFrame:
    """Return the paired differences of the judge's score over all items, with both tests."""
    paired = results.read("recorded/paired.csv")
    return paired[(paired["metric"] == "score") & (paired["subset"] == "all")].drop(columns=["metric", "subset"])


def gains(results: Results) -> pd.DataFrame:
    """Return by how many per cent one system's average is above another's, with the gain that Table 2 prints."""
    found = results.read("recorded/gains.csv")
    cells = results.read(CELLS)
    means = cells[(cells["table"] == "b_table2") & (cells["subset"] == "all")].set_index("system")["published"]
    printed = 100 * (found["system"].map(means) / found["reference"].map(means) - 1)
    return found.assign(**{"printed percent": printed})


def passes(results: Results) -> pd.DataFrame:
    """Return the judge's printed scores beside the recorded ones where all image metrics agree."""
    return results.read("recorded/passes.csv")


def identity(results: Results) -> pd.DataFrame:
    """Return how many image metrics of each recorded file are those of each column of Table 6, of how many."""
    found = results.read("recorded/identity.csv")
    table = found.pivot(index="system", columns="column", values="equal")
    return table.assign(cells=found.groupby("system")["cells"].max()).rename_axis(columns=None).reset_index()
