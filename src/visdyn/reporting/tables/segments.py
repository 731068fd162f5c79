"""Reversible segments by verb (Do-Undo, Figures 3, 4 and 10): the kitchen's and real EPIC-KITCHENS-100 side by side.

The paper's figures are of its training and test sets, after a quality filter. Segments are counted before it: of the
profile's split, and of the public validation annotations, for which there is no filter (no frames, no VLM). The test
set that a profile draws from EPIC-KITCHENS-100 itself, after its filter, stands in the paper's column.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from visdyn.reporting import names
from visdyn.reporting.results import ResultError, Results
from visdyn.reporting.tables import compare

MINED = "mining/segments.csv"
EXTERNAL = "external/segments.csv"
BALANCED = "external/test_split.csv"
CHOSEN, PAPERS_TEST = "mining/test_split.csv", "paper: test set"
UNFILTERED = {
    "epic-100-validation": "validation annotations without the quality filter; the paper's are its own split after it",
    "epic-100-train": "before the quality filter; the paper's are after it",
    "epic-100-test": "before the quality filter; the paper's are after it",
}


def of_split(results: Results, split: str) -> list[pd.DataFrame]:
    """Return the segments that stand for a split of the paper: the kitchen's `*-<split>`, then the real ones.

    Args:
        split: train or test.

    Returns:
        One or two frames (source, verb, noun, count, reversible_share), each of one source and with count > 0.

    Raises:
        ResultError: no result has such segments.
    """
    mined, real = results.read_or_none(MINED), results.read_or_none(EXTERNAL)
    frames = [] if mined is None else [mined[mined["source"].str.endswith(f"-{split}")]]
    frames += [] if real is None else [real]
    found = [part for frame in frames for _, part in frame[frame["count"] > 0].groupby("source", sort=False)]
    if not found:
        raise ResultError(f"neither {MINED} nor {EXTERNAL} has segments for the {split} set; run stage mining")
    return found


def label(segments: pd.DataFrame) -> str:
    """Return how figures and tables name the source of segments of one source."""
    source = segments["source"].iloc[0]
    return names.SEGMENT_SOURCES.get(source, source)


def totals(splits: Iterable[pd.DataFrame]) -> pd.Series:
    """Return the number of reversible segments of each source."""
    return pd.Series({label(segments): segments["count"].sum() for segments in splits})


def figure3(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Figure 3: share, number and unique nouns of each verb, and the totals, beside what the text prints."""
    splits = of_split(results, "train")
    cells = _share_cells(splits)
    for segments in splits:
        nouns = segments.groupby("verb")["noun"].nunique()
        counts = segments.groupby("verb")["count"].sum()
        cells.append(_make_cell(segments, "(a) number", "reversible segments", counts.sum()))
        cells.append(_make_cell(segments, "(a) number", "actions shown", len(counts)))
        cells += [
            _make_cell(segments, "(a) segments", verb, counts[verb]) for verb in _order_verbs(splits) if verb in counts
        ]
        cells += [
            _make_cell(segments, "(b) unique nouns", verb, nouns[verb])
            for verb in _order_verbs(splits)
            if verb in nouns
        ]
    return _compare_cells(cells, published, status)


def figure4(results: Results, published: pd.DataFrame, status: str) -> pd.DataFrame:
    """Figure 4 (a): samples and actions of the test set, and the share of each verb."""
    splits = of_split(results, "test")
    cells = []
    for segments in splits:
        cells.append(_make_cell(segments, "(a) number", "samples", segments["count"].sum()))
        cells.append(_make_cell(segments, "(a) number", "actions", segments["verb"].nunique()))
    cells += [*_balanced_cells(results), *_chosen_cells(results), *_share_cells(splits)]
    return _compare_cells(cells, published, status)


def _balanced_cells(results: Results) -> list[dict]:
    """What the balanced test set of version 1 could take of the real validation annotations."""
    table = results.read_or_none(BALANCED)
    if table is None:
        return []
    table = table[table["split"] == "v1"]
    seen = table[table["unseen"] == 0]
    shared = {"panel": "(a) number", "column": "EPIC-100, validation, balanced", "n": int(table["available"].sum())}
    note = f"{seen['wanted'].max()} of each of the top 8 and all of the unseen verbs, before the quality filter"
    shared |= {"status": "interpretation", "note": note}
    return [{**shared, "row": row, "value": value} for row, value in _count_chosen(table).items()]


def _chosen_cells(results: Results) -> list[dict]:
    """The test set that this run drew from the paper's own data, beside the printed sizes."""
    table = None if results.setting.data else results.read_or_none(CHOSEN)
    if table is None:
        return []
    first_rule = (table.loc[table["unseen"] == 1, "wanted"] > 0).any()  # the newer one asks for no unseen verb
    shared = {"panel": "(a) number", "column": PAPERS_TEST, "n": int(table["passed"].sum()), "metric": "samples"}
    shared["instrument"] = "" if first_rule else "chosen by another rule than the first version's"
    return [{**shared, "row": row, "value": value} for row, value in _count_chosen(table).items()]


def _count_chosen(table: pd.DataFrame) -> dict[str, float]:
    """Count a balanced test set as the paper does; a verb is represented equally where all that was wanted is there."""
    seen, unseen = table[(table["unseen"] == 0) & (table["wanted"] > 0)], table[table["unseen"] == 1]
    return {
        "samples": float(table["chosen"].sum()),
        "actions represented equally": float((seen["chosen"] == seen["wanted"]).sum()),
        "out-of-distribution actions": float((unseen["chosen"] > 0).sum()),
    }


def _share_cells(splits: list[pd.DataFrame]) -> list[dict]:
    cells = []
    for segments in splits:
        share = 100 * segments.groupby("verb")["count"].sum() / segments["count"].sum()
        verbs = [verb for verb in _order_verbs(splits) if verb in share]
        cells += [_make_cell(segments, "(a) share of samples (%)", verb, share[verb]) for verb in verbs]
    return cells


def _order_verbs(splits: list[pd.DataFrame]) -> list[str]:
    """Verbs by their largest share in any source, so that rare sources do not scatter the common verbs."""
    shares = [part.groupby("verb")["count"].sum() / part["count"].sum() for part in splits]
    largest = pd.concat(shares, axis=1).max(axis=1)
    return list(largest.sort_values(ascending=False, kind="stable").index)


def _make_cell(segments: pd.DataFrame, panel: str, row: str, value: float) -> dict:
    source = segments["source"].iloc[0]
    total = int(segments["count"].sum())
    cell = {"panel": panel, "row": row, "column": label(segments), "value": float(value), "n": total}
    return cell | (
        {"status": "interpretation", "note": UNFILTERED[source]}
        if source in UNFILTERED
        else {"status": None, "note": ""}
    )


def _compare_cells(cells: list[dict], published: pd.DataFrame, status: str) -> pd.DataFrame:
    frame = compare(pd.DataFrame(cells), published, status)
    decimals = frame["panel"].str.contains("%") & frame["published"].isna()
    return frame.assign(digits=frame["digits"].where(~decimals, 1))
