"""Spatial reasoning (Bootstrapping, Table 2, lower part): accuracy in percent, with chance and invalid answers beside.

Values are means over chains, with their spread and interval; one chain has an interval over questions.

The paper decodes greedily and matches leniently, so its rows stand beside our generation mode. Likelihood mode is
ours; on the kitchen the options are captions, chosen from the picture alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from visdyn.evaluation.chains import half_width_over_chains
from visdyn.reporting import names, roster, summaries
from visdyn.reporting.results import Results
from visdyn.reporting.tables.comparison import fewer_items, items_of

ACCURACY = "spatial/accuracy.csv"
PANEL = "Spatial Reasoning (Accuracy)"
BENCHMARKS = {"spatialmqa": "SpatialMQA", "embspatial": "EmbodiedSpatial-Bench", "kitchen": "Kitchen"}
# mode, column of accuracy.csv -> what is added to the row's name; the first is the paper's own protocol.
_ROWS = {
    ("generation", "accuracy"): "",
    ("generation", "strict_accuracy"): ", strict match",
    ("generation", "invalid_rate"): ", unreadable answers (%)",
    ("likelihood_sum", "accuracy"): ", by likelihood",
    ("likelihood_mean", "accuracy"): ", by likelihood per token",
}


def cells(results: Results, published: pd.DataFrame) -> pd.DataFrame:
    """Return our cells of the panel: rows are benchmarks, protocols and chance, columns models; empty if not run.

    Accuracies by the paper's own protocol on its own benchmarks are compared; all else is ours to interpret.
    """
    each = results.read_or_none(ACCURACY)
    if each is None:
        return pd.DataFrame(columns=["panel", "row", "column", "value", "n", "note"])
    accuracy = _over_chains(each)
    labels = published.loc[published["panel"] == PANEL, "column"]
    found = [
        _make_cell(results, entry, mode, measure, labels)
        for (mode, measure) in _ROWS
        for entry in accuracy[accuracy["mode"] == mode].to_dict("records")
    ]
    asked = accuracy.drop_duplicates(["benchmark", "model"]).to_dict("records")
    found += [_chance_cell(entry, labels) for entry in asked]
    return pd.DataFrame(found).assign(panel=PANEL)


def accuracy_table(results: Results) -> pd.DataFrame:
    """Return accuracy.csv for reading: percentages, the interval in one column, models as the paper calls them."""
    each = results.read(ACCURACY)
    accuracy = _over_chains(each)
    percent = {name: 100 * accuracy[name] for name in ("accuracy", "strict_accuracy", "chance", "invalid_rate")}
    constant = 100 * accuracy["constant_accuracy"]
    drawn = zip(accuracy["accuracy_spread"], accuracy["chains"], strict=True)
    half = np.array([half_width_over_chains(spread, chains) for spread, chains in drawn])
    over_chains = pd.DataFrame({"low": accuracy["accuracy"] - half, "high": accuracy["accuracy"] + half})
    bounds = 100 * accuracy[["low", "high"]].where(accuracy["chains"] == 1, over_chains)
    return pd.DataFrame(
        {
            "benchmark": accuracy["benchmark"].map(BENCHMARKS).fillna(accuracy["benchmark"]),
            "mode": accuracy["mode"].str.replace("_", ", "),
            "model": accuracy["model"].map(names.spatial_model),
            "n": accuracy["n"].astype(int),
            "chains": accuracy["chains"],
            "accuracy (%)": percent["accuracy"].round(1),
            "± over chains": (100 * accuracy["accuracy_spread"]).round(1),
            "95 % interval over chains (over questions where there is one)": [
                "" if pd.isna(low) else f"{low:.1f} to {high:.1f}" for low, high in bounds.to_numpy()
            ],
            "strict (%)": percent["strict_accuracy"].round(1),
            "chance (%)": percent["chance"].round(1),
            "p against chance, largest of the chains": accuracy["p_chance"],
            "one answer always (%)": constant.round(1),
            "unreadable (%)": percent["invalid_rate"].round(1),
        }
    )


def with_digits(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a comparison frame whose accuracies that the paper lacks have one decimal, as the printed ones do."""
    ours = (frame["panel"] == PANEL) & frame["published"].isna()
    return frame.assign(digits=frame["digits"].where(~ours, 1))


def _over_chains(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy.csv with one row a model, benchmark and mode; `p_chance` is the largest of the chains'."""
    keys = ["model", "benchmark", "mode"]
    values = ["accuracy", "strict_accuracy", "chance", "invalid_rate", "low", "high", "constant_accuracy"]
    largest = accuracy.groupby(keys, sort=False)["p_chance"].max().reset_index()
    return summaries.of_chains(accuracy, keys, values).merge(largest, on=keys)


def _make_cell(results: Results, entry: dict, mode: str, measure: str, labels: pd.Series) -> dict:
    own = (mode, measure) == ("generation", "accuracy") and entry["benchmark"] != "kitchen"
    single = measure == "accuracy" and entry["chains"] == 1
    note = f"95 % interval {100 * entry['low']:.1f} to {100 * entry['high']:.1f}" if single else ""
    where = {"row": _benchmark_name(entry) + _ROWS[mode, measure], "column": _column_name(entry, labels)}
    counts = {"n": entry["n"], "chains": entry["chains"], "metric": "spatial"}
    if own:  # public questions, whatever world the profile has
        scale = results.differs_in_model("B", entry["model"]) or fewer_items(entry["n"], items_of(entry["benchmark"]))
        counts |= {"scale": scale}
    else:
        counts |= {"instrument": "another protocol"}
    return where | counts | {"value": 100 * entry[measure], "spread": 100 * entry[f"{measure}_spread"], "note": note}


def _chance_cell(entry: dict, labels: pd.Series) -> dict:
    where = {"row": f"{_benchmark_name(entry)}, chance", "column": _column_name(entry, labels)}
    return where | {"value": 100 * entry["chance"], "n": entry["n"], "metric": "spatial",
                    "instrument": "no model", "note": "expected accuracy of drawing an option"}  # fmt: skip


def _benchmark_name(entry: dict) -> str:
    return BENCHMARKS.get(entry["benchmark"], entry["benchmark"])


def _column_name(entry: dict, labels: pd.Series) -> str:
    return roster.printed(entry["model"], "B", labels, names.spatial_model(entry["model"]))
