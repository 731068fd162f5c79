"""The papers' claims, and the rule by which results decide about each.

`data/published/claims.yaml` says of every claim what is measured, over what, on which side of which smallest effect it
must lie, and by what evidence it can be tested: `kitchen` (the embedded world), `recorded` (the authors' own recorded
judge scores) or `real` (a run with real weights and data). Nothing here names a claim. The rule:

    holds         the whole interval lies on the claimed side of the smallest effect that matters
    fails         the whole interval lies on the other side of it
    undecided     the interval has both, or is unknown because there is one chain
    not measured  there is no result; what it takes is said

A claim of several contrasts (against every rival, in every subset) holds where all do and fails where one does. The
interval is that of `chains.py`, at 95 %, so an effect of exactly the smallest size is called `holds` in at most 2.5 of
100 runs, and no effect more rarely. Nothing is corrected for the number of claims.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.evaluation.chains import Estimate, equal_chains, estimate_over_chains, estimate_over_items
from visdyn.evaluation.measurements import FIXED, VIEWS, Measurements, NotMeasuredError, View
from visdyn.params.reading import ParamsError, from_mapping
from visdyn.yaml_files import read_yaml

VERDICTS = ("holds", "fails", "undecided", "not measured")
KINDS = ("kitchen", "recorded", "real")
SIDES = ("above", "below", "within")
# Where every chain's base model answers the same questions: equal answers mean one base, whatever was trained on it.
BASES = {"B": ("probing/likelihoods.csv", "base"), "D": ("evaluation_doundo/doundo_scores.csv", "base")}


class ClaimError(ValueError):
    """claims.yaml is not consistent, with itself or with the results; the message names the claim and the fault."""


@dataclass(frozen=True)
class Published:
    """What the paper printed for a claim: the mean of cells of data/published, less the mean of others.

    Attributes:
        plus, minus: cells as `table | panel | row | column`; `*` stands for every one.
        times: turns the printed unit into the claim's (0.01 for per cent).
        note: where it is another measure than ours.
    """

    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()
    times: float = 1.0
    note: str = ""


@dataclass(frozen=True)
class ClaimTest:
    """How one kind of evidence decides a claim.

    Attributes:
        statistic: a key of `STATISTICS`: `mean` of the rows `of`; `difference`, rows `of` less rows `against`, paired
            by chain and item; `slope` of `of` for each doubling of the column `over`; or `given`, where the table holds
            the estimate and its interval. Empty where the kit cannot measure it: `needs` then says what it takes.
        table: result table, read through its view (`measurements.py`), or as it is for `given`.
        where: settings that both sides share: column -> value, list of values, or "*" for all of them.
        of: settings of the side that the claim is about.
        against: settings of each rival.
        against_table: another table for the rivals, which then share no `where`; "" is `table`.
        by: a column; the claim must hold in each of its groups. "" pools them.
        over: the column of `slope`.
        neutral: the value that says nothing, such as chance; effects are counted from it.
        side: `above`, `below`, or `within` the smallest effect either side of `neutral`.
        smallest: the smallest effect that would matter; None: that of the metric's unit, from the file's head.
        drawn: False where no chain drew it, such as public weights that are probed as they are.
        needs: what it takes to measure it.
        note: what a reader must know of this evidence.
    """

    statistic: str = ""
    table: str = ""
    where: dict = field(default_factory=dict)
    of: dict = field(default_factory=dict)
    against: tuple[dict, ...] = ()
    against_table: str = ""
    by: str = ""
    over: str = ""
    neutral: float = 0.0
    side: str = "above"
    smallest: float | None = None
    drawn: bool = True
    needs: str = ""
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Attributes:
        id: `b_synthetic_helps`: paper and a few words.
        place: table, figure or section where it stands.
        claim: what it says, in our words.
        published: the printed effect, None where the paper prints no number for it.
        leads: whether the paper leads with it: its abstract says so, or it is what a section is about.
        kitchen, recorded, real: how each kind of evidence decides it; None where it cannot.
    """

    id: str
    place: str
    claim: str
    published: Published | None = None
    leads: bool = False
    kitchen: ClaimTest | None = None
    recorded: ClaimTest | None = None
    real: ClaimTest | None = None

    @property
    def paper(self) -> str:
        """B (Bootstrapping) or D (Do-Undo)."""
        return self.id[:1].upper()

    @property
    def tests(self) -> dict[str, ClaimTest]:
        """The kinds of evidence that can decide it."""
        return {kind: test for kind in KINDS if (test := getattr(self, kind)) is not None}


