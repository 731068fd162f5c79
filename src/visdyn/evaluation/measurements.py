"""Result tables as measurements: who was measured, in which chain, on which item, and what came out.

Result tables have the columns of their stages; claims speak of systems, metrics and items. A *view* turns one table
into rows of: chain, item, cluster (what an item shares with others: its video, where one was cut into several items),
value, and the columns by which a claim picks rows. Columns are of two kinds. *Settings* (system, metric, prompt ...)
must be named by a claim: an average over them would mean nothing. *Groups* (subset, verb ...) divide the items.

    results = Measurements(lambda name: read_columns(name, folder / name))
    results.rows("evaluation/fdm_scores.csv")      # chain, item, cluster, value, system, metric, subset
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import comb

import numpy as np
import pandas as pd

from visdyn.evaluation.metrics.registry import AURORA, DOUNDO, metrics
from visdyn.inference.candidates import KEYS, VERIFIERS, verifiers_of

FIXED = ("copy", "oracle", "shuffled", "blend", "blurred")  # systems that answer the same whatever a chain draws
SELECTORS = (*VERIFIERS, "random", "oracle")
SAMPLED = (1, 2, 3, 4, 8)  # K of Bootstrapping, Figure 4, and 3 of Table 6
_LOWER_IS_BETTER = {one.name for one in metrics(AURORA) if not one.higher_is_better}


class NotMeasuredError(RuntimeError):
    """There are no results that could decide; the message says what is missing."""


@dataclass(frozen=True)
class View:
    """How one result table is read as measurements.

    Attributes:
        table: `<stage>/<file>.csv`.
        scores: another result table, of what the rows of `table` scored; `build` takes both.
        settings, groups: columns by which a claim picks rows (see the module's head).
        build: makes the rows of the declared table.
        system: the setting that names who was measured.
        units: metric -> unit (`score`, `share`, `cosine`, `intensity`, `pixels`, `nats`, `count`).
        drawn: chains drew it; False for what depends on data alone.
        values: permitted values of further settings; None of a column not listed permits any.
    """

    table: str
    settings: tuple[str, ...]
    groups: tuple[str, ...]
    build: Callable[..., pd.DataFrame]
    system: str
    units: dict[str, str]
    drawn: bool = True
    scores: str = ""
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that a claim may name."""
        return (*self.settings, *self.groups)


class Measurements:
    """The results of one run as measurements; each table is read and rearranged once."""

    def __init__(self, read: Callable[[str], pd.DataFrame]) -> None:
        """Take `read`, which returns a result table by name or raises `NotMeasuredError`."""
        self.read, self._rows, self._answers = read, {}, {}

    def rows(self, table: str) -> pd.DataFrame:
        """Return a table's rows: chain (int), item, cluster (str), value (float), given, and its view's columns.

        `given` is what the system itself answered, where the value is only whether that was right.

        Raises:
            NotMeasuredError: there is no such result.
        """
        if table not in self._rows:
            chosen, found = VIEWS[table], self.read(table)
            scores = [self.read(chosen.scores)] if chosen.scores else []
            rows = chosen.build(found if chosen.drawn else found.assign(chain=0), *scores)
            rows = rows if "given" in rows else rows.assign(given=rows["value"])
            self._rows[table] = rows[["chain", "item", "cluster", "value", "given", *chosen.columns]]
        return self._rows[table]

    def answers(self, table: str, system: str) -> dict[int, bytes]:
        """Return everything that a system answered in a table, in one order of rows for all chains: chain -> bytes.

        A chain with one answer throughout is left out: a model that is never right is so in every chain, copied or not.

        Raises:
            NotMeasuredError: there is no such result.
        """
        if (table, system) not in self._answers:
            rows, chosen = self.rows(table), VIEWS[table]
            rows = rows[rows[chosen.system] == system].sort_values(["item", *chosen.columns], kind="stable")
            drawn = {int(chain): pd.util.hash_array(part["given"].to_numpy()) for chain, part in rows.groupby("chain")}
            self._answers[table, system] = {chain: own.tobytes() for chain, own in drawn.items() if np.ptp(own) > 0}
        return self._answers[table, system]


def best_of_k(candidates: pd.DataFrame, selector: str, ks: Sequence[int], metric: str = "score") -> pd.DataFrame:
    """Expected metric of each item when the best of K candidates is chosen by `selector`.

    The expectation is exact over all subsets of K of an item's M candidates: the candidate of rank r (0 = best) is
    chosen with probability C(M-1-r, K-1) / C(M, K). It has less noise than one draw of K and the same mean.

    Args:
        candidates: from `with_scores`.
        selector: one of `VERIFIERS` (`idm` is the paper's), `random`, or `oracle` (the metric itself).
        ks: numbers of candidates, 1 <= k <= M.

    Returns:
        An item a row (index `KEYS`), a K a column; NaN where one that can be chosen has no value.

    Raises:
        ValueError: unknown selector, or an item with fewer than k candidates.
    """
    columns = {**VERIFIERS, "oracle": metric, "random": None}
    if selector not in columns:
        raise ValueError(f"unknown selector {selector!r}; one of {', '.join(SELECTORS)}")
    counts = candidates.groupby(KEYS).size()
    if (counts < max(ks)).any():
        few = counts[counts < max(ks)]
        raise ValueError(f"item {few.index[0]} has {few.min()} candidates, fewer than K = {max(ks)}")
    ordered = candidates.sort_values([*KEYS, "candidate"], kind="stable")
    if columns[selector]:
        upwards = selector == "oracle" and metric in _LOWER_IS_BETTER
        ordered = ordered.sort_values(columns[selector], ascending=upwards, kind="stable")  # unknown ones come last
    items = ordered.groupby(KEYS)
    rank, size = items.cumcount().to_numpy(), items["candidate"].transform("size").to_numpy()
    weighted = {}
    for k in ks:
        chosen = {m: [comb(m - 1 - r, k - 1) / comb(m, k) for r in range(m)] for m in np.unique(size).tolist()}
        weights = np.array([chosen[m][r] for m, r in zip(size, rank, strict=True)]) if columns[selector] else 1 / size
        weighted[k] = (ordered[metric] * weights).where(weights > 0, 0.0)  # what cannot be chosen need not be known
    parts = pd.DataFrame(weighted)
    if selector in VERIFIERS:  # which one it would choose is unknown where it said nothing of a candidate
        parts = parts.mask(ordered[columns[selector]].isna())
    by = [ordered[key] for key in KEYS]
    return parts.groupby(by).sum().mask(parts.isna().groupby(by).any())


def selectors_of(candidates: pd.DataFrame) -> list[str]:
    """Return those of `SELECTORS` that can choose among the candidates."""
    return [*verifiers_of(candidates), "random", "oracle"]


def with_scores(candidates: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Return candidates that were scored, a metric a column; NaN where a score is unknown.

    Args:
        candidates: rows of `verification/candidates.csv`.
        scores: rows of `evaluation/candidate_scores.csv`.
    """
    keys = [*KEYS, "candidate"]
    wide = scores.pivot(index=keys, columns="metric", values="value").reset_index()
    return candidates.merge(wide, on=keys)


def _forward_scores(table: pd.DataFrame) -> pd.DataFrame:
    item = table["subset"] + "/" + table["id"]
    return table.assign(item=item, cluster=item)


def _doundo_scores(table: pd.DataFrame) -> pd.DataFrame:
    # EPIC's narration ids are <participant>_<video>_<number>; one video is one kitchen.
    return table.assign(item=table["id"], cluster=table["id"].str.rpartition("_")[0])


def _preferences(table: pd.DataFrame) -> pd.DataFrame:
    """1 where the reference is strictly likelier than the negative (Bootstrapping, Figure 2), 0 where it is not."""
    keys = ["chain", "model", "definition", "task", "subset", "id"]
    is_reference = table["kind"] == "reference"
    reference = table[is_reference].set_index(keys)["log_likelihood"].rename("reference")
    negatives = table[~is_reference].join(reference, on=keys)
    known = negatives["log_likelihood"].notna() & negatives["reference"].notna()
    value = (negatives["reference"] > negatives["log_likelihood"]).astype(float).where(known)
    item = negatives["subset"] + "/" + negatives["id"]
    return negatives.assign(item=item, cluster=item, value=value, metric="preferred", given=negatives["log_likelihood"])


def _predictions(table: pd.DataFrame) -> pd.DataFrame:
    item = table["subset"] + "/" + table["id"]
    value = (table["reference"].str.lower() == table["prediction"].str.lower()).astype(float)
    return table.assign(item=item, cluster=item, value=value, metric="exact", given=table["prediction"].fillna(""))


def _annotation(table: pd.DataFrame) -> pd.DataFrame:
    """Labels of key-frame pairs: a cell of data set and class is an item, since each chain selects other pairs.

    Metrics of `pairs` = all or selected: `correct` (share of labels that are right, of those known), `log_likelihood`
    (mean, nats a token); and per data set `evenness`, the entropy of the classes' counts over its maximum.
    """
    every = [table.assign(pairs="all"), table[table["selected"] == 1].assign(pairs="selected")]
    table = pd.concat(every, ignore_index=True)
    by = ["chain", "pairs", "dataset"]
    cells = table.groupby([*by, "class"])[["correct", "log_likelihood"]].mean().reset_index()
    parts = [cells.assign(metric=metric, value=cells[metric], item=cells["dataset"] + "/" + cells["class"])
             for metric in ("correct", "log_likelihood")]  # fmt: skip
    classes = table.groupby("dataset")["class"].nunique()
    counts = table.groupby([*by, "class"]).size()
    share = counts / counts.groupby(by).transform("sum")
    entropy = (-share * np.log(share)).groupby(by).sum().rename("value").reset_index()
    entropy["value"] /= entropy["dataset"].map(np.log(classes.clip(lower=2)))
    parts.append(entropy.assign(metric="evenness", item=entropy["dataset"]))
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(cluster=rows["item"])


def _verification(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Best of K by every metric, as is expected of K candidates of the `draw`s together."""
    table = with_scores(table, scores)
    most = table.groupby(KEYS).size().min()
    parts = []
    for metric in [name for name in _UNITS[AURORA] if name in table]:
        for selector in selectors_of(table):
            chosen = best_of_k(table, selector, [k for k in SAMPLED if k <= most], metric)
            chosen = chosen.groupby([name for name in chosen.index.names if name != "draw"]).mean()
            long = chosen.rename_axis(columns="k").stack(future_stack=True).rename("value").reset_index()
            parts.append(long.assign(metric=metric, selector=selector, k=long["k"].astype(str)))
    rows = pd.concat(parts, ignore_index=True)
    item = rows["subset"] + "/" + rows["id"]
    return rows.assign(item=item, cluster=item)


def _spatial(table: pd.DataFrame) -> pd.DataFrame:
    item = table["benchmark"] + "/" + table["id"]
    both = [table.assign(metric="correct", value=table["correct"].astype(float)),
            table.assign(metric="above_chance", value=table["correct"] - table["chance"])]  # fmt: skip
    return pd.concat([one.assign(item=item, cluster=item) for one in both], ignore_index=True)


def _keyframes(table: pd.DataFrame) -> pd.DataFrame:
    item = table["dataset"] + "/" + table["video"]
    return table.assign(item=item, cluster=item, metric="clean_pairs", value=table["num_clean_pairs"].astype(float))


def _judge_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Criteria of judges that answer in words, their repeats averaged, and `score`, the smaller of B's two."""
    keys = ["chain", "judge", "judge_prompt", "paper", "system", "subset", "id", "direction", "reverse_from", "prompt"]
    table = table.rename(columns={"criterion": "metric"})
    both = table[table["metric"].isin(["editing_success", "minimal_editing"])]
    by = [both[key] for key in (*keys, "repeat")]
    least = both["value"].groupby(by).min().mask(both["value"].isna().groupby(by).any())
    rows = pd.concat([table, least.reset_index().assign(metric="score")], ignore_index=True)
    rows = rows.groupby([*keys, "metric"])["value"].mean().reset_index()
    item = rows["subset"] + "/" + rows["id"]
    return rows.assign(item=item, cluster=item)


def _copy_error(table: pd.DataFrame) -> pd.DataFrame:
    parts = [table.assign(metric="l1", value=table["l1"], item=table["subset"]),
             table.assign(metric="l1_error", value=table["l1"] - table["published"], item=table["subset"])]  # fmt: skip
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(cluster=rows["item"], system="copy")


def _test_split(table: pd.DataFrame) -> pd.DataFrame:
    known = table.assign(unseen=table["unseen"].astype(str))
    most = known.groupby(["split", "unseen"])["chosen"].transform("max")
    return known.assign(
        item=known["verb"], cluster=known["verb"], metric="share_of_largest", value=known["chosen"] / most
    )


_UNITS = {bench: {one.name: one.unit for one in metrics(bench)} for bench in (AURORA, DOUNDO)}
_CRITERIA = ("editing_success", "minimal_editing", "score", "IF", "IDP", "TC", "OC")
_KINDS = ("random_action", "random_observation", "copy_observation", "inverse_observation")


def _likelihood_view(table: str) -> View:
    settings = ("model", "metric", "definition", "task", "kind")
    values = {"task": ("fdp", "idp"), "kind": _KINDS}
    return View(table, settings, ("subset",), _preferences, "model", {"preferred": "share"}, values=values)


def _judge_view(table: str) -> View:
    settings = ("judge", "judge_prompt", "paper", "system", "metric", "direction", "reverse_from", "prompt")
    return View(table, settings, ("subset",), _judge_scores, "system", dict.fromkeys(_CRITERIA, "score"))


VIEWS = {
    one.table: one
    for one in (
        View("evaluation/fdm_scores.csv", ("system", "metric"), ("subset",), _forward_scores, "system", _UNITS[AURORA]),
        View(
            "evaluation_doundo/doundo_scores.csv",
            ("system", "metric", "direction", "reverse_from", "prompt"),
            ("verb", "familiarity"),
            _doundo_scores,
            "system",
            _UNITS[DOUNDO],
            values={
                "direction": ("forward", "reverse"),
                "reverse_from": ("", "gt", "generated"),
                "prompt": ("long", "short"),
                "familiarity": ("unseen", "rare", "common"),
            },
        ),
        View("robust/fdm_scores.csv", ("system", "metric"), ("subset",), _forward_scores, "system", _UNITS[AURORA]),
        View(
            "robust/doundo_scores.csv",
            ("system", "metric", "direction", "reverse_from", "prompt"),
            ("verb", "familiarity"),
            _doundo_scores,
            "system",
            _UNITS[DOUNDO],
        ),
        _judge_view("evaluation/judge_scores.csv"),
        _judge_view("evaluation_doundo/judge_scores.csv"),
        _likelihood_view("probing/likelihoods.csv"),
        _likelihood_view("idm_evaluation/likelihoods.csv"),
        View(
            "idm_evaluation/predictions.csv",
            ("model", "metric"),
            ("subset",),
            _predictions,
            "model",
            {"exact": "share"},
        ),
        View(
            "annotation/pairs.csv",
            ("pairs", "metric"),
            ("dataset",),
            _annotation,
            "pairs",
            {"correct": "share", "log_likelihood": "nats", "evenness": "share"},
            values={"pairs": ("all", "selected")},
        ),
        View(
            "verification/candidates.csv",
            ("arm", "metric", "selector", "k"),
            ("subset",),
            _verification,
            "arm",
            _UNITS[AURORA],
            values={"selector": SELECTORS, "k": tuple(map(str, SAMPLED))},
            scores="evaluation/candidate_scores.csv",
        ),
        View(
            "spatial/answers.csv",
            ("model", "metric", "benchmark", "mode", "rule"),
            ("relation",),
            _spatial,
            "model",
            {"correct": "share", "above_chance": "share"},
        ),
        View(
            "mining/keyframes.csv",
            ("mode", "metric"),
            ("dataset",),
            _keyframes,
            "mode",
            {"clean_pairs": "count"},
            drawn=False,
        ),
        View(
            "external/aurora_copy.csv",
            ("system", "metric", "geometry"),
            (),
            _copy_error,
            "system",
            {"l1": "intensity", "l1_error": "intensity"},
            drawn=False,
            values={"geometry": ("paper", "matched")},
        ),
        View(
            "external/test_split.csv",
            ("source", "metric", "split", "unseen"),
            (),
            _test_split,
            "source",
            {"share_of_largest": "share"},
            drawn=False,
        ),
    )
}
