"""Figures that both papers need: strips of images, training curves, the key-frame comparison."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from visdyn.reporting import names
from visdyn.reporting.figures.style import COLORS, DASHES, MUTED, grouped_bars, styled

STRIP_ORDER = (
    "source",
    "target",
    "copy",
    "zero_shot",
    "base",
    "supervised",
    "synthetic_weighted",
    "doundo",
    "doundo_c",
)
RANKED = "synthetic_weighted"  # whose scores put a gallery's rows in order: C-FDM, Bootstrapping's own model
LONGEST_TEXT = 20  # characters below an image; more would run into the next column
_ABOVE_CAPTION = 17  # points between an image and its column's head: a row's caption stands between them
# How an array's name ends -> what it shows of its system.
_SUFFIXES = {"_forward": "done", "_reverse": "undone", "_of_f": "flow OF-F", "_of_r": "flow OF-R",
             "_epe": "flow error EPE"}  # fmt: skip
HEADS = {"source": "Input", "target": "Ground truth", **names.FDM_SYSTEMS, **names.DOUNDO_SYSTEMS}
HEADS["base"] = "Bagel (base)"  # before fine-tuning: a tiny one trained here, the public one in the paper profile


@styled
def image_strips(arrays: Mapping[str, np.ndarray], max_rows: int = 6, title: str = "") -> Figure:
    """Rows of images: source, target, then one column for each system (Bootstrapping, Figure 6; Do-Undo, Figure 6).

    Args:
        arrays: key -> uint8 images (N, H, W, 3) for `source`, `target` and each system; `captions` (N,) str, and
            optionally `<key>_text` (N,) str, a line printed below that column's images (for example judge scores).
        max_rows: at most this many of the N examples (`choose_rows`).

    Raises:
        ValueError: no images, or columns of different length.
    """
    keys = order_columns(arrays)
    columns = {key: arrays[key] for key in keys}
    count = len(columns[keys[0]])
    chosen = choose_rows(arrays, max_rows)
    captions = arrays.get("captions", np.full(count, "", dtype=str))
    texts = {key: [_break_lines(str(text)) for text in arrays.get(f"{key}_text", [""] * count)] for key in keys}
    lines = max(text.count("\n") for own in texts.values() for text in own)
    figure = Figure(figsize=(1.25 * len(keys) + 0.2, (1.62 + 0.12 * lines) * len(chosen) + 0.4))
    grid = figure.subplots(len(chosen), len(keys), squeeze=False)
    for place, index in enumerate(chosen):
        for axes, key in zip(grid[place], keys, strict=True):
            _show_image(axes, columns[key][index], texts[key][index])
        grid[place][0].set_ylabel("")
        _write_caption(grid[place][0], str(captions[index]))
    for axes, key in zip(grid[0], keys, strict=True):
        axes.set_title(head_column(key), fontsize=8, pad=_ABOVE_CAPTION)
    if title:
        figure.suptitle(title, fontsize=9.5)
    return figure


def order_columns(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the keys of a gallery's images in the order of its columns: source, target, each system and its maps.

    Raises:
        ValueError: no images, or columns of different length.
    """
    columns = {key: array for key, array in arrays.items() if array.ndim == 4}
    if not columns or len({len(array) for array in columns.values()}) != 1:
        raise ValueError(
            f"a strip needs images of equal number in every column, got {[(k, len(a)) for k, a in columns.items()]}"
        )
    return sorted(columns, key=_strip_rank)


def choose_rows(arrays: Mapping[str, np.ndarray], max_rows: int) -> np.ndarray:
    """Return which examples of a gallery are shown, and in which order: at most `max_rows`, evenly spread.

    Where the judge's scores of `RANKED` are known they are spread over the examples from the best to the worst, so that
    failures have the share that they have, and a reader sees where they begin; elsewhere over the examples as they are.
    """
    count = next(len(array) for array in arrays.values() if array.ndim == 4)
    scores = [re.match(r"score (\d+(?:\.\d+)?)", str(text)) for text in arrays.get(f"{RANKED}_text", ())]
    known = bool(scores) and all(scores)
    order = np.argsort([-float(score[1]) for score in scores], kind="stable") if known else np.arange(count)
    return order[np.unique(np.linspace(0, count - 1, min(count, max_rows)).round().astype(int))]


