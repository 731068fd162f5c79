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

SELECTOR_LABELS = {
    "idm": "IDM (the paper's verifier)",
    "likelihood": "FDM's own likelihood",
    "random": "random",
    "oracle": "oracle",
}
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
        image = heatmap(axes, table.rename(index=names.NEGATIVES), "{:.1f}", 0, 100)
        axes.set_title(f"{names.TASKS.get(task, task)} (n = {int(chosen['n'].min())})")
        axes.tick_params(axis="x", labelrotation=30)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    figure.colorbar(image, ax=list(panels), label="reference preferred (%)", shrink=0.9)
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
    figure = Figure(figsize=(1.35 * count + 0.9, 4.4))
    grid = figure.subplots(3, count, squeeze=False)
    high = weights[:count].max() or 1.0
    for column in range(count):
        for row, image in enumerate((source[column], target[column], _to_grey(target[column]))):
            grid[row][column].imshow(image, interpolation="nearest")
        height, width = target[column].shape[:2]
        shown = grid[2][column].imshow(
            weights[column], cmap=HEATMAP, alpha=0.75, extent=(-0.5, width - 0.5, height - 0.5, -0.5), vmin=0, vmax=high
        )
        grid[2][column].set_xlabel(_wrap_text(str(captions[column]), 18), fontsize=7)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    for axes, label in zip(grid[:, 0], ("source", "target", "weights"), strict=True):
        axes.set_ylabel(label)
    figure.colorbar(shown, ax=list(grid[2]), label="token weight", shrink=0.8)
    return figure


@styled
def verification_curves(
    curves: pd.DataFrame, published: Mapping[str, float] | None = None, arm: str | None = None
) -> Figure:
    """Figure 4: judge score against K for four ways to select, by subset and average; bands are +- one sd over chains.

    Args:
        curves: from `summaries.verification_curves`.
        published: label -> score, drawn as dotted lines in the average's panel.
        arm: only this arm (default: the first).
    """
    arm = arm or curves["arm"].iloc[0]
    curves = curves[curves["arm"] == arm]
    subsets = [*names.system_order(set(curves["subset"]) - {"all"}, names.SUBSETS), "all"]
    columns = min(3, len(subsets))
    rows = -(-len(subsets) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.15 * rows + 0.5))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, subset in zip(panels, subsets, strict=False):
        for place, selector in enumerate(SELECTOR_LABELS):
            line = curves[(curves["subset"] == subset) & (curves["selector"] == selector)].sort_values("k")
            style = line_style(place)
            axes.plot(line["k"], line["value"], label=SELECTOR_LABELS[selector], **style)
            spread = line["spread"].fillna(0)
            axes.fill_between(
                line["k"], line["value"] - spread, line["value"] + spread, color=style["color"], alpha=0.15, lw=0
            )
        axes.set_title("Average" if subset == "all" else names.SUBSETS.get(subset, (subset,))[0])
        axes.set_xscale("log", base=2)
        ks = sorted(curves["k"].unique())
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.minorticks_off()
    for axes in panels[len(subsets) :]:
        axes.set_visible(False)
    for label, value in (published or {}).items():
        panels[len(subsets) - 1].axhline(value, color=MUTED, lw=0.9, ls=":")
        panels[len(subsets) - 1].annotate(label, (ks[0], value), fontsize=7, va="bottom", color=MUTED)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    for axes in panels[max(0, len(subsets) - columns) : len(subsets)]:
        axes.set_xlabel("candidates K")
    figure.supylabel(f"score of {names.FDM_SYSTEMS.get(arm, arm)} (0-10)", fontsize=9)
    return figure


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
        row[0].set_ylabel("share of images (%)" + (f"\n{judge}" if len(judges) > 1 else ""))
    return figure


def _draw_distribution(axes, scores: pd.DataFrame) -> None:
    systems = {"synthetic": "standard loss (C-FDM w/o LW)", "synthetic_weighted": "weighted loss (C-FDM)"}
    edges = np.arange(-0.5, 11.0, 1.0)
    for place, (system, legend) in enumerate(systems.items()):
        own = scores[scores["system"] == system].dropna(subset=["value"])
        chains = [part["value"] for _, part in own.groupby("chain")]
        shares = [np.histogram(values, edges)[0] / len(values) * 100 for values in chains]
        share = np.mean(shares, axis=0) if shares else np.zeros(11)
        mean = f"mean {np.mean([values.mean() for values in chains]):.2f}" if chains else "no scores"
        axes.bar(np.arange(11) + 0.4 * place - 0.2, share, 0.4, label=f"{legend}: {mean}", **bar_style(place))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.24), fontsize=7.5)


def _preferred_share(pairs: pd.DataFrame) -> str:
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
