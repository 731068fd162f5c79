"""Whether two runs say the same: `visdyn verify [REFERENCE] [RUN]`.

Two machines may add in another order; then every trained model differs from its first digits on, and the question is
whether the claims' verdicts do. Each claim of both runs is decided anew by the code here, and printed in one line: the
verdict then and now, the estimate then and now, and whether the difference is within the chains' spread. Numbers that
differ beyond it are listed. The exit status is 1 where a verdict turned from `holds` to `fails` or back, 0 where none
did, and 2 where there is nothing to compare.

REFERENCE and RUN are folders of a checkout, or git revisions of this one. Without them the results here are compared
with those of the last commit, and the page ends with what the run has changed of the files in git, why, and how to put
it back (`visdyn.pipeline.changed_files`).
"""

from __future__ import annotations

import argparse
import io
import math
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from visdyn.evaluation.measurements import VIEWS, Measurements, NotMeasuredError
from visdyn.paths import file_digest, repository_root
from visdyn.pipeline.changed_files import describe_changes
from visdyn.readers import read_json
from visdyn.reporting.ledger import build_ledger
from visdyn.reporting.provenance import EDITED, read_families, recorded_outputs
from visdyn.reporting.results import ResultError, Results

LEVEL, NUMBERS_LEVEL = 0.95, 0.99  # of claims, and of single numbers: there are hundreds of them
SHOWN = 20  # numbers beyond the spread that are printed
SAME = 1e-6  # relative: six digits stand in a results file


class VerifyError(RuntimeError):
    """Two runs cannot be compared; the message says why."""


@dataclass(frozen=True)
class ClaimLine:
    """One claim by one kind of evidence, in both runs.

    Attributes:
        name: `b_synthetic_helps (kitchen)`.
        then, now: verdicts.
        estimate_then, estimate_now: NaN where it was not measured.
        within: the difference is within what chains drawn anew would do; None where that is unknown.
    """

    name: str
    then: str
    now: str
    estimate_then: float
    estimate_now: float
    within: bool | None

    @property
    def turned(self) -> bool:
        """The verdict turned from holds to fails or back."""
        return {self.then, self.now} == {"holds", "fails"}

    def __str__(self) -> str:
        verdict = self.now if self.then == self.now else f"{self.then} -> {self.now}"
        if math.isnan(self.estimate_then) or math.isnan(self.estimate_now):
            return f"{'TURNED' if self.turned else '':<7}{verdict:<27}{'':<46}{self.name}"
        words = {True: "within the spread", False: "beyond the spread", None: "spread unknown"}[self.within]
        if _is_same(self.estimate_then, self.estimate_now):
            words = "the same"
        numbers = f"{self.estimate_then:.4g} -> {self.estimate_now:.4g}"
        return f"{'TURNED' if self.turned else '':<7}{verdict:<27}{numbers:<28}{words:<18}{self.name}"


def compare_claims(then: pd.DataFrame, now: pd.DataFrame) -> list[ClaimLine]:
    """Compare two ledgers (`ledger.build_ledger`) row by row; what stands in one alone is not measured in the other."""
    keys = ["id", "evidence"]
    named = pd.concat([now[keys], then[keys]]).drop_duplicates()  # in the order of the newer ledger
    both = named.merge(now, on=keys, how="left").merge(then, on=keys, how="left", suffixes=("_now", "_then"))
    for column in ("verdict_now", "verdict_then"):
        both[column] = both[column].fillna("not measured")
    return [
        ClaimLine(
            f"{row['id']} ({row['evidence']})",
            row["verdict_then"],
            row["verdict_now"],
            float(row["estimate_then"]),
            float(row["estimate_now"]),
            is_within(*(_numbers(row, side) for side in ("then", "now"))),
        )
        for _, row in both.iterrows()
    ]


