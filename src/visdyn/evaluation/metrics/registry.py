"""Every metric of the evaluation: its name, which way is better, its unit, its instrument, and how a table prints it.

Benchmarks, leaderboard, accounts and tables read these entries. To add a metric that compares a predicted image with
the true one, write a function `(prediction, target) -> float` in a file of its own and add an entry with `compute`
below: every benchmark it names then scores it, and the leaderboard, `measures.csv` and the tables know it. One of your
own package is a `Metric` that an entry point of group `visdyn.metrics` names (`visdyn.plugins`); it comes last.

    metric("l1_paper", AURORA).higher_is_better   # False
    metric("dino", DOUNDO).heading("reverse")     # "DINO-R"
    metric("epe", DOUNDO).heading("reverse")      # "EPE, px": one value for both directions together
    [entry.name for entry in metrics(AURORA)]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import pandas as pd

from visdyn.evaluation.metrics.similarity import l1
from visdyn.images import ImageRef
from visdyn.plugins import PluginError, import_file, installed

AURORA, DOUNDO, LABELS = "aurora", "doundo", "labels"  # images of B, images of D, action texts of B's Table 1
PAPERS = {AURORA: "B", DOUNDO: "D", LABELS: "B"}
# What measures: the region judge compares with the true image; CLIP and DINO are encoders that the parameters name.
REGION, CLIP, DINO, PIXELS, FLOW, TEXT = "region judge", "clip", "dino", "pixels", "optical flow", "text"
CLASSIFIER = "action classifier"


@dataclass(frozen=True)
class Metric:
    """One metric of one benchmark.

    Attributes:
        name: in result tables (column `metric`).
        bench: `aurora`, `doundo`, or `labels` (the IDM's action texts).
        higher_is_better: which way a table ranks.
        unit: of a value: `score` (0 to 10), `share` (0 to 1, of items or of a length), `cosine` (-1 to 1),
            `intensity` (mean absolute difference of pixels in [0, 1]) or `pixels` (a length).
        measured_with: instrument: `region judge`, `clip`, `dino`, `pixels`, `optical flow`, `action classifier` or
            `text`.
        printed_as: head of its column, as the paper prints it where it does.
        each_direction: measured for doing and for undoing; its heading then ends in -F or -R.
        interpretation: the paper leaves open how it was computed, and no code shows it.
        needs_states: has a value only where the reachable end states are known (the kitchen).
        note: what a reader of a value must know; empty otherwise.
        compute: compares a predicted image with the true one (any sizes); None where the benchmark computes the metric
            in batches or from more than the two.
    """

    name: str
    bench: str
    higher_is_better: bool
    unit: str
    measured_with: str
    printed_as: str
    each_direction: bool = False
    interpretation: bool = False
    needs_states: bool = False
    note: str = ""
    compute: Callable[[ImageRef, ImageRef], float] | None = None

    @property
    def paper(self) -> str:
        """B or D, as result tables name the papers; a benchmark of the user's own names itself."""
        return PAPERS.get(self.bench, self.bench)

    def heading(self, direction: str = "") -> str:
        """Return the head of its column for images of one direction (`forward`, `reverse`; empty: neither)."""
        suffix = {"forward": "-F", "reverse": "-R"}.get(direction, "") if self.each_direction else ""
        return self.printed_as + suffix


_METRICS: dict[tuple[str, str], Metric] = {}


def register(entry: Metric) -> Metric:
    """Add a metric; its benchmark scores it and its tables print it.

    Raises:
        ValueError: an unknown benchmark, or a second metric of one name in a benchmark.
    """
    if entry.bench not in PAPERS:
        raise ValueError(f"metric {entry.name!r} names benchmark {entry.bench!r}; one of {', '.join(PAPERS)}")
    if (entry.bench, entry.name) in _METRICS:
        raise ValueError(f"benchmark {entry.bench} has a metric {entry.name!r} already; give this one another name")
    _METRICS[entry.bench, entry.name] = entry
    return entry


def register_file(file: str, bench: str) -> int:
    """Register what a file of the user's own holds for a benchmark, once a process; return how many metrics it holds.

    Raises:
        PluginError: there is no such file, or it cannot be imported.
        ValueError: as `register`.
    """
    entries = [one for one in vars(import_file(file)).values() if isinstance(one, Metric) and one.bench == bench]
    for entry in entries:
        if entry not in metrics(bench):
            register(entry)
    return len(entries)


def metric(name: str, bench: str) -> Metric:
    """Return one metric.

    Raises:
        KeyError: no such metric.
    """
    _add_installed()
    if (bench, name) not in _METRICS:
        raise KeyError(f"benchmark {bench} has no metric {name!r}; add it to visdyn.evaluation.metrics.registry")
    return _METRICS[bench, name]


def metrics(bench: str, measured_with: str | None = None) -> list[Metric]:
    """Return a benchmark's metrics, or those of one instrument, in the order in which tables print them."""
    _add_installed()
    return [
        entry for entry in _METRICS.values() if entry.bench == bench and measured_with in (None, entry.measured_with)
    ]


@cache
def _add_installed() -> None:
    """Register what installed packages offer, once a process; a benchmark of theirs is called as its entry point."""
    PAPERS.update({name: name for name in installed("benches") if name not in PAPERS})
    for name, entry in installed("metrics").items():
        if not isinstance(entry, Metric):
            raise PluginError(f"entry point {name} of group visdyn.metrics names {entry!r}, which is no Metric")
        register(entry)


def bench_of(paper: str) -> str:
    """Return the image benchmark of a paper: `aurora` for B, `doundo` for D."""
    return next(bench for bench, of in PAPERS.items() if of == paper)


# The columns of Do-Undo's newer version, (metric, direction) -> head; it prints A and N in percent.
NEWER_COLUMNS = {
    ("dino", "forward"): "DINO-F", ("dino", "reverse"): "DINO-R", ("clip_prompt", "forward"): "CLIP",
    ("action_accuracy", "forward"): "A-F", ("action_accuracy", "reverse"): "A-R",
    ("noun_accuracy", "forward"): "N-F", ("noun_accuracy", "reverse"): "N-R",
    ("epe_f", "forward"): "EPE-F", ("epe_r", "reverse"): "EPE-R",
}  # fmt: skip


def newer_values(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scores (columns metric, direction, value) that the newer version prints, in its units, by `column`."""
    column = pd.Series([NEWER_COLUMNS.get(key) for key in zip(scores["metric"], scores["direction"], strict=True)],
                       scores.index, dtype=object)  # fmt: skip
    percent = column.isin(["A-F", "A-R", "N-F", "N-R"]).map({True: 100.0, False: 1.0})
    return scores.assign(column=column, value=scores["value"] * percent).dropna(subset=["column"])


# Bootstrapping: Table 6's columns in the paper's order, then the kit's own.
for entry in (
    Metric("l1_paper", AURORA, False, "intensity", PIXELS, "L1", compute=partial(l1, geometry="paper")),
    Metric("clip_i", AURORA, True, "cosine", CLIP, "CLIP-I"),
    # The paper does not say of which image its caption is: of the target here, of the edited image in `clip_t_edited`.
    Metric("clip_t", AURORA, True, "cosine", CLIP, "CLIP-T"),
    Metric("dino", AURORA, True, "cosine", DINO, "DINO"),
    Metric("score", AURORA, True, "score", REGION, "Region judge"),
    Metric(
        "l1_matched", AURORA, False, "intensity", PIXELS, "L1, matched crop", compute=partial(l1, geometry="matched")
    ),
    Metric("success", AURORA, True, "share", REGION, "Success", needs_states=True),
    Metric("copied", AURORA, False, "share", REGION, "Copied", needs_states=True),
    Metric("editing_success", AURORA, True, "score", REGION, "ES"),
    Metric("minimal_editing", AURORA, True, "score", REGION, "ME"),
    Metric("clip_t_edited", AURORA, True, "cosine", CLIP, "CLIP-T, caption of the edited image"),
    # Do-Undo: Tables 1 and 5 in the paper's order, then the kit's own.
    Metric("dino", DOUNDO, True, "cosine", DINO, "DINO", each_direction=True),
    Metric("clip_t", DOUNDO, True, "cosine", CLIP, "CLIP-T", each_direction=True),
    Metric(
        "epe_norm",
        DOUNDO,
        False,
        "share",
        FLOW,
        "EPE, share of the side",
        interpretation=True,
        note="epe as a share of the longer side",
    ),
    Metric(
        "epe",
        DOUNDO,
        False,
        "pixels",
        FLOW,
        "EPE, px",
        interpretation=True,
        note="first version's prose, no code released; in pixels",
    ),
    Metric(
        "of_f",
        DOUNDO,
        False,
        "pixels",
        FLOW,
        "OF-F",
        interpretation=True,
        note="first version's prose, no code released; in pixels",
    ),
    Metric(
        "of_f_norm",
        DOUNDO,
        False,
        "share",
        FLOW,
        "OF-F, share",
        interpretation=True,
        note="of_f as a share of the size",
    ),
    Metric("epe_f", DOUNDO, False, "pixels", FLOW, "EPE-F"),
    Metric("epe_r", DOUNDO, False, "pixels", FLOW, "EPE-R"),
    # The newer version's action classifier.
    Metric("action_accuracy", DOUNDO, True, "share", CLASSIFIER, "A", each_direction=True),
    Metric("noun_accuracy", DOUNDO, True, "share", CLASSIFIER, "N", each_direction=True),
    Metric("l1", DOUNDO, False, "intensity", PIXELS, "L1", each_direction=True, compute=l1),
    Metric("returned", DOUNDO, True, "share", REGION, "Returned", needs_states=True),
    Metric("joint", DOUNDO, True, "share", REGION, "Did and returned", needs_states=True),
    Metric("editing_success", DOUNDO, True, "score", REGION, "IF", each_direction=True),
    Metric("minimal_editing", DOUNDO, True, "score", REGION, "IDP", each_direction=True),
    Metric("score", DOUNDO, True, "score", REGION, "Region judge", each_direction=True),
    Metric("success", DOUNDO, True, "share", REGION, "Success", each_direction=True, needs_states=True),
    Metric("copied", DOUNDO, False, "share", REGION, "Copied", each_direction=True, needs_states=True),
    Metric("clip_t_edited", DOUNDO, True, "cosine", CLIP, "CLIP-T, caption of the edited image", each_direction=True),
    # In the newer version's code CLIP compares the forward image with the forward prompt, cut to 77 tokens.
    Metric("clip_prompt", DOUNDO, True, "cosine", CLIP, "CLIP, prompt"),
    # The IDM's action texts (Bootstrapping, Table 1). BLEU is BLEU-4: the paper does not say which order it prints.
    Metric("rouge1", LABELS, True, "share", TEXT, "R-1"),
    Metric("rougeL", LABELS, True, "share", TEXT, "R-L"),
    Metric("bleu", LABELS, True, "share", TEXT, "BLEU"),
    Metric("bleu1", LABELS, True, "share", TEXT, "BLEU-1"),
    Metric("bleu2", LABELS, True, "share", TEXT, "BLEU-2"),
    Metric("bleu3", LABELS, True, "share", TEXT, "BLEU-3"),
    Metric("exact", LABELS, True, "share", TEXT, "Exact match"),
    Metric("bert_score", LABELS, True, "cosine", TEXT, "BS"),
    Metric(
        "embedding",
        LABELS,
        True,
        "cosine",
        TEXT,
        "Text similarity",
        note="similarity of a small text encoder, not BERTScore",
    ),
):
    register(entry)
