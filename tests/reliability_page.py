"""What the campaigns came to, in one table: docs/reliability.csv, and its part of docs/reliability.md.

`make torture TORTURE="--write"`, `make guards GUARDS="--write"` and `tests/repro_runs.py ... --write` each put their
rows into the CSV and draw the page's table anew; `python tests/reliability_page.py` draws it alone.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "docs/reliability.csv", ROOT / "docs/reliability.md"
BEGIN, END = "<!-- campaign: written by tests/reliability_page.py -->", "<!-- end of the campaign -->"


@dataclass(frozen=True)
class Result:
    """What one family of a campaign came to.

    Attributes:
        family: its name, one row a family.
        tried, held: numbers of cases.
        size, seed: with which the same cases are tried again.
        commit: that the sources are of; with `+` behind where they had been changed since.
    """

    family: str
    tried: int
    held: int
    size: str
    seed: int
    commit: str


# What an earlier campaign tried on the kit, by hand, before there was a guard: (what, tried, held), the families in
# which the same kind is tried now, and the tests of what is no family.
BEFORE = (
    ("images, by four readers", 83, 74, ("images",), ("test_image_files.py",)),
    ("params.yaml, its reader alone", 89, 78, ("params",), ("test_yaml_files.py", "test_reader_properties.py")),
    ("values that the reader accepts, in use", 34, 23, ("values",), ("test_params.py",)),
    ("CSV, JSON and JSON lines of every reader", 207, 166, ("json", "csv"),
     ("test_readers.py", "test_reader_properties.py")),
    ("videos and folders of frames", 63, 58, ("videos",), ("test_video_files.py",)),
    ("checkpoints", 94, 82, ("weights",), ("test_strict_load.py", "test_reader_properties.py")),
    ("results edited by hand, then the report", 14, 9, ("results",), ("test_edited_results.py",)),
    ("judges' words", 53, 50, ("replies",), ("test_judges.py",)),
    ("endpoints: faults, key echoes, redirects, proxies, addresses", 44, 38, ("servers",),
     ("test_endpoint.py", "test_endpoint_secrets.py", "test_endpoint_addresses.py")),
    ("a run killed at a random second, then the same command", 15, 15, ("repro kills", "kills"), ("test_fit.py",)),
    ("DVC ended in the first seconds of a stage", 4, 0, ("dvc ended early",), ("test_runner_guards.py",)),
    ("a full disk, and its cause named", 8, 5, ("full disks",), ("test_runner_guards.py",)),
    ("the human study: slow connections, floods, guesses", 18, 13, ("floods",),
     ("test_human_blind.py", "test_human_security.py")),
    ("pages of the study whose systems a colleague cannot name", 600, 0, ("unblinding",), ("test_human_blind.py",)),
)  # fmt: skip


def read_results() -> dict[str, Result]:
    """Return the results by family; none before the first campaign."""
    if not RESULTS.exists():
        return {}
    with open(RESULTS, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = ("tried", "held", "seed")
    return {row["family"]: Result(**row | {name: int(row[name]) for name in numbers}) for row in rows}


def write_results(new: list[Result]) -> None:
    """Put results into the CSV, each in the place of its family's last one, and draw the page's table."""
    found = read_results() | {result.family: result for result in new}
    with open(RESULTS, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(found[name]) for name in sorted(found))
    write_page()


def find_commit() -> str:
    """Return the commit of the sources; with `+` behind where src/ or tests/ have changed since."""

    def ask(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = ask("status", "--porcelain", "--", "src", "tests")
    return (ask("rev-parse", "--short=10", "HEAD") or "none") + "+" * bool(changed)


def draw_table(results: dict[str, Result]) -> str:
    """Return the page's table: what was tried before the guards, and what the families came to last."""
    lines = ["| what | before: tried | held | family now | tried | held | tests |",
             "| --- | ---: | ---: | --- | ---: | ---: | --- |"]  # fmt: skip
    for what, tried, held, families, tests in BEFORE:
        named = ", ".join(f"[`tests/{test}`](../tests/{test})" for test in tests)
        for number, family in enumerate(families or ("",)):
            result = results.get(family)
            now = f"{result.tried} | {result.held}" if result else "|"
            before, after = (f"{what} | {tried} | {held}", named) if number == 0 else ("| | ", "")
            lines.append(f"| {before} | {family} | {now} | {after} |")
    further = [name for name in results if not any(name in row[3] for row in BEFORE)]
    lines += [f"| | | | {name} | {results[name].tried} | {results[name].held} | |" for name in further]
    made = [f"{one.family} ({one.size}, seed {one.seed}, commit {one.commit})" for one in results.values()]
    return "\n".join([*lines, "", f"Made with: {'; '.join(made) or 'nothing yet'}."])


def draw_page(text: str, results: dict[str, Result]) -> str:
    """Return the page with its table drawn anew."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{draw_table(results)}\n{END}{rest.partition(END)[2]}"


def write_page() -> None:
    """Draw the table of docs/reliability.md from docs/reliability.csv."""
    PAGE.write_text(draw_page(PAGE.read_text(encoding="utf-8"), read_results()), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write_page())
