"""Figures of *Bootstrapping Action-Grounded Visual Dynamics*, as pure functions of results."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from visdyn.reporting import names
from visdyn.reporting.figures.style import (
    COLORS,
    DIVERGING,
    HATCHES,
    HEATMAP,
    INK,
    MARKERS,
    MUTED,
    bar_style,
    heatmap,
    line_style,
    styled,
)

LOSSES = {"synthetic": "standard loss (C-FDM w/o LW)", "synthetic_weighted": "weighted loss (C-FDM)"}
TASK_ORDER = ("fdp", "idp")


@styled
def preference_heatmaps(rates: pd.DataFrame) -> Figure:
    """Figure 2: percentage of items whose reference is preferred, one heatmap for each task, models x negatives.

    Args:
        rates: from `summaries.preference_rates`.
    """
    tasks = [task for task in TASK_ORDER if task in set(rates["task"])]
    several = rates.groupby(["model", "task", "kind"])["definition"].nunique().max() > 1
    rates = rates.assign(label=rates["model"] + ("\n" + rates["definition"] if several else ""))
    width = max(rates[rates["task"] == task]["label"].nunique() for task in tasks)
    figure = Figure(figsize=(max(3.4, 0.9 * width + 1.4) * len(tasks), 2.9))
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        chosen = rates[rates["task"] == task]
        table = chosen.pivot(index="kind", columns="label", values="percent")
        table = table.reindex(
            [kind for kind in names.NEGATIVES if kind in table.index], columns=list(dict.fromkeys(chosen["label"]))
        )
        image = heatmap(axes, table.rename(index=names.NEGATIVES), "{:.1f}", 0, 100, DIVERGING)
        axes.set_title(f"{names.TASKS.get(task, task)} (n = {int(chosen['n'].min())})")
        if width > 2:  # else there is room
            axes.tick_params(axis="x", labelrotation=30)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
    bar = figure.colorbar(image, ax=list(panels), label="reference preferred (%); a coin: 50", shrink=0.9)
    bar.ax.axhline(50, color=INK, lw=1)
    return figure


@styled
def recognition_weights(arrays: Mapping[str, np.ndarray], max_columns: int = 7) -> Figure:
    """Figure 3: source, target, and the weight of every image token over the target.

    Args:
        arrays: source, target uint8 (N, H, W, 3); weights float (N, h, w), any scale; captions (N,) str.
    """
    source, target, weights = arrays["source"], arrays["target"], np.asarray(arrays["weights"], float)
    count = min(len(source), max_columns)
    captions = arrays.get("captions", np.full(count, "", dtype=str))
    figure = Figure(figsize=(1.35 * count + 1.1, 4.6))
    grid = figure.subplots(3, count, squeeze=False)
    high = weights[:count].max() or 1.0
    for column in range(count):
        for row, image in enumerate((source[column], target[column], _to_grey(target[column]))):
            grid[row][column].imshow(image, interpolation="nearest")
        height, width = target[column].shape[:2]
        shown = grid[2][column].imshow(
            weights[column], cmap=HEATMAP, alpha=0.75, extent=(-0.5, width - 0.5, height - 0.5, -0.5), vmin=0, vmax=high
        )
        grid[2][column].set_xlabel(_wrap_text(str(captions[column]), 16), fontsize=8.5)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    for axes, label in zip(grid[:, 0], ("source", "target", "weights"), strict=True):
        axes.set_ylabel(label)
    figure.colorbar(shown, ax=list(grid[2]), label="token weight", aspect=9)
    return figure


@styled
def verification_curves(
    judges: Mapping[str, pd.DataFrame], lines: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None
) -> Figure:
    """Figure 4: a judge's score against K by who chooses; a row for each judge and arm, a column for each subset.

    Bands are +- one standard deviation over chains and draws. The subsets of a row share one axis; the average, which
    the paper's claim is about, has its own, as far as its curves go.

    Args:
        judges: name -> curves from `summaries.verification_curves`.
        lines: judge -> another system -> subset (or `all`) -> its score of the same items: a dotted line, or, beyond
            the panel's axis, a number at its edge.
    """
    rows = [(judge, arm) for judge, curves in judges.items() for arm in _arms_of(curves)]
    named = {subset for curves in judges.values() for subset in curves["subset"]}
    subsets = [*names.system_order(named - {"all"}, names.SUBSETS), "all"]
    figure = Figure(figsize=(1.75 * len(subsets) + 0.8, 2.0 * len(rows) + 0.6))
    grid = figure.subplots(len(rows), len(subsets), squeeze=False, sharex=True)
    for panels, (judge, arm) in zip(grid, rows, strict=True):
        curves = judges[judge][judges[judge]["arm"] == arm]
        by_subset = curves["subset"] != "all"
        for axes, subset in zip(panels, subsets, strict=True):
            title = "Average" if subset == "all" else names.SUBSETS.get(subset, (subset,))[0]
            _draw_choices(axes, curves[curves["subset"] == subset], title)
            axes.set_ylim(_curve_limits(curves[~by_subset if subset == "all" else by_subset]))
            axes.tick_params(axis="y", labelleft=subset in (subsets[0], "all"))
            _draw_levels(axes, {name: level.get(subset) for name, level in (lines or {}).get(judge, {}).items()})
        panels[0].set_ylabel(f"{names.fdm_system(arm)}: score of\n{judge} (0 to 10)")
    _label_choices(figure, grid)
    return figure


@styled
def verification_metrics(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Every metric against K by who chooses, mean of the subsets; a row for each arm, a column for each metric.

    Bands as in `verification_curves`; each metric has its own scale.

    Args:
        curves: metric's head -> curves from `summaries.verification_curves`.
    """
    arms = _arms_of(pd.concat(curves.values()))
    figure = Figure(figsize=(1.85 * len(curves) + 0.6, 2.0 * len(arms) + 0.6))
    grid = figure.subplots(len(arms), len(curves), squeeze=False, sharex=True)
    for panels, arm in zip(grid, arms, strict=True):
        for axes, (metric, table) in zip(panels, curves.items(), strict=True):
            own = table[(table["arm"] == arm) & (table["subset"] == "all")]
            _draw_choices(axes, own, metric.replace(", by ", ",\nby "))
        panels[0].set_ylabel(names.fdm_system(arm))
    _label_choices(figure, grid)
    return figure