def is_within(then: tuple[float, float, float], now: tuple[float, float, float], level: float = LEVEL) -> bool | None:
    """Tell whether two means differ by no more than chains drawn anew would make them.

    Welch's test on the chains' means; items are the same in both runs and say nothing here.

    Args:
        then, now: mean, standard deviation over chains, and number of chains; 0 chains: nothing was drawn.

    Returns:
        None where a run has one chain, or a number is unknown.
    """
    (first, first_spread, first_chains), (second, second_spread, second_chains) = then, now
    if math.isnan(first) or math.isnan(second):
        return None
    if _is_same(first, second):
        return True
    if first_chains == second_chains == 0:
        return False
    sides = ((first_spread, first_chains), (second_spread, second_chains))
    parts = [(spread**2 / chains, chains - 1) for spread, chains in sides if chains]
    if any(freedom < 1 or math.isnan(variance) for variance, freedom in parts):
        return None
    total = sum(variance for variance, _ in parts)
    if not total:
        return False
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
    return bool(abs(first - second) <= stats.t.ppf((1 + level) / 2, freedom) * math.sqrt(total))


def compare_numbers(then: Measurements, now: Measurements) -> pd.DataFrame:
    """Compare the mean of every system by every metric and setting, in all tables that claims are measured on.

    Returns:
        table, number (its settings in words), then, now, within (True, False, None).
    """
    rows = []
    for table, view in VIEWS.items():
        try:
            first, second = (_over_chains(one.rows(table), list(view.settings)) for one in (then, now))
        except NotMeasuredError:
            continue
        chains = (0, 0) if not view.drawn else None
        both = first.add_suffix("_then").join(second.add_suffix("_now"), how="inner")
        for key, row in both.iterrows():
            sides = [(row[f"mean_{side}"], row[f"std_{side}"], row[f"size_{side}"]) for side in ("then", "now")]
            if chains:
                sides = [(mean, spread, 0) for mean, spread, _ in sides]
            name = " ".join(part for part in map(str, key) if part)
            rows.append((table, name, sides[0][0], sides[1][0], is_within(*sides, level=NUMBERS_LEVEL)))
    return pd.DataFrame(rows, columns=["table", "number", "then", "now", "within"])


def verify(reference: str | None, run: str | None, profile: str = ".") -> tuple[str, int]:
    """Compare two runs of a profile; return the page that is printed, and the exit status.

    Raises:
        VerifyError: a folder or revision is not there, or holds no results.
    """
    with tempfile.TemporaryDirectory() as scratch:
        first = _open_run(reference or "HEAD", profile, Path(scratch) / "then")
        second = _open_run(run or str(repository_root()), profile, Path(scratch) / "now")
        lines = compare_claims(_ledger(first, profile), _ledger(second, profile))
        numbers = compare_numbers(*(_measurements(root, profile) for root in (first, second)))
        head = [
            f"then: {reference or 'the last commit (HEAD)'}{_machine(first / profile)}",
            f"now:  {run or 'the results here'}{_machine(second / profile)}",
            _bytes(first, second, profile),
            *(f"{side}: {output} was {EDITED}" for side, root in (("then", first), ("now", second))
              for output in recorded_outputs(root / profile).edited_under("reports/results")),
        ]  # fmt: skip
    return _render(head, lines, numbers), int(any(line.turned for line in lines))


def _render(head: list[str], lines: list[ClaimLine], numbers: pd.DataFrame) -> str:
    measured = [line for line in lines if (line.then, line.now) != ("not measured", "not measured")]
    beyond = numbers[numbers["within"].eq(False)]
    unknown = numbers[numbers["within"].isna()]
    page = [*head, "", *map(str, measured), f"{len(lines) - len(measured)} claims are measured in neither run", ""]
    expected = f"chains drawn anew make about {(1 - NUMBERS_LEVEL) * len(numbers):.0f}"
    page.append(f"{len(beyond)} of {len(numbers)} numbers differ beyond the chains' spread ({expected})")
    for row in beyond.head(SHOWN).itertuples():
        page.append(f"  {row.table}: {row.number}: {row.then:.4g} -> {row.now:.4g}")
    if len(beyond) > SHOWN:
        page.append(f"  and {len(beyond) - SHOWN} more")
    if len(unknown):
        page.append(f"{len(unknown)} numbers differ by an unknown measure: one of the runs has one chain")
    changed = [line for line in measured if line.then != line.now and not line.turned]
    turned = [line for line in measured if line.turned]
    page.append("")
    page.append(
        f"{len(turned)} verdicts turned over: {', '.join(line.name for line in turned)}" if turned
        else "no verdict turned over"
    )  # fmt: skip
    if changed:
        page.append(f"{len(changed)} went to or from undecided or not measured")
    if turned:
        page += ["If the experiment was changed on purpose, commit the new results: they are then the reference.",
                 "If it was not, the committed claims do not hold here: please report this page."]  # fmt: skip
    return "\n".join(page)


