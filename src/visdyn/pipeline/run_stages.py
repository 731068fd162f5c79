"""`visdyn run`: the stages of a profile that are not up to date, by DVC, and a summary with the verdicts at the end.

    visdyn run                              everything of the embedded default
    visdyn run fdm evaluation               these two and what they wait for
    visdyn run --item b_table2              what one table or figure of a paper waits for
    visdyn run --profile profiles/paper --keep-going
    visdyn run figures --only --force       this one, though nothing changed

Each stage tells how far it is (`visdyn.pipeline.console`). Everything can be had from `dvc repro` too.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from os.path import relpath
from pathlib import Path

from visdyn.params import load_params
from visdyn.params.runtime import TRAINING_STAGES
from visdyn.paths import profile_root, repository_root
from visdyn.pipeline.console import PLANNED, format_span
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.guards import Entry, read_entries
from visdyn.pipeline.processes import end_with
from visdyn.readers import read_rows

LEDGER = "reports/claims.csv"
COLUMNS = ("id", "paper", "claim", "evidence", "estimate", "verdict")  # of the ledger, that are shown
DECIDED = ("holds", "fails", "undecided")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run stages and print the summary; return DVC's exit status."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    if options.only and not options.stages:
        parser.error("--only needs the names of stages")
    root = profile_root(options.profile)
    if options.item:
        from visdyn.pipeline.item_stages import stages_of_item  # reads the map of the papers, with pandas

        options.stages += stages_of_item(options.item, read_entries(root))
    planned = plan_stages(read_entries(root), options.stages)
    shown = planned if not options.only else options.stages
    _check_hardware(options.profile, shown)
    require_repository(repository_root())
    if importlib.util.find_spec("dvc") is None:
        raise ModuleNotFoundError("No module named 'dvc'", name="dvc")
    flags = {"--force": options.force, "--single-item": options.only, "--keep-going": options.keep_going}
    command = [sys.executable, "-m", "dvc", "repro", *options.stages, *(flag for flag, on in flags.items() if on)]
    began = time.time()
    print(f"{len(shown)} stages of {options.profile}; logs in {relpath(root / '.visdyn/logs')}", flush=True)
    status = run_command(command, root, {PLANNED: " ".join(shown)})
    if status == 0:
        _write_metrics(options.profile)
    print("\n".join(summarise(root, began, status)))
    return status


def show_status(arguments: Sequence[str] | None = None) -> int:
    """Print which stages of a profile are out of date, by DVC; plain `dvc status` looks at every profile."""
    parser = argparse.ArgumentParser(prog="visdyn status", description=show_status.__doc__)
    parser.add_argument("--profile", default=".", help="folder with params.yaml (default: the embedded default)")
    root = profile_root(parser.parse_args(arguments).profile)
    return run_command([sys.executable, "-m", "dvc", "status", "dvc.yaml"], root, {})


def require_repository(root: Path) -> None:
    """Refuse a checkout that DVC would refuse without saying what to do: an archive that was unpacked.

    Raises:
        StageError: it is in no git repository.
    """
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        raise StageError(f"{root} is in no git repository, which DVC needs; run `git init` there, then this again")


def plan_stages(entries: dict[str, Entry], wanted: Sequence[str]) -> list[str]:
    """Return the stages that `wanted` need, themselves included, in DVC's order; all where none is named.

    Raises:
        StageError: dvc.yaml has no stage of a name.
    """
    if unknown := [name for name in wanted if name not in entries]:
        raise StageError(f"there is no stage {unknown[0]!r}; one of {', '.join(entries)}")
    needed, waiting = set(), list(wanted or entries)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += [other for other, entry in entries.items() if _is_made_by(entries[name].deps, entry.outs)]
    return [name for name in entries if name in needed]


def summarise(root: Path, began: float, status: int) -> list[str]:
    """Return the lines at the end of a run: which stages ran, how long, and the verdicts of the profile's ledger.

    Args:
        began: seconds since the epoch; timings that are older belong to earlier runs.
        status: DVC's exit status.
    """
    timings = [path for path in sorted((root / ".visdyn/timings").glob("*.json")) if path.stat().st_mtime >= began]
    ran = f"{len(timings)} stage{'s' if len(timings) > 1 else ''} ran" if timings else "nothing was out of date"
    lines = ["", f"{ran}, {format_span(time.time() - began)}" + (f"; dvc ended with {status}" if status else "")]
    if status:
        return [*lines, f"each stage's log: {relpath(root / '.visdyn/logs')}/<stage>.log"]
    ledger = root / LEDGER
    if ledger.is_file():
        lines += describe_verdicts(row for _, row in read_rows(ledger, COLUMNS))
        lines.append(f"every claim: {relpath(ledger.with_suffix('.md'))}")
    if (report := root / "reports/index.html").is_file():
        lines.append(f"the report:  {relpath(report)}")
    return lines


def describe_verdicts(claims: Iterable[dict[str, str]]) -> list[str]:
    """Return the counts of verdicts by evidence, and a line for each claim that holds or fails in what was run.

    Args:
        claims: rows of the ledger.
    """
    rows = list(claims)
    lines = [f"{len({row['id'] for row in rows})} claims"]
    for kind in dict.fromkeys(row["evidence"] for row in rows):
        counts = Counter(row["verdict"] for row in rows if row["evidence"] == kind)
        told = [f"{counts[name]} {name}" for name in (*DECIDED, "not measured") if counts[name]]
        lines[0] += f"; {kind}: {', '.join(told)}"
    width = shutil.get_terminal_size((120, 24)).columns
    for verdict in ("holds", "fails"):
        for row in rows:
            if row["verdict"] == verdict and row["evidence"] != "recorded":
                numbers = f"{float(row['estimate']):+.2f}" if row["estimate"] else ""
                lines.append(_cut(f"  {verdict:<6} {numbers:>6}  {row['paper']} {row['claim']}", width))
    return lines


def _check_hardware(profile: str, stages: Sequence[str]) -> None:
    """Read the hardware file of each stage that trains before anything runs: the last of them may be days away."""
    if any(stage in TRAINING_STAGES for stage in stages):
        from visdyn.pipeline.stage_hardware import read_hardware, refuse_optimizers  # not for `visdyn --help`

        params = load_params(profile)
        refuse_optimizers(params, read_hardware(params.runtime, stages))


def _write_metrics(profile: str) -> None:
    from visdyn.pipeline import headline
    from visdyn.reporting.results import ResultError

    try:
        headline.main(["--profile", profile])
    except ResultError as error:  # the stages have succeeded; the report says of each item what it lacks
        print(f"{headline.FILE} was not written: {error}", file=sys.stderr)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visdyn run", description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="these and what they wait for; all by default")
    parser.add_argument("--profile", default=".", help="folder with params.yaml (default: the embedded default)")
    parser.add_argument("--item", help="the stages of one table or figure: b_table2 (data/published/items.yaml)")
    parser.add_argument("--only", action="store_true", help="the named stages alone, not what they wait for")
    parser.add_argument("--force", action="store_true", help="though they are up to date")
    parser.add_argument("--keep-going", action="store_true", help="after a failure, with whatever does not wait for it")
    return parser


def run_command(command: list[str], folder: Path, variables: dict[str, str]) -> int:
    """Run a command that runs stages, to its end also after Ctrl-C; return its exit status."""
    environment = {**os.environ, **variables, "DVC_NO_ANALYTICS": "1"}
    # Were this program killed, DVC would go on alone, through all stages that are left.
    process = subprocess.Popen(command, cwd=folder, env=environment, preexec_fn=partial(end_with, os.getpid()))
    # Ctrl-C reaches DVC too, which ends its stages; a handler of ours only waits for that. A function, not SIG_IGN:
    # what is ignored here would be ignored by every process below.
    previous = {name: signal.signal(name, lambda signum, _: signum == signal.SIGTERM and process.terminate())
                for name in (signal.SIGINT, signal.SIGTERM)}  # fmt: skip
    try:
        return process.wait()
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def _is_made_by(deps: Sequence[str], outs: Sequence[str]) -> bool:
    return any(Path(dep).is_relative_to(out) or Path(out).is_relative_to(dep) for dep in deps for out in outs)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 3]}..."
