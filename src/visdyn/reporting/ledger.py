"""The ledger of claims: every claim of `data/published/claims.yaml` by every kind of evidence, with its verdict.

`reports/claims.csv` holds all of it; `claims.md`, `claims.tex`, the first table of the report and the README's block
are the same rows for reading. Verdicts come from `evaluation/claims.py` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.evaluation.claims import KINDS, VERDICTS, Claim, ClaimTest, Published, measure, read_claims
from visdyn.evaluation.measurements import VIEWS, Measurements, NotMeasuredError
from visdyn.params.reading import read_values
from visdyn.readers import read_frame
from visdyn.reporting import names, published, tables
from visdyn.reporting.results import EXTERNAL, ResultError, Results

COLUMNS = ["id", "paper", "place", "claim", "evidence", "measured", "side", "neutral", "smallest", "published",
           "estimate", "low", "high", "spread", "chains", "n", "verdict", "note"]  # fmt: skip
_FDM = [*names.FDM_SYSTEMS, *(f"{arm}_best_of_{k}" for arm in names.FDM_SYSTEMS for k in (2, 3, 4, 8))]
# Names that a claim may give to who was measured. Which models are probed is the profile's choice: none is listed.
SYSTEMS = {
    "evaluation/fdm_scores.csv": _FDM,
    "evaluation_doundo/doundo_scores.csv": list(names.DOUNDO_SYSTEMS),
    "robust/fdm_scores.csv": [*names.FDM_SYSTEMS, *names.EXPERIMENTS],
    "robust/doundo_scores.csv": [f"doundo_c_{weight}" for weight in (0.4, 0.6, 0.8, 1)],  # D, appendix A
    "idm_evaluation/likelihoods.csv": list(names.IDM_MODELS),
    "idm_evaluation/predictions.csv": list(names.IDM_MODELS),
    "verification/candidates.csv": list(names.FDM_SYSTEMS),
    "spatial/answers.csv": ["idm", *names.FDM_SYSTEMS],
    "mining/keyframes.csv": ["top_then_space", "greedy_spaced", "quiet_around_peak"],
}


def load_claims(repository: str | Path | None = None) -> tuple[Claim, ...]:
    """Read the claims of a checkout (default: the one this package runs from)."""
    return read_claims(published.folder(repository) / "claims.yaml", SYSTEMS)


def build_ledger(results: Results, repository: str | Path | None = None) -> pd.DataFrame:
    """Decide every claim by every kind of evidence.

    Args:
        results: of one profile; whether its data are the kitchen's or real stands in its params.yaml.
        repository: checkout with data/published.

    Returns:
        `COLUMNS`, a row a claim and kind. Effects are counted from `neutral`; an unknown number is NaN; `chains` is 0
        where nothing in the estimate was drawn by a chain.
    """

    def read(name: str) -> pd.DataFrame:
        try:
            return results.read(name)
        except ResultError as error:
            raise NotMeasuredError(str(error)) from None

    own, found = _own_kind(results.profile), Measurements(read)
    cells = cache(lambda name: published.load(name, repository))
    rows = []
    for claim in load_claims(repository):
        printed = _printed(claim.published, cells)
        for kind, test in claim.tests.items():
            if kind in (own, "recorded") or test.table.startswith(EXTERNAL):
                what = measure(claim, kind, found)
                verdict, estimate = what.verdict, what.estimate
                note = "; ".join(filter(None, [what.note, results.edited(_tables_of(test))]))
            else:
                where = "the embedded default: `make repro`" if kind == "kitchen" else test.needs
                verdict, estimate, note = "not measured", None, where
            numbers = dict.fromkeys(("estimate", "low", "high", "spread", "chains", "n"), math.nan)
            if estimate is not None:
                numbers = {"estimate": estimate.value, "low": estimate.low, "high": estimate.high,
                           "spread": estimate.spread, "chains": estimate.chains, "n": estimate.n}  # fmt: skip
            rows.append({
                "id": claim.id, "paper": claim.paper, "place": claim.place, "claim": claim.claim, "evidence": kind,
                "measured": _describe(test), "side": test.side if test.statistic else "",
                "neutral": test.neutral if test.statistic else math.nan, "smallest": test.smallest,
                "published": printed,
                **numbers, "verdict": verdict, "note": note,
            })  # fmt: skip
    ledger = pd.DataFrame(rows, columns=COLUMNS)
    return ledger.astype({"smallest": float, "chains": "Int64", "n": "Int64"})


def write_ledger(ledger: pd.DataFrame, reports: str | Path) -> list[Path]:
    """Write `claims.csv` (every column), `claims.md` and `claims.tex` (for reading) into a folder."""
    folder = Path(reports)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"claims.{suffix}" for suffix in ("csv", "md", "tex")]
    ledger.to_csv(paths[0], index=False, float_format="%.6g", lineterminator="\n")
    shown = printed_rows(ledger)
    paths[1].write_text(f"{summary(ledger)}\n\n{tables.markdown(shown)}")
    paths[2].write_text(tables.latex(shown, name="claims", title=summary(ledger).removesuffix(".")))
    return paths


def read_ledger(path: str | Path) -> pd.DataFrame:
    """Read a `claims.csv`: text as str, numbers as float64 with NaN where a cell is empty."""
    ledger = read_frame(path, dtype=str, keep_default_na=False)
    numbers = ["neutral", "smallest", "published", "estimate", "low", "high", "spread", "chains", "n"]
    return ledger.assign(**{column: pd.to_numeric(ledger[column].replace("", np.nan)) for column in numbers})


def printed_rows(ledger: pd.DataFrame, measured_only: bool = False, notes: bool = True) -> pd.DataFrame:
    """Return the ledger for reading: claim, where it stands, evidence, numbers, verdict, all as text.

    Numbers have the digits that the smallest effect asks for.

    Args:
        measured_only: leave out what was not measured.
        notes: say behind a claim what must be known of its row.
    """
    if measured_only:
        ledger = ledger[ledger["verdict"] != "not measured"]
    rows = []
    for row in ledger.itertuples():
        digits = _count_digits(row.smallest)
        numbers = [tables.number(getattr(row, name), digits) for name in ("published", "estimate", "low", "high")]
        chains = "" if pd.isna(row.chains) else "none drawn" if row.chains == 0 else str(int(row.chains))
        note = f" ({row.note})" if notes and row.note else ""
        rows.append([f"{row.claim}{note}", f"{row.paper} {row.place}", row.evidence, *numbers, chains,
                     "" if pd.isna(row.n) else str(int(row.n)), row.verdict])  # fmt: skip
    columns = ["claim", "stands in", "evidence", "published", "estimate", "low", "high", "chains", "n", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def read_reference(repository: str | Path | None = None) -> pd.DataFrame | None:
    """Return the released run's ledger (`data/published/reference/claims.csv`), None where there is none."""
    path = published.folder(repository) / "reference/claims.csv"
    return read_ledger(path) if path.is_file() else None


