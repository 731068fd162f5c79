"""One look for all figures: colour-blind safe, legible in grey, and the same bytes on every run.

Figures are made without pyplot's global state; `save` writes PNG and PDF without dates or software tags.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visdyn.reporting import provenance

# Okabe and Ito's palette as in seaborn's "colorblind"; neighbours also differ in lightness, marker, dash and hatch.
COLORS = ("#0173b2", "#de8f05", "#029e73", "#cc78bc", "#56b4e9", "#d55e00", "#949494", "#ca9161", "#222222")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ((None, None), (5, 2), (1.5, 1.5), (5, 2, 1.5, 2), (8, 2), (3, 1), (1, 3), (6, 1, 1, 1, 1, 1), (2, 4))
HATCHES = ("", "///", "...", "\\\\\\", "xx", "++", "--", "oo", "**")
HEATMAP = "cividis"
DIVERGING = "PuOr"  # where the middle means something: a coin's 50 %
INK = "#222222"
MUTED = "#6b6b6b"
_LUMINANCE = (0.2126, 0.7152, 0.0722)

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,
    "savefig.dpi": 160,
}


def styled(plot: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a plot function under the kit's style, whatever the notebook's settings are."""

    @functools.wraps(plot)
    def run(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(RC):
            return plot(*args, **kwargs)

    return run


def line_style(position: int) -> dict:
    """Return colour, marker and dashes of the series at `position`."""
    place = position % len(COLORS)
    return {
        "color": COLORS[place],
        "marker": MARKERS[place],
        "dashes": DASHES[place],
        "markersize": 4.5,
        "linewidth": 1.5,
    }


def bar_style(position: int) -> dict:
    """Return colour and hatch of the bars at `position`; the hatch is drawn in white over the colour."""
    place = position % len(COLORS)
    return {"color": COLORS[place], "hatch": HATCHES[place], "edgecolor": "white", "linewidth": 0.5}


def grouped_bars(axes: Axes, values: pd.DataFrame, errors: pd.DataFrame | None = None, base: float = 0.0) -> None:
    """Draw bars grouped by row, one colour and hatch for each column; `errors` (same shape) as whiskers."""
    width = 0.8 / max(len(values.columns), 1)
    for place, column in enumerate(values.columns):
        x = np.arange(len(values)) - 0.4 + (place + 0.5) * width
        axes.bar(x, values[column] - base, width, bottom=base, label=column, **bar_style(place))
        if errors is not None and errors[column].notna().any():
            axes.errorbar(
                x, values[column], yerr=errors[column].fillna(0), fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.5
            )
    axes.set_xticks(np.arange(len(values)), values.index)
    axes.grid(axis="x", visible=False)


def heatmap(
    axes: Axes, values: pd.DataFrame, form: str, low: float, high: float, colors: str = HEATMAP
) -> matplotlib.image.AxesImage:
    """Draw an annotated heatmap; the text is white on dark and black on light cells, NaN cells stay empty."""
    image = axes.imshow(values.to_numpy(float), cmap=colors, vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values.to_numpy(float)):
        if np.isfinite(value):
            parts = np.array(image.to_rgba(value)[:3])  # sRGB; the text that has the higher contrast by WCAG
            luminance = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ _LUMINANCE
            ink = "white" if luminance < 0.179 else "black"
            axes.text(column, row, form.format(value), ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(values.columns)), values.columns)
    axes.set_yticks(range(len(values.index)), values.index)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def save(
    figure: Figure,
    name: str,
    folder: str | Path,
    inputs: Iterable[str | Path] = (),
    *roots: str | Path,
    edited: str = "",
) -> list[Path]:
    """Write `<name>.png`, `<name>.pdf` and `<name>.json` (hashes of inputs, named relative to a root).

    Two runs over the same inputs write the same bytes: no date, no software tag, no commit.

    Args:
        edited: which inputs were edited since their stages ran (`Results.edited`).

    Returns:
        The three paths.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    with matplotlib.rc_context(RC):
        figure.savefig(png, metadata={"Software": None})
        figure.set_layout_engine("none")  # the layout is found once; the PDF then has the same
        figure.savefig(pdf, metadata={"Creator": None, "Producer": None, "CreationDate": None})
    hashes = provenance.input_hashes(inputs, *roots)
    return [png, pdf, provenance.write_sidecar(folder / f"{name}.json", hashes, edited)]