@dataclass(frozen=True)
class Contrast:
    """One number that a claim is about, before it is estimated.

    Attributes:
        name: its rival and group, "" where there is one.
        values: float (C, N), or (N,) where no chain drew it.
        clusters: of the items (N,).
        aside: items without a value in some chain, left out.
    """

    name: str
    values: np.ndarray
    clusters: np.ndarray
    aside: int


@dataclass(frozen=True)
class Measured:
    """What a test found: its verdict, the weakest contrast's estimate (None: not measured), and words on it."""

    verdict: str
    estimate: Estimate | None
    note: str = ""


def read_claims(path: str | Path, systems: Mapping[str, Collection[str]]) -> tuple[Claim, ...]:
    """Read and check claims.yaml.

    Args:
        path: the file: `smallest_effects` (unit -> number) and `claims` (a list).
        systems: result table -> names that its systems may have; a table that is not named permits any.

    Raises:
        ClaimError: an unknown key, table, column, metric, system, statistic or side; a claim given twice; a test that
            neither measures nor says what it takes. The message names the claim.
    """
    content = read_yaml(path)
    smallest, claims = content["smallest_effects"], []
    for entry in content["claims"]:
        name = f"claim {entry.get('id', '<no id>')}"
        try:
            claim = from_mapping(Claim, entry, Path(path).name, name)
        except ParamsError as error:
            raise ClaimError(str(error)) from None
        if claim.paper not in BASES:
            raise ClaimError(f"{name}: an id begins with its paper, b or d")
        if any(claim.id == other.id for other in claims):
            raise ClaimError(f"{name} stands twice in {path}; keep one")
        if not claim.tests:
            raise ClaimError(f"{name} names no evidence; one of {', '.join(KINDS)}")
        checked = {kind: _checked(f"{name}, {kind}", test, smallest, systems) for kind, test in claim.tests.items()}
        claims.append(replace(claim, **checked))
    return tuple(claims)


def measure(claim: Claim, kind: str, results: Measurements) -> Measured:
    """Decide a claim by one kind of evidence.

    Raises:
        ClaimError: the test leaves open which of several settings of the results it means.
    """
    test = claim.tests[kind]
    if not test.statistic:
        return Measured("not measured", None, test.needs)
    copies = ""
    try:
        if test.statistic == "given":
            found = _read_given(test, results)
        else:
            same, copies = _same_chains(claim.paper, kind, test, results)
            found = [(one, _estimate(one)) for one in STATISTICS[test.statistic](test, results, same)]
    except NotMeasuredError as error:
        return Measured("not measured", None, "; ".join(filter(None, [str(error), test.needs])))
    except ClaimError as error:
        raise ClaimError(f"claim {claim.id}, {kind}: {error}") from None
    weakest, estimate = min(found, key=lambda pair: _strength(pair[1], test))
    notes = [weakest.name if len(found) > 1 else "", copies if estimate.chains else "", test.note]
    if estimate.chains == 1:
        notes.insert(1, "one chain: its interval is unknown")
    if weakest.aside:
        notes.insert(1, f"{weakest.aside} items without a value set aside")
    return Measured(decide(estimate, test), estimate, "; ".join(filter(None, notes)))


