"""Figures of *Do-Undo*, as pure functions of results."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from visdyn.evaluation.measurements import FIXED
from visdyn.reporting import names
from visdyn.reporting.figures.style import COLORS, HATCHES, MUTED, bar_style, grouped_bars, heatmap, styled

TOP = 20


@styled
def action_counts(segments: pd.DataFrame, *sources: str) -> Figure:
    """Figure 3: (a) reversible segments of the most frequent verbs, (b) unique nouns of each verb; one row a source.

    Args:
        segments: `mining/segments.csv`, `external/segments.csv`, or both.
        sources: which of its rows (`kitchen-train`, `epic-100-validation`).
    """
    chosen = [_select_source(segments, source) for source in sources]
    verbs = [min(part["verb"].nunique(), TOP) for part in chosen]
    figure = Figure(figsize=(7.6, sum(0.17 * count + 1.1 for count in verbs)))
    grid = figure.subplots(len(sources), 2, squeeze=False, height_ratios=[0.17 * count + 0.6 for count in verbs])
    for (left, right), source, part in zip(grid, sources, chosen, strict=True):
        counts, nouns = _count_by_verb(part).head(TOP), part.groupby("verb")["noun"].nunique()
        nouns, total = nouns.reindex(counts.index), int(part["count"].sum())
        shares = [f"{100 * count / total:.0f}%" for count in counts]
        _draw_bars(left, counts, 0, f"reversible segments (n = {total})", shares)
        _draw_bars(right, nouns, 1, "unique nouns", [str(count) for count in nouns])
        left.set_title(_source_name(source), loc="left")
    return figure


@styled
def benchmark_set(
    segments: pd.DataFrame, prompts: pd.DataFrame, sources: Sequence[str] = ("kitchen-test",), split: str = "test"
) -> Figure:
    """Figure 4: (a) actions of each source, (b) lengths in words of long and short prompts, both directions.

    Args:
        segments: `mining/segments.csv`, `external/segments.csv`, or both.
        prompts: `mining/prompts.csv`.
        sources: which rows of `segments` (`kitchen-test`, `epic-100-validation`), a panel each.
        split: which rows of `prompts`; all where it has none of that split.
    """
    counts = [_count_by_verb(_select_source(segments, source)) for source in sources]
    height = 0.17 * max(map(len, counts), default=0) + 1.2
    figure = Figure(figsize=(3.1 * len(sources) + 3.4, max(3.0, height)))
    *panels, right = figure.subplots(1, len(sources) + 1)
    for axes, source, count in zip(panels, sources, counts, strict=True):
        _draw_bars(axes, count, 0, f"samples (n = {int(count.sum())})", [str(int(number)) for number in count])
        axes.set_title(_source_name(source), loc="left")
    in_split = prompts[prompts["split"] == split] if (prompts["split"] == split).any() else prompts
    _prompt_lengths(right, in_split.groupby(["length", "num_words"])["count"].sum())
    right.set_title(f"{_source_name(in_split['source'].iloc[0])}: prompts", loc="left")
    return figure


@styled
def action_bars(scores: pd.DataFrame) -> Figure:
    """Figure 7: DINO and CLIP-text similarity by action (its number of pairs), forward and reverse, models and copy.

    Whiskers are one standard deviation over chains.

    Args:
        scores: `evaluation_doundo/doundo_scores.csv`, long prompts, reversed from the ground truth.
    """
    scores = scores[scores["prompt"].isin(["long", ""]) & (scores["reverse_from"] != "generated")]
    shown = names.system_order(set(scores["system"]) - {*FIXED} | {"copy"}, names.DOUNDO_SYSTEMS)
    systems = {name: names.doundo_system(name) for name in shown} | {"base": "Bagel (base)"}
    verbs = sorted(scores["verb"].unique())
    counts = scores[scores["direction"] == "forward"].groupby("verb")["id"].nunique()
    figure = Figure(figsize=(max(6.4, 0.62 * len(verbs) + 1.2), 4.6))
    grid = figure.subplots(2, 2, sharex=True)
    for row, (metric, label) in zip(grid, {"dino": "DINO", "clip_t": "CLIP-T"}.items(), strict=True):
        for axes, direction in zip(row, ("forward", "reverse"), strict=True):
            chosen = scores[(scores["metric"] == metric) & (scores["direction"] == direction)]
            chains = chosen.groupby(["verb", "system", "chain"])["value"].mean()
            table = chains.groupby(["verb", "system"]).agg(["mean", "std"]).unstack().reindex(verbs)
            present = [name for name in systems if ("mean", name) in table.columns]
            means = table["mean"][present].rename(columns=systems)
            grouped_bars(axes, means, table["std"][present].rename(columns=systems), base=_axis_floor(means))
            axes.set_ylim(_axis_floor(means), max(axes.get_ylim()[1], _axis_floor(means) + 0.1))
            start = f" (axis from {_axis_floor(means):.1f})" if _axis_floor(means) else ""
            axes.set_title(f"{label}-{direction[0].upper()}{start}")
            axes.set_xticks(range(len(verbs)), [f"{verb} ({counts.get(verb, 0)})" for verb in verbs])
            axes.tick_params(axis="x", rotation=60, labelsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


@styled
def verb_noun_heatmap(segments: pd.DataFrame, *sources: str, most: int = 20) -> Figure:
    """Figure 10: how often each verb and noun occur together, the most frequent of each; one panel a source.

    Args:
        segments: `mining/segments.csv`, `external/segments.csv`, or both.
        sources: which of its rows (`kitchen-train`, `epic-100-validation`).
        most: at most this many verbs and this many nouns.
    """
    joints = [_select_source(segments, source).pivot_table(index="verb", columns="noun", values="count", aggfunc="sum")
              for source in sources]  # fmt: skip
    tables = [
        joint.loc[_largest_names(joint.sum(axis=1), most), _largest_names(joint.sum(axis=0), most)] for joint in joints
    ]
    width = max(len(table.columns) for table in tables)
    rows = [len(table) for table in tables]
    figure = Figure(figsize=(0.42 * width + 2.2, sum(0.3 * count + 1.6 for count in rows)))
    panels = figure.subplots(len(tables), 1, squeeze=False, height_ratios=[0.3 * count + 0.4 for count in rows])[:, 0]
    for axes, source, joint, table in zip(panels, sources, joints, tables, strict=True):
        image = heatmap(axes, table, "{:.0f}", 0, float(table.max().max()))
        axes.tick_params(axis="x", rotation=90)
        figure.colorbar(image, ax=axes, label="reversible segments", shrink=0.9)
        shown = f"{len(table)} of {len(joint)} verbs, {len(table.columns)} of {joint.shape[1]} nouns"
        axes.set_title(f"{_source_name(source)}: {shown}")
    return figure


def _select_source(segments: pd.DataFrame, source: str) -> pd.DataFrame:
    return segments[(segments["source"] == source) & (segments["count"] > 0)]


def _count_by_verb(segments: pd.DataFrame) -> pd.Series:
    return segments.groupby("verb")["count"].sum().sort_values(ascending=False, kind="stable")


def _largest_names(sums: pd.Series, most: int) -> pd.Index:
    return sums.sort_values(ascending=False, kind="stable").index[:most]


def _source_name(source: str) -> str:
    return names.SEGMENT_SOURCES.get(source, source)


def _prompt_lengths(axes, lengths: pd.Series) -> None:
    for place, length in enumerate([name for name in ("short", "long") if name in lengths.index.get_level_values(0)]):
        words = lengths[length]
        mean = (words.index * words).sum() / words.sum()
        axes.bar(words.index, words, 0.9, label=f"{length} (mean {mean:.1f} words)", alpha=0.85, **bar_style(place))
    axes.set(xlabel="words in the prompt", ylabel="prompts")
    axes.set_ylim(0, 1.3 * lengths.max())  # room for the legend
    axes.legend(loc="upper right")


def _draw_bars(axes, counts: pd.Series, place: int, label: str, texts: list[str]) -> None:
    positions = range(len(counts))
    axes.barh(positions, counts, color=COLORS[place], hatch=HATCHES[place], edgecolor="white", linewidth=0.5)
    for position, count, text in zip(positions, counts, texts, strict=True):
        axes.annotate(
            text, (count, position), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7, color=MUTED
        )
    axes.set_yticks(list(positions), counts.index, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)


def _axis_floor(means: pd.DataFrame) -> float:
    """Start of the bars: zero, or a step below the lowest where all are far from it (the axis says so)."""
    low = float(means.min().min()) if means.size else 0.0
    return 0.0 if not low > 0.5 else float(int(low * 10 - 1) / 10)