def _arms_of(curves: pd.DataFrame) -> list[str]:
    return names.system_order(curves["arm"], names.FDM_SYSTEMS)


def _draw_choices(axes, curves: pd.DataFrame, title: str) -> None:
    for place, selector in enumerate(names.SELECTORS):
        line, style = curves[curves["selector"] == selector].sort_values("k"), line_style(place)
        if len(line):
            axes.plot(line["k"], line["value"], label=names.SELECTORS[selector], **style)
            spread = line["spread"].fillna(0)
            low, high = line["value"] - spread, line["value"] + spread
            axes.fill_between(line["k"], low, high, color=style["color"], alpha=0.15, lw=0)
    counts = sorted(set(curves["n"].astype(int)))
    axes.set_title(f"{title} (n = {' to '.join(map(str, sorted({counts[0], counts[-1]})))})" if counts else title)
    ks = sorted(curves["k"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()


def _curve_limits(curves: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of an axis that holds the curves and their bands, with some room."""
    spread = curves["spread"].fillna(0)
    low, high = (curves["value"] - spread).min(), (curves["value"] + spread).max()
    room = 0.12 * (high - low) or 0.5
    return low - room, high + room


def _draw_levels(axes, levels: Mapping[str, float | None]) -> None:
    low, high = axes.get_ylim()
    known = {name: level for name, level in levels.items() if level is not None}
    for name, level in known.items():
        if low <= level <= high:
            axes.axhline(level, color=MUTED, lw=0.9, ls=":")
            # Below its line, where a line near the upper edge leaves the panel's title alone.
            side = "top" if level - low > 0.1 * (high - low) else "bottom"
            axes.annotate(name, (1, level), fontsize=7, va=side, color=MUTED)
    for edge, mark, outside in (("top", "↑", lambda level: level > high), ("bottom", "↓", lambda level: level < low)):
        text = "\n".join(f"{mark} {name} {level:.1f}" for name, level in known.items() if outside(level))
        axes.text(0.02, float(edge == "top"), text, transform=axes.transAxes, fontsize=7, va=edge, color=MUTED)


def _label_choices(figure: Figure, grid: np.ndarray) -> None:
    handles = {label: handle for axes in grid.ravel()
               for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
    figure.legend(handles.values(), handles, title="chosen by", loc="outside lower center", ncols=len(handles))
    for axes in grid[-1]:
        axes.set_xlabel("candidates K")


@styled
def likelihood_scatter(pairs: pd.DataFrame, model: str | None = None) -> Figure:
    """Figures 7 and 8: NLL of the reference against each negative; top row IDP, bottom row FDP, percentage above.

    Args:
        pairs: from `summaries.preference_pairs`; with several definitions the first of each task is drawn, and of
            several chains the first.
        model: only this model (default: the first).
    """
    pairs = pairs[pairs["model"] == (model or pairs["model"].iloc[0])].dropna(subset=["reference", "negative"])
    pairs = pairs[pairs["chain"] == pairs["chain"].min()]
    tasks = [task for task in reversed(TASK_ORDER) if task in set(pairs["task"])]
    figure = Figure(figsize=(9.2, 2.5 * len(tasks)))
    grid = figure.subplots(len(tasks), len(names.NEGATIVES), squeeze=False)
    for row, task in zip(grid, tasks, strict=True):
        chosen = pairs[pairs["task"] == task]
        chosen = chosen[chosen["definition"] == chosen["definition"].iloc[0]]
        for place, (axes, kind) in enumerate(zip(row, names.NEGATIVES, strict=True)):
            _draw_scatter(axes, chosen[chosen["kind"] == kind], place)
            axes.set_title(f"{names.NEGATIVES[kind]}: {_preferred_share(chosen[chosen['kind'] == kind])}")
        row[0].set_ylabel(f"{task.upper()}: NLL of negative")
    for axes in grid[-1]:
        axes.set_xlabel("NLL of reference")
    return figure


@styled
def score_distributions(pairs: pd.DataFrame) -> Figure:
    """Figure 9: log-likelihoods of the first chain's selected pairs by action class, one panel for each data set."""
    selected = pairs[(pairs["selected"] == 1) & (pairs["chain"] == pairs["chain"].min())]
    selected = selected.assign(dataset=selected["dataset"].map(names.dataset))
    sets = list(dict.fromkeys(selected["dataset"]))
    classes = [sorted(selected[selected["dataset"] == name]["class"].unique()) for name in sets]
    figure = Figure(figsize=(max(2.4, 0.28 * max(map(len, classes), default=1) + 1) * len(sets), 3.0))
    panels = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for place, (axes, name, labels) in enumerate(zip(panels, sets, classes, strict=True)):
        groups = [
            selected[(selected["dataset"] == name) & (selected["class"] == label)]["log_likelihood"] for label in labels
        ]
        boxes = axes.boxplot(
            groups, patch_artist=True, widths=0.65, medianprops={"color": INK}, flierprops={"markersize": 2}
        )
        for box in boxes["boxes"]:
            box.set(
                facecolor=COLORS[place % len(COLORS)], alpha=0.75, hatch=HATCHES[place % len(HATCHES)], edgecolor=MUTED
            )
        axes.set_xticks(range(1, len(labels) + 1), labels, rotation=90, fontsize=7)
        axes.set_title(f"{name} (n = {sum(map(len, groups))})")
    panels[0].set_ylabel("IDM log-likelihood\n(mean nats per token)")
    return figure


@styled
def judge_distributions(judges: Mapping[str, pd.DataFrame]) -> Figure:
    """Figure 11: distribution of editing success and minimal editing, standard against recognition-weighted loss.

    A bar is the mean of the chains' shares.

    Args:
        judges: judge -> its scores (system, chain, metric, value), one row of panels each; the systems `synthetic`
            (standard) and `synthetic_weighted` are drawn.
    """
    metrics = {"editing_success": "editing success (ES)", "minimal_editing": "minimal editing (ME)"}
    figure = Figure(figsize=(7.4, 2.9 * len(judges)))
    grid = figure.subplots(len(judges), 2, sharey="row", squeeze=False)
    for row, (judge, scores) in zip(grid, judges.items(), strict=True):
        for axes, (metric, label) in zip(row, metrics.items(), strict=True):
            _draw_distribution(axes, scores[scores["metric"] == metric])
            axes.set(xlabel=label, xticks=range(0, 11, 2))
        row[0].set_ylabel(f"share of images (%)\n{judge}")
    return figure


def _draw_distribution(axes, scores: pd.DataFrame) -> None:
    edges = np.arange(-0.5, 11.0, 1.0)
    for place, (system, legend) in enumerate(LOSSES.items()):
        own = scores[scores["system"] == system].dropna(subset=["value"])
        chains = [part["value"] for _, part in own.groupby("chain")]
        shares = [np.histogram(values, edges)[0] / len(values) * 100 for values in chains]
        share = np.mean(shares, axis=0) if shares else np.zeros(11)
        mean = f"mean {np.mean([values.mean() for values in chains]):.2f}" if chains else "no scores"
        axes.bar(np.arange(11) + 0.4 * place - 0.2, share, 0.4, label=f"{legend}: {mean}", **bar_style(place))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.24), fontsize=7.5)


def _preferred_share(pairs: pd.DataFrame) -> str:
    pairs = pairs.dropna(subset=["reference", "negative"])
    share = 100 * (pairs["reference"] > pairs["negative"]).mean() if len(pairs) else float("nan")
    return f"{share:.1f} % of {len(pairs)}"


def _draw_scatter(axes, pairs: pd.DataFrame, place: int) -> None:
    reference, negative = -pairs["reference"], -pairs["negative"]
    axes.scatter(reference, negative, s=11, color=COLORS[place], marker=MARKERS[place], alpha=0.6, lw=0)
    values = pd.concat([reference, negative])
    if len(values):
        limits = [values.min(), values.max()]
        axes.plot(limits, limits, color=MUTED, lw=0.8, ls="--")


def _to_grey(image: np.ndarray) -> np.ndarray:
    grey = image.mean(axis=-1, keepdims=True)
    return np.repeat(grey, 3, axis=-1).astype(np.uint8)


def _wrap_text(text: str, width: int) -> str:
    return textwrap.fill(text, width)