def printed_beside(ledger: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Return `printed_rows` with the reference's numbers.

    Returns:
        The same rows and, as text, `then` (the reference's estimate, "" where it has none) and `turned` (its verdict,
        where it was another and both were measured).
    """
    keys = ["id", "evidence"]
    known = ledger[[*keys, "smallest", "verdict"]].merge(
        reference[[*keys, "estimate", "verdict"]], on=keys, how="left", suffixes=("", "_then")
    )
    digits = map(_count_digits, known["smallest"])
    other = (known["verdict"] != known["verdict_then"]) & known["verdict_then"].notna()
    other &= (known[["verdict", "verdict_then"]] != "not measured").all(axis=1)
    return printed_rows(ledger).assign(
        then=[tables.number(value, places) for value, places in zip(known["estimate"], digits, strict=True)],
        turned=known["verdict_then"].where(other, "").to_numpy(),
    )


def summary(ledger: pd.DataFrame) -> str:
    """Say how many rows have which verdict, by kind of evidence, in one sentence."""
    parts = []
    for kind in KINDS:
        counts = ledger.loc[ledger["evidence"] == kind, "verdict"].value_counts()
        words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts)
        parts += [f"{kind}: {words}"] if words else []
    return f"{ledger['id'].nunique()} claims. " + "; ".join(parts) + "."


def _tables_of(test: ClaimTest) -> list[str]:
    """Return the result tables that a test is measured on; none where the claim cannot be tested yet."""
    view = VIEWS.get(test.table)
    return list(filter(None, [test.table, view.scores if view else ""]))


def _own_kind(profile: Path) -> str:
    """Which evidence a profile's runs are: its world is the kitchen unless params.yaml says external."""
    world = read_values(Path(profile)).get("world") or {}
    return "real" if world.get("kind") == "external" else "kitchen"


def _printed(effect: Published | None, load: Callable[[str], pd.DataFrame]) -> float:
    """Compute the printed effect from cells of data/published; NaN where the paper prints none.

    Raises:
        ValueError: a cell that no row of the table matches.
    """
    if effect is None:
        return math.nan
    means = []
    for patterns in (effect.plus, effect.minus):
        values = []
        for pattern in patterns:
            name, _, cell = pattern.partition(" | ")
            table = load(name)
            keys = table["panel"] + " | " + table["row"] + " | " + table["column"]
            found = table["value"][[fnmatchcase(key, cell) for key in keys]].dropna()
            if found.empty:
                raise ValueError(f"data/published/{name}.csv has no cell {cell!r} (panel | row | column)")
            values += found.tolist()
        means.append(float(np.mean(values)) if values else 0.0)
    return (means[0] - means[1]) * effect.times


def _describe(test: ClaimTest) -> str:
    """Say what is measured in the table's own words: `score: synthetic less supervised; evaluation/fdm_scores.csv`."""
    if not test.statistic:
        return ""
    words = [f"{name} {_words(value)}" for name, value in test.where.items()]
    side = " ".join(map(_words, test.of.values()))
    if test.statistic == "difference":
        side += " less " + ", less ".join(" ".join(map(_words, rival.values())) for rival in test.against)
    if test.statistic == "slope":
        side += f" for each doubling of {test.over}"
    by = [f"in each {test.by}"] if test.by else []
    where = f" and {test.against_table}" if test.against_table else ""
    return "; ".join([side, ", ".join(words), *by, f"{test.table}{where}"])


def _count_digits(smallest: float) -> int:
    """Return how many decimals the smallest effect that matters asks for."""
    return 3 if pd.isna(smallest) else max(0, -math.floor(math.log10(smallest / 2)))


def _words(value: object) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value) or "(none)"