def decide(estimate: Estimate, test: ClaimTest) -> str:
    """Return `holds`, `fails` or `undecided` by the rule of the module's head."""
    low, high, smallest = estimate.low - test.neutral, estimate.high - test.neutral, test.smallest
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    if test.side == "within":
        if -smallest < low and high < smallest:
            return "holds"
        return "fails" if low > smallest or high < -smallest else "undecided"
    if test.side == "below":
        low, high = -high, -low
    if low > smallest:
        return "holds"
    return "fails" if high < smallest else "undecided"


def _strength(estimate: Estimate, test: ClaimTest) -> tuple[int, float]:
    """Order contrasts from the weakest: what fails, then what is undecided, then what has the least effect."""
    effect = estimate.value - test.neutral
    towards = {"above": effect, "below": -effect, "within": -abs(effect)}[test.side]
    return ("fails", "undecided", "holds").index(decide(estimate, test)), towards


def _estimate(contrast: Contrast) -> Estimate:
    estimate = estimate_over_items if contrast.values.ndim == 1 else estimate_over_chains
    return estimate(contrast.values, contrast.clusters)


Chains = dict[int, int]  # chain -> the first one that drew the same


def _mean(test: ClaimTest, results: Measurements, same: Chains) -> list[Contrast]:
    contrasts = []
    for group, rows in _split_groups(test, results):
        values, clusters, aside = _align([_side(test, test.table, rows, test.of, same)])
        contrasts.append(Contrast(group, values[0], clusters, aside))
    return contrasts


def _difference(test: ClaimTest, results: Measurements, same: Chains) -> list[Contrast]:
    contrasts = []
    for group, rows in _split_groups(test, results):
        mine = _side(test, test.table, rows, test.of, same)
        for rival in test.against:
            if test.against_table:
                theirs = _side(
                    replace(test, where={}), test.against_table, results.rows(test.against_table), rival, same
                )
            else:
                theirs = _side(test, test.table, rows, rival, same)
            values, clusters, aside = _align([mine, theirs])
            name = ", ".join(filter(None, [group, "against " + " ".join(map(_worded, rival.values()))]))
            contrasts.append(Contrast(name, values[0] - values[1], clusters, aside))
    return contrasts


def _slope(test: ClaimTest, results: Measurements, same: Chains) -> list[Contrast]:
    contrasts = []
    for group, rows in _split_groups(test, results):
        steps = sorted(rows[test.over].unique(), key=float)
        if len(steps) < 2:
            raise NotMeasuredError(f"{test.table} has one value of {test.over}")
        sides = [_side(test, test.table, rows, test.of | {test.over: step}, same) for step in steps]
        values, clusters, aside = _align(sides)
        doublings = np.log2(np.array(steps, float))
        weights = (doublings - doublings.mean()) / ((doublings - doublings.mean()) ** 2).sum()  # least squares
        slope = sum(weight * value for weight, value in zip(weights, values, strict=True))
        contrasts.append(Contrast(group, slope, clusters, aside))
    return contrasts


STATISTICS: dict[str, Callable[[ClaimTest, Measurements, Chains], list[Contrast]]] = {
    "mean": _mean,
    "difference": _difference,
    "slope": _slope,
}


def _read_given(test: ClaimTest, results: Measurements) -> list[tuple[Contrast, Estimate]]:
    """Estimates that stand in a table with their intervals: columns low, high, n, and `difference` or a value."""
    table = _filter_rows(results.read(test.table), test.table, test.where)
    rows = _filter_rows(table, test.table, test.of)
    sign = 1
    if rows.empty and {"system", "reference"} <= set(test.of):  # the table holds each pair once
        turned = test.of | {"system": test.of["reference"], "reference": test.of["system"]}
        rows, sign = _filter_rows(table, test.table, turned), -1
    if rows.empty:
        raise NotMeasuredError(f"{test.table} has no row with {_worded(test.where | test.of)}")
    column = next(name for name in ("difference", "preference", "score", "value") if name in rows.columns)
    found = []
    for _, row in rows.iterrows():
        low, high = sorted((sign * row["low"], sign * row["high"]))
        name = " ".join(str(row[key]) for key, value in test.where.items() if isinstance(value, list))
        contrast = Contrast(name, np.empty(0), np.empty(0), 0)
        found.append((contrast, Estimate(sign * row[column], low, high, 0, int(row["n"]))))
    return found