@styled
def training_curves(training: pd.DataFrame, series: str, values: Sequence[str] = ("loss",), smooth: int = 1) -> Figure:
    """Loss against step: one line for each `series` (mean over chains), with the chains' range as a band.

    Args:
        training: columns `series`, chain, step and `values`; an all-empty value column is not drawn.
        smooth: rolling mean over this many logged points.
    """
    values = [value for value in values if training[value].notna().any()]
    figure = Figure(figsize=(3.6 * len(values) + 1.8, 2.9))
    panels = figure.subplots(1, len(values), squeeze=False)[0]
    for axes, value in zip(panels, values, strict=True):
        for place, (name, group) in enumerate(training.groupby(series, sort=False)):
            if group[value].isna().all():  # drawn in another panel
                axes.plot([], [], color=COLORS[place % len(COLORS)], dashes=DASHES[place % len(DASHES)], lw=1.4,
                          label=_system_label(name))  # fmt: skip
                continue
            chains = (
                group.pivot_table(index="step", columns="chain", values=value).rolling(smooth, min_periods=1).mean()
            )
            color = COLORS[place % len(COLORS)]
            axes.plot(
                chains.index,
                chains.mean(axis=1),
                color=color,
                dashes=DASHES[place % len(DASHES)],
                lw=1.4,
                label=_system_label(name),
            )
            axes.fill_between(chains.index, chains.min(axis=1), chains.max(axis=1), color=color, alpha=0.18, lw=0)
        axes.set(xlabel="step", ylabel=value)
    title = "mean and range of chains" if training["chain"].nunique() > 1 else None
    panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), title=title)
    return figure


@styled
def keyframe_modes(keyframes: pd.DataFrame) -> Figure:
    """Left: observations per video by mode and data set, with Table 7's as short lines. Right: share of clean pairs."""
    frame = keyframes.assign(dataset=keyframes["dataset"].map(names.dataset))
    grouped = frame.groupby(["dataset", "mode"], sort=False)
    counts = grouped["num_keyframes"].mean().unstack()
    totals = grouped[["num_clean_pairs", "num_pairs"]].sum()
    clean = (100 * totals["num_clean_pairs"] / totals["num_pairs"].replace(0, np.nan)).unstack()
    figure = Figure(figsize=(7.6, 2.9))
    left, right = figure.subplots(1, 2)
    grouped_bars(left, counts)
    for place, dataset in enumerate(counts.index):
        if dataset in (paper := {"MIT": 2.05, "UCF-101": 3.00, "Kinetics700": 2.71}):
            left.hlines(
                paper[dataset],
                place - 0.46,
                place + 0.46,
                color=MUTED,
                lw=1.2,
                ls="--",
                label="Table 7" if not place else None,
            )
    left.set_ylabel("key-frames per video")
    grouped_bars(right, clean)
    width = 0.8 / max(len(clean.columns), 1)
    for (row, column), share in np.ndenumerate(clean.to_numpy(float)):
        if share == 0:  # a bar of no height
            right.annotate("0", (row - 0.4 + (column + 0.5) * width, 0), ha="center", va="bottom", fontsize=7.5)
    right.set(ylabel="clean pairs (%)", ylim=(0, 100))
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, [label.replace("_", " ") for label in labels], loc="outside lower center", ncols=4)
    return figure


def _strip_rank(key: str) -> tuple[int, str, int]:
    """Order columns: source, target, then each system's plain, forward and reverse image, and its flow maps."""
    suffix = next((end for end in _SUFFIXES if key.endswith(end)), "")
    stem = key.removesuffix(suffix)
    place = STRIP_ORDER.index(stem) if stem in STRIP_ORDER else len(STRIP_ORDER)
    return place, stem, ["", *_SUFFIXES].index(suffix)


def head_column(key: str) -> str:
    """Return what a gallery prints over a column, broken into short lines."""
    for suffix, label in _SUFFIXES.items():
        if key.endswith(suffix):
            stem = key.removesuffix(suffix)
            return f"{textwrap.fill(HEADS.get(stem, names.doundo_system(stem)), 18)}\n{label}"
    return textwrap.fill(HEADS.get(key, names.fdm_system(key)).replace("_", " "), 14)


def _system_label(name: str) -> str:
    return names.FDM_SYSTEMS.get(name, names.doundo_system(name)).replace("_", " ")


def _write_caption(axes, text: str) -> None:
    """Write a row's caption above its first image, outside the layout: a long one would part the columns."""
    above = {"xycoords": "axes fraction", "xytext": (0, 4), "textcoords": "offset points"}
    axes.annotate(text, (0, 1), **above, fontsize=8, annotation_clip=False).set_in_layout(False)


def _break_lines(text: str) -> str:
    parts = text.split(", ") if len(text) > LONGEST_TEXT else [text]
    return "\n".join(textwrap.fill(part, LONGEST_TEXT + 4) for part in parts)


def _show_image(axes, image: np.ndarray, text: str) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    bright = np.median(image[[0, -1]]) > 245  # a flow map, or an image on white: without a frame it has no edge
    for spine in axes.spines.values():
        spine.set(visible=bright, linewidth=0.4)
    if text:
        axes.set_xlabel(text, fontsize=6.5, color=MUTED)