def _open_run(where: str, profile: str, scratch: Path) -> Path:
    """Return a checkout's folder: `where` itself, or what a git revision of this checkout holds of results."""
    if Path(where).is_dir():
        root = Path(where).resolve()
    else:
        root = scratch
        repository = repository_root()
        parts = ("params.yaml", "dvc.lock", "reports/results", "reports/machine.json")
        wanted = [f"{profile}/{part}" for part in parts]
        wanted += [] if profile == "." else ["reports/results/external"]
        command = ["git", "ls-tree", "--name-only", where, *(Path(part).as_posix() for part in wanted)]
        listed = subprocess.run(command, cwd=repository, capture_output=True, text=True)
        if listed.returncode:
            raise VerifyError(
                f"{where} is neither a folder nor a git revision of {repository}: {listed.stderr.strip()}"
            )
        found = listed.stdout.split()
        if not found:
            raise VerifyError(f"revision {where} holds no results of profile {profile}")
        packed = subprocess.run(["git", "archive", where, *found], cwd=repository, capture_output=True, check=True)
        root.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(root, filter="data")
    if not (root / profile / "reports/results").is_dir():
        raise VerifyError(
            f"{where} has no results of profile {profile}: {root / profile / 'reports/results'} is missing"
        )
    return root


def _ledger(root: Path, profile: str) -> pd.DataFrame:
    return build_ledger(Results((root / profile).resolve(), repository=root))


def _measurements(root: Path, profile: str) -> Measurements:
    results = Results((root / profile).resolve(), repository=root)

    def read(name: str) -> pd.DataFrame:
        try:
            return results.read(name)
        except ResultError as error:
            raise NotMeasuredError(str(error)) from None

    return Measurements(read)


def _over_chains(rows: pd.DataFrame, settings: list[str]) -> pd.DataFrame:
    """Mean over items in each chain, then mean, std and size over chains; index: the settings."""
    chains = rows.dropna(subset="value").groupby([*settings, "chain"])["value"].mean()
    return chains.groupby(settings).agg(["mean", "std", "size"])


def _numbers(row: pd.Series, side: str) -> tuple[float, float, float]:
    values = (row[f"{name}_{side}"] for name in ("estimate", "spread", "chains"))
    mean, spread, chains = (math.nan if pd.isna(value) else float(value) for value in values)
    return mean, spread, chains


def _is_same(first: float, second: float) -> bool:
    return bool(np.isclose(first, second, rtol=SAME, atol=1e-12))


def _bytes(first: Path, second: Path, profile: str) -> str:
    """Say how many results files of both runs have the same bytes."""
    folders = [(root / profile / "reports/results").resolve() for root in (first, second)]
    files = [{path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
             for folder in folders]  # fmt: skip
    shared = files[0].keys() & files[1].keys()
    same = sum(file_digest(files[0][name]) == file_digest(files[1][name]) for name in shared)
    return f"{same} of {len(files[0].keys() | files[1].keys())} results files have the same bytes"


def _machine(profile: Path) -> str:
    """Name the machines that computed a run's stages, as reports/machine.json has them."""
    path = profile / "reports/machine.json"
    if not path.is_file():
        return ", on an unrecorded machine"
    families, machines = read_families(path), read_json(path, dict)["machines"]
    return ", on " + "; ".join(f"{name} ({kind}, {machines[name]['cpu']})" for name, kind in families.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; return 1 where a verdict turned over, 2 where there is nothing to compare."""
    parser = argparse.ArgumentParser(
        prog="visdyn verify",
        description="Compare two runs claim by claim and number by number.",
    )
    parser.add_argument("reference", nargs="?", help="folder of a checkout, or git revision (default: HEAD)")
    parser.add_argument("run", nargs="?", help="folder of a checkout, or git revision (default: this checkout)")
    parser.add_argument("--profile", default=".", help="folder with params.yaml, inside the checkout")
    options = parser.parse_args(arguments)
    try:
        page, status = verify(options.reference, options.run, options.profile)
    except VerifyError as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    print(page)
    if not options.reference:
        print("\n".join(["", *describe_changes(options.profile)]))
    return status


if __name__ == "__main__":
    sys.exit(main())
