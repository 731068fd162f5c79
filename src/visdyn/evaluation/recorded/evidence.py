"""The recorded replies and aggregates, read and checked; their means over subsets and over all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.readers import read_frame
from visdyn.yaml_files import read_yaml

SUBSETS = ("magicbrush", "ag", "something", "whatsup", "kubric")
CRITERIA = ("score", "editing_success", "minimal_editing")
# A metric's name in the recorded files -> the kit's.
IMAGE_METRICS = {"L1": "l1", "CLIP_I": "clip_i", "CLIP_T": "clip_t", "DINO": "dino"}
# How one number is made of five subsets. The paper names no rule.
AVERAGES = ("subsets", "pooled", "pooled_dropped_as_0")
MAX_SCORE = 10


class EvidenceError(ValueError):
    """The recorded numbers disagree with each other; the message names file, system and subset."""


@dataclass(frozen=True)
class RecordedSystem:
    """One recorded file: one run of one system.

    Attributes:
        name: how results call it.
        folder, commit: where the file lies in the authors' repository.
        printed: table (`b_table2`) -> the column that the paper prints for it.
    """

    name: str
    folder: str
    commit: str
    printed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """All recorded numbers.

    Attributes:
        systems: in the order of systems.yaml.
        runs: table -> the number of runs that its printed values are means of, where it is not one.
        replies: one row a reply: system, subset, item, source, and int64 from 0 to 10: score, editing_success,
            minimal_editing.
        aggregates: system, subset (or `all`), metric (as recorded), value (float64).
        items: subset, item, index (in test.json), source (the first item of the subset that shares a photograph).
    """

    systems: tuple[RecordedSystem, ...]
    runs: Mapping[str, int]
    replies: pd.DataFrame
    aggregates: pd.DataFrame
    items: pd.DataFrame

    def aggregate(self, system: str, subset: str, metric: str) -> float:
        """Return a recorded aggregate; KeyError where there is none."""
        return float(self.aggregates.set_index(["system", "subset", "metric"])["value"].loc[system, subset, metric])


def load(folder: str | Path) -> Evidence:
    """Read `data/recorded` and check it against itself.

    Raises:
        EvidenceError: a score outside 0..10; a final score that is not the smaller of the two (B, Figure 10); a reply
            of an unknown system or item, or given twice; a subset whose replies have another mean or number than the
            file's own aggregates.
    """
    folder = Path(folder)
    content = read_yaml(folder / "systems.yaml")
    systems = tuple(RecordedSystem(**entry) for entry in content["systems"])
    items, aggregates = (read_frame(folder / f"{name}.csv", EvidenceError) for name in ("items", "aggregates"))
    replies = read_frame(folder / "replies.csv", EvidenceError).rename(columns={"final_score": "score"})
    replies = replies.merge(items[["subset", "item", "source"]], on=["subset", "item"], how="left", validate="m:1")
    evidence = Evidence(systems, content.get("runs", {}), replies, aggregates, items)
    _check_replies(evidence)
    _check_aggregates(evidence)
    return evidence


def count_replies(evidence: Evidence) -> pd.DataFrame:
    """Return what was asked, what was dropped, and the means over what is left.

    Returns:
        One row a system and subset: system, subset, items (of the benchmark), samples (that the file counts), n
        (replies), dropped (items - n), dropped_items (their numbers within the subset, as text), score,
        editing_success, minimal_editing (means over the replies).
    """
    asked = evidence.items.groupby("subset")["item"].agg(set)
    rows = []
    for system in evidence.systems:
        for subset in SUBSETS:
            found = _of(evidence.replies, system.name, subset)
            dropped = sorted(asked[subset] - set(found["item"]))
            samples = int(evidence.aggregate(system.name, subset, "#sample"))
            counts = (len(asked[subset]), samples, len(found), len(dropped), " ".join(map(str, dropped)))
            rows.append((system.name, subset, *counts, *found[list(CRITERIA)].mean()))
    columns = ["system", "subset", "items", "samples", "n", "dropped", "dropped_items", *CRITERIA]
    return pd.DataFrame(rows, columns=columns)


def average(evidence: Evidence, system: str, criterion: str, rule: str) -> float:
    r"""Return one number for all subsets $s$ with $n_s$ replies $x_{si}$ to $m_s$ samples, by one of `AVERAGES`.

    `subsets`: $\frac15 \sum_s \frac{1}{n_s} \sum_i x_{si}$. `pooled`: $\sum_{si} x_{si} / \sum_s n_s$.
    `pooled_dropped_as_0`: $\sum_{si} x_{si} / \sum_s m_s$, a sample without a reply counting 0.

    Raises:
        ValueError: an unknown rule.
    """
    values = evidence.replies[evidence.replies["system"] == system].groupby("subset")[criterion]
    if rule == "subsets":
        return float(values.mean().mean())
    if rule == "pooled":
        return float(values.sum().sum() / values.size().sum())
    if rule == "pooled_dropped_as_0":
        samples = sum(evidence.aggregate(system, subset, "#sample") for subset in SUBSETS)
        return float(values.sum().sum() / samples)
    raise ValueError(f"unknown average {rule!r}; one of {', '.join(AVERAGES)}")


def compare_averages(evidence: Evidence) -> pd.DataFrame:
    """Return every system's averages by all rules: system, criterion, the rules, recorded (the file's own), n."""
    rows = []
    for system in evidence.systems:
        n = int((evidence.replies["system"] == system.name).sum())
        for criterion in CRITERIA:
            values = [average(evidence, system.name, criterion, rule) for rule in AVERAGES]
            own = evidence.aggregate(system.name, "all", "GPT4o") if criterion == "score" else np.nan
            rows.append((system.name, criterion, *values, own, n))
    return pd.DataFrame(rows, columns=["system", "criterion", *AVERAGES, "recorded", "n"])


def count_scores(evidence: Evidence) -> pd.DataFrame:
    """Return what Figure 11 draws: system, subset, criterion, score (0 to 10), count; zeros too."""
    long = evidence.replies.melt(["system", "subset"], list(CRITERIA), "criterion", "value")
    counts = long.groupby(["system", "subset", "criterion"])["value"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=range(MAX_SCORE + 1), fill_value=0).rename_axis(columns="score")
    return counts.stack().rename("count").reset_index()


def _of(replies: pd.DataFrame, system: str, subset: str) -> pd.DataFrame:
    return replies[(replies["system"] == system) & (replies["subset"] == subset)]


def _check_replies(evidence: Evidence) -> None:
    replies = evidence.replies
    scores = replies[list(CRITERIA)]
    faults = {
        "of a system that systems.yaml does not name": ~replies["system"].isin([one.name for one in evidence.systems]),
        "of an item that items.csv does not have": replies["source"].isna(),
        "given twice": replies.duplicated(["system", "subset", "item"]),
        f"with a score outside 0 to {MAX_SCORE}": ~(scores.ge(0) & scores.le(MAX_SCORE)).all(axis=1),
        "whose final score is not the smaller of the two": replies["score"]
        != replies[["editing_success", "minimal_editing"]].min(axis=1),
    }
    for fault, rows in faults.items():
        if rows.any():
            where = replies[rows].iloc[0]
            raise EvidenceError(
                f"replies.csv has a reply {fault}: {where['system']}, {where['subset']}, item {where['item']}"
            )


def _check_aggregates(evidence: Evidence) -> None:
    for system in evidence.systems:
        for subset in SUBSETS:
            scores = _of(evidence.replies, system.name, subset)["score"]
            mean, count = (evidence.aggregate(system.name, subset, name) for name in ("GPT4o", "#gpt4o_valid"))
            if len(scores) != count or abs(scores.mean() - mean) > 1e-9:
                raise EvidenceError(
                    f"{system.name}, {subset}: {len(scores)} replies of mean {scores.mean():.6f}, but aggregates.csv "
                    f"has {count:.0f} of mean {mean:.6f}"
                )
