"""Figures of the authors' recorded replies."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from visdyn.reporting.figures.bootstrapping_figures import judge_distributions
from visdyn.reporting.figures.style import COLORS, INK, styled

# Names of the kit's arms in Figure 11 -> the recorded systems.
_LOSSES = {"C-FDM w/o LW": "synthetic", "C-FDM": "synthetic_weighted"}


@styled
def paired_differences(paired: pd.DataFrame, metric: str = "score", subset: str = "all") -> Figure:
    """Draw the paired differences of every two systems with their intervals, and how often the first wins.

    Args:
        paired: rows of `recorded/paired.csv`.
        metric, subset: which of them.
    """
    shown = paired[(paired["metric"] == metric) & (paired["subset"] == subset)].iloc[::-1]
    places = np.arange(len(shown))
    figure = Figure(figsize=(7.0, 0.6 + 0.24 * len(shown)))
    axes = figure.subplots()
    bounds = np.abs(shown[["low", "high"]].to_numpy().T - shown["difference"].to_numpy())
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.errorbar(shown["difference"], places, xerr=bounds, fmt="o", color=COLORS[0], markersize=4, linewidth=1.2)
    for place, row in zip(places, shown.itertuples(), strict=True):
        axes.text(
            1.01, place, f"{row.wins} / {row.ties} / {row.losses}", transform=axes.get_yaxis_transform(), va="center"
        )
    axes.text(1.01, len(shown) - 0.3, "wins / ties / losses", transform=axes.get_yaxis_transform(), va="bottom")
    axes.set_yticks(places, [f"{row.system} − {row.reference}" for row in shown.itertuples()])
    axes.set(xlabel=f"difference of the judge's {metric.replace('_', ' ')} (0 to 10), 95 % interval")
    axes.grid(axis="y", visible=False)
    return figure


def draw_figure11(histograms: pd.DataFrame) -> Figure:
    """Draw Figure 11 from the recorded replies: rows of `recorded/histograms.csv`, all subsets together."""
    counts = histograms[histograms["system"].isin(_LOSSES)].groupby(["system", "criterion", "score"])["count"].sum()
    counts = counts.reset_index()
    scores = counts.loc[counts.index.repeat(counts["count"])]
    scores = pd.DataFrame(
        {"system": scores["system"].map(_LOSSES), "chain": 0, "metric": scores["criterion"], "value": scores["score"]}
    )
    return judge_distributions({"GPT-4o, as recorded": scores})