def _split_groups(test: ClaimTest, results: Measurements) -> list[tuple[str, pd.DataFrame]]:
    """Rows of every group of `by`, after the filters that both sides share."""
    rows = _filter_rows(results.rows(test.table), test.table, test.where)
    if rows.empty:
        raise NotMeasuredError(f"{test.table} has no row with {_worded(test.where)}")
    return [(str(group), part) for group, part in rows.groupby(test.by)] if test.by else [("", rows)]


def _filter_rows(rows: pd.DataFrame, table: str, filters: Mapping) -> pd.DataFrame:
    for column, value in filters.items():
        if column not in rows.columns:
            raise ClaimError(f"{table} has no column {column!r}; it has {', '.join(rows.columns)}")
        if value != "*":
            rows = rows[rows[column].isin(value if isinstance(value, list) else [value])]
    return rows


def _side(test: ClaimTest, table: str, rows: pd.DataFrame, filters: Mapping, same: Chains) -> pd.DataFrame:
    """One side of a contrast: values with items (item, cluster) as index and different chains as columns.

    A side that no chain draws has the one column -1. Repetitions within a chain (seeds of sampling) are averaged.
    """
    rows, chosen = _filter_rows(rows, table, filters), VIEWS[table]
    if rows.empty:
        raise NotMeasuredError(f"{table} has no row with {_worded(test.where | filters)}")
    item = rows["item"]
    for setting in chosen.settings:
        named = filters.get(setting, test.where.get(setting))
        if named == "*" or isinstance(named, list):  # pooled: an item is one of each
            item = item + " " + rows[setting]
        elif named is None and rows[setting].nunique() > 1:
            raise ClaimError(f"say which {setting} of {table} is meant: {', '.join(sorted(rows[setting].unique()))}")
    fixed = not (chosen.drawn and test.drawn) or set(rows[chosen.system]) <= set(FIXED)
    rows = rows.assign(item=item, chain=-1 if fixed else rows["chain"].map(same))
    return rows.groupby(["item", "cluster", "chain"])["value"].mean().unstack("chain")


def _align(sides: list[pd.DataFrame]) -> tuple[list[np.ndarray], np.ndarray, int]:
    """Bring sides to the same items and chains.

    Returns:
        One array a side, (C, N), or (N,) where no side was drawn by a chain; the items' clusters (N,); and how many
        items stand on every side but lack a value in some chain.
    """
    drawn = [set(side.columns) for side in sides if list(side.columns) != [-1]]
    chains = sorted(set.intersection(*drawn)) if drawn else [-1]
    if not chains:
        raise NotMeasuredError("the two sides have no chain in common")
    items = sides[0].index
    for side in sides[1:]:
        items = items.intersection(side.index)
    columns = [chains if list(side.columns) != [-1] else [-1] * len(chains) for side in sides]
    arrays = [side.loc[items, own].to_numpy(float).T for side, own in zip(sides, columns, strict=True)]  # (C, N) each
    known = np.logical_and.reduce([np.isfinite(array).all(axis=0) for array in arrays])  # (N,)
    if not known.any():
        raise NotMeasuredError("no item has a value on both sides")
    arrays = [array[:, known] if drawn else array[0, known] for array in arrays]
    return arrays, items.get_level_values("cluster").to_numpy()[known], int((~known).sum())


def _same_chains(paper: str, kind: str, test: ClaimTest, results: Measurements) -> tuple[Chains, str]:
    """Map every chain to the first that drew the same, and say which are copies.

    Chains are the same where a system of the claim answered the same throughout its table, or where the base model did:
    what was trained on one base three times is one chain. Real weights are one base for all, by intention.
    """
    chosen = VIEWS[test.table]
    named = [
        filters.get(chosen.system) for filters in (test.where, test.of, *([] if test.against_table else test.against))
    ]
    systems = {name for value in named if value for name in (value if isinstance(value, list) else [value])} - {"*"}
    drawn = [results.answers(test.table, system) for system in sorted(systems - set(FIXED))]
    if kind == "kitchen":
        with contextlib.suppress(NotMeasuredError):
            drawn.append(results.answers(*BASES[paper]))
    same = {int(chain): int(chain) for chain in sorted(results.rows(test.table)["chain"].unique())}
    for answers in drawn:
        for chain, first in equal_chains(answers).items():
            if chain in same and first in same:
                same[chain] = min(same[chain], same[first])
    copies = [f"chain {chain} is a copy of chain {first}" for chain, first in same.items() if chain != first]
    return same, ", ".join(copies) and f"{', '.join(copies)}: counted once"


def _checked(
    where: str, test: ClaimTest, smallest: Mapping[str, float], systems: Mapping[str, Collection[str]]
) -> ClaimTest:
    """Check a test against its view, and fill in the smallest effect of its metric's unit."""
    if not test.statistic:
        if not test.needs:
            raise ClaimError(f"{where}: name a statistic, or say in `needs` what a measurement takes")
        return test
    if test.statistic not in (*STATISTICS, "given"):
        raise ClaimError(f"{where}: unknown statistic {test.statistic!r}; one of {', '.join(STATISTICS)}, given")
    if test.side not in SIDES:
        raise ClaimError(f"{where}: unknown side {test.side!r}; one of {', '.join(SIDES)}")
    if test.statistic == "difference" and not test.against:
        raise ClaimError(f"{where}: a difference needs `against`")
    if test.statistic == "slope" and not test.over:
        raise ClaimError(f"{where}: a slope needs `over`")
    unit = "" if test.statistic == "given" else _check_sides(where, test, systems)
    effect = test.smallest if test.smallest is not None else smallest.get(unit)
    if effect is None or effect <= 0:
        raise ClaimError(f"{where}: give the smallest effect that matters, above 0; unit {unit!r} has none")
    return replace(test, smallest=float(effect))


def _check_sides(where: str, test: ClaimTest, systems: Mapping[str, Collection[str]]) -> str:
    """Check every column and value that a test names; return the unit of its metric."""
    columns = {column: None for column in (test.by, test.over) if column}
    sides = [(test.table, {**columns, **test.where}), (test.table, test.of)]
    sides += [(test.against_table or test.table, rival) for rival in test.against]
    for table, filters in sides:
        if table not in VIEWS:
            raise ClaimError(f"{where}: no view reads {table!r}; one of {', '.join(VIEWS)}")
        chosen = VIEWS[table]
        known = {"metric": tuple(chosen.units), **chosen.values}
        if table in systems:
            known[chosen.system] = tuple(systems[table])
        _check_filters(where, chosen, filters, known)
    metric = test.of.get("metric", test.where.get("metric"))
    if metric is None:
        raise ClaimError(f"{where}: say which metric is meant: {', '.join(VIEWS[test.table].units)}")
    return VIEWS[test.table].units[metric]


def _check_filters(where: str, chosen: View, filters: Mapping, known: Mapping[str, Collection[str]]) -> None:
    for column, value in filters.items():
        if column not in chosen.columns:
            raise ClaimError(f"{where}: {chosen.table} has no column {column!r}; it has {', '.join(chosen.columns)}")
        if value in (None, "*") or column not in known:
            continue
        for one in value if isinstance(value, list) else [value]:
            if one not in known[column]:
                raise ClaimError(
                    f"{where}: unknown {column} {one!r} of {chosen.table}; one of {', '.join(map(repr, known[column]))}"
                )


def _worded(value: object) -> str:
    """Filters, or one value of them, in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{column} {_worded(one)}" for column, one in value.items()) or "any value"
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)
