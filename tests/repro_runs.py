"""Whole runs of a small profile, disturbed and compared with an undisturbed one, byte for byte.

    python tests/repro_runs.py FOLDER kills [--tries 20] [--seed 0] [--longer 1] [--to-the-end]
    python tests/repro_runs.py FOLDER foreign

`kills` kills something of a run at a random second, types the same command again, and compares. `foreign` runs the
profile in a shell full of foreign settings (tests/foreign_environment.py). Both begin with an undisturbed run of a
copy of this checkout in FOLDER/undisturbed, each of whose stages is timed. All is kept in FOLDER: what was ended is
gone on with by the same command, and a try that stands in FOLDER/kills.csv is not made again.

A second is drawn from all that the undisturbed run computed, which names a stage and a second of it; seconds are the
processor's, so that a try is killed at the same place however busy the machine is. Before a try the copy
stands as it stood when that stage began: without the outputs of it and of what follows, without scratch, kept codes
and DVC's cache. What follows is a function of the files that are compared, so a try ends with the stage; with
--to-the-end it ends with the pipeline.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

from checkouts import copy_checkout
from foreign_environment import FOREIGN
from reliability_page import Result, find_commit, write_results
from ruamel.yaml import YAML

PROFILE = "profiles/smoke"
MARK = "VISDYN_TRY"  # reaches every process of a try: what may reach a stage includes VISDYN_*
PACE = 4  # steps between two checkpoints of longer trainings
CHECKPOINTS = "**/checkpoint-*/complete"  # those of a training that are whole
PATIENCE = 300  # seconds for the processes of a killed run to be gone
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("everything", "the command", "DVC", "the runner", "any")
CACHES = (f"{PROFILE}/.visdyn", f"{PROFILE}/data/kept", ".visdyn", ".dvc/cache", ".dvc/tmp")


def main(arguments: list[str] | None = None) -> int:
    """Print what was tried and what held; return 1 where something did not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="an empty folder, or one that an earlier call has filled")
    parser.add_argument("what", choices=("kills", "foreign"))
    parser.add_argument("--write", action="store_true", help="put the numbers into docs/reliability.csv and its page")
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longer", type=int, default=1, help="trainings of so many times the steps")
    parser.add_argument("--to-the-end", action="store_true", help="after a kill, the whole pipeline")
    options = parser.parse_args(arguments)
    seconds = run_undisturbed(options.folder, options.longer)
    family, size, tried, held = try_kills(options, seconds) if options.what == "kills" else compare_foreign(options)
    if options.write:
        write_results([Result(family, tried, held, size, options.seed, find_commit())])
    return int(held < tried)


# ---------------------------------------------------------------- an undisturbed run
def run_undisturbed(folder: Path, longer: int = 1) -> dict[str, float]:
    """Run the profile stage by stage in a copy of this checkout; return the processor's seconds that each took."""
    checkout, table = folder / "undisturbed", folder / "seconds.csv"
    if not (checkout / PROFILE / "params.yaml").exists():
        shutil.rmtree(checkout, ignore_errors=True)
        make_copy(checkout, longer)
    seconds = {row["stage"]: float(row["seconds"]) for row in _read_rows(table)}
    for stage in list_stages(checkout):
        if stage not in seconds:
            before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])  # user and system
            status = start(checkout, [stage]).wait()
            if status:
                raise SystemExit(f"the undisturbed run ended with {status} in {stage}: {checkout}/{PROFILE}/.visdyn")
            seconds[stage] = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
            _add_row(table, {"stage": stage, "seconds": f"{seconds[stage]:.1f}"})
    return seconds


def make_copy(checkout: Path, longer: int) -> None:
    """Copy the checkout, with trainings of `longer` times the profile's steps."""
    copy_checkout(checkout)
    path = checkout / PROFILE / "params.yaml"
    text = re.sub(r"(?m)^(\s+steps: )(\d+)", lambda found: f"{found[1]}{int(found[2]) * longer}", path.read_text())
    if longer > 1:  # fine-tunings are resumable every few steps, so that what is killed is resumed in its middle
        text = re.sub(r"(?m)^( +)precision: .*$", rf"\g<0>\n\1log_every: {PACE}\n\1save_every: {PACE}", text)
    path.write_text(text)


def list_stages(checkout: Path) -> list[str]:
    """Return the stages in DVC's order."""
    return list(YAML(typ="safe").load(checkout / PROFILE / "dvc.yaml")["stages"])


def read_lock(checkout: Path) -> dict[str, dict]:
    """Return what dvc.lock holds of each stage; nothing where there is none."""
    path = checkout / PROFILE / "dvc.lock"
    return YAML(typ="safe").load(path)["stages"] if path.exists() else {}


def start(checkout: Path, stages: list[str], foreign: bool = False, **variables: str) -> subprocess.Popen:
    """Start `visdyn run` in a copy, in a session of its own; its log is beside the copy."""
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("VISDYN_ROOT", "DVC_ROOT", "DVC_STAGE", MARK))}  # fmt: skip
    environment |= FOREIGN if foreign else {}
    paths = [str(checkout / "src"), environment.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = [sys.executable, "-m", "visdyn", "run", "--profile", PROFILE, *stages]
    with open(checkout.parent / f"{checkout.name}.log", "ab") as log:
        return subprocess.Popen(command, cwd=checkout, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                stderr=log, start_new_session=True, preexec_fn=_hear_ctrl_c)  # fmt: skip


def _hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored by what a shell has put into the background


def find_differences(left: dict[str, dict], right: dict[str, dict]) -> list[str]:
    """Return the outputs, of the stages that `right` has, whose hashes are not those of `left`."""
    found = []
    for stage, entry in right.items():
        wanted = {out["path"]: out["md5"] for out in left[stage]["outs"]}
        made = {out["path"]: out["md5"] for out in entry["outs"]}
        found += [f"{stage}: {path}" for path in sorted(wanted | made) if wanted.get(path) != made.get(path)]
    return found


# ---------------------------------------------------------------- kills
def try_kills(options: argparse.Namespace, seconds: dict[str, float]) -> tuple[str, str, int, int]:
    """Make the tries that the table lacks; return the family's row: name, size, tried, held."""
    table, number = options.folder / "kills.csv", 0
    while len(rows := [row for row in _read_rows(table) if row["same"]]) < options.tries:
        number += 1
        if not any(int(row["try"]) == number for row in _read_rows(table)):
            row = try_kill(options, seconds, number)
            _add_row(table, row)
            print(*(f"{key} {value}" for key, value in row.items()), sep=", ", flush=True)
    same, clean = (sum(row[key] == good for row in rows) for key, good in (("same", "yes"), ("left", "0")))
    begun, resumed = (sum(int(row[key]) > 0 for row in rows) for key in ("scratch_files", "checkpoints"))
    print(f"{len(rows)} kills: {same} with the same results, {clean} with no process left; "
          f"{begun} had scratch files, {resumed} a training that was resumed in its middle")  # fmt: skip
    held = sum(row["same"] == "yes" and row["left"] == "0" for row in rows)
    return "repro kills", f"smoke x {options.longer}", len(rows), held


def try_kill(options: argparse.Namespace, seconds: dict[str, float], number: int) -> dict[str, object]:
    """Kill at a random second, run again, compare; `same` is empty where the run had ended by then."""
    draw = random.Random(f"{options.seed}:{number}")
    stage, second = draw_moment(draw, seconds)
    name, target = draw.choice(SIGNALS), draw.choice(TARGETS)
    work, token = options.folder / "killed", uuid.uuid4().hex
    set_back(options.folder / "undisturbed", work, stage)
    stages = [] if options.to_the_end else [stage]
    row = {"try": number, "stage": stage, "second": f"{second:.1f}", "of": f"{seconds[stage]:.1f}",
           "signal": name.name, "target": target, "scratch_files": 0, "checkpoints": 0,
           "left": 0, "same": "", "differs": ""}  # fmt: skip
    command = start(work, stages, **{MARK: token})
    while command.poll() is None and count_seconds(token) < second:
        time.sleep(0.1)
    if command.poll() is not None:
        return row
    send(draw, command, token, name, target)
    row["left"] = len(wait_for_end(command, token))
    scratch = work / PROFILE / ".visdyn/scratch"
    row["scratch_files"] = sum(path.is_file() for path in scratch.rglob("*"))
    row["checkpoints"] = len(list(scratch.glob(CHECKPOINTS)))
    for pid in find_marked(token):  # counted above; the second run is not to meet them
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    status = start(work, stages, **{MARK: token}).wait()
    wanted, made = read_lock(options.folder / "undisturbed"), read_lock(work)
    differ = [f"ended with {status}"] * (status != 0) + [f"{stage}: not run"] * (stage not in made)
    differ += find_differences(wanted, made)
    return row | {"same": "no" if differ else "yes", "differs": "; ".join(differ[:5])}


def draw_moment(draw: random.Random, seconds: dict[str, float]) -> tuple[str, float]:
    """Return a stage and a second of it, each second of the whole run being as likely."""
    moment = draw.uniform(0, sum(seconds.values()))
    for stage, length in seconds.items():
        if moment < length:
            return stage, moment
        moment -= length
    return stage, length  # rounding


def set_back(undisturbed: Path, work: Path, stage: str) -> None:
    """Make the copy as it was before `stage`, the files of earlier stages apart."""
    shutil.rmtree(work, ignore_errors=True)
    caches = {str(undisturbed / cache) for cache in CACHES}
    shutil.copytree(undisturbed, work, symlinks=True,
                    ignore=lambda at, names: [name for name in names if os.path.join(at, name) in caches])  # fmt: skip
    stages, lock = list_stages(work), read_lock(work)
    for later in stages[stages.index(stage) :]:
        for out in lock.pop(later, {"outs": []})["outs"]:
            path = work / PROFILE / out["path"]
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    YAML().dump({"schema": "2.0", "stages": lock}, work / PROFILE / "dvc.lock")


def send(draw: random.Random, command: subprocess.Popen, token: str, name: signal.Signals, target: str) -> None:
    """Send a signal to one process of the run, or to all of them at once; a Ctrl-C goes to the terminal's group."""
    if name == signal.SIGINT:
        with suppress(OSError):
            os.killpg(command.pid, name)
        return
    pids = {pid: _read_command(pid) for pid in find_marked(token)}
    chosen = {
        "everything": list(pids),
        "the command": [command.pid],
        "DVC": [pid for pid, words in pids.items() if "-m dvc" in words],
        "the runner": [pid for pid, words in pids.items() if "visdyn.pipeline" in words],
        "any": [draw.choice(sorted(pids))] if pids else [],
    }[target] or [command.pid]  # DVC or the runner has not begun
    for pid in chosen:
        with suppress(OSError):
            os.kill(pid, name)


def wait_for_end(command: subprocess.Popen, token: str) -> list[int]:
    """Wait for the run to end (it goes on where a helper was killed), and return the processes that are left."""
    command.wait()
    deadline = time.monotonic() + PATIENCE
    while find_marked(token) and time.monotonic() < deadline:
        time.sleep(0.5)
    return find_marked(token)


def find_marked(token: str) -> list[int]:
    """Return the live processes whose environment holds the token (Linux)."""
    wanted, found = f"{MARK}={token}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX" and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def count_seconds(token: str) -> float:
    """Return the seconds of processors that a run's live processes, and those that they waited for, have taken."""
    ticks = 0
    for pid in find_marked(token):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # user and system; its own, and of its children
    return ticks / os.sysconf("SC_CLK_TCK")


def _read_command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


# ---------------------------------------------------------------- a foreign shell
def compare_foreign(options: argparse.Namespace) -> tuple[str, str, int, int]:
    """Run the profile under foreign settings; return the family's row: outputs, and those of the same bytes."""
    undisturbed, checkout = options.folder / "undisturbed", options.folder / "foreign"
    wanted = read_lock(undisturbed)
    if not (checkout / PROFILE / "params.yaml").exists():
        set_back(undisturbed, checkout, list_stages(undisturbed)[0])
    status = start(checkout, [], foreign=True).wait()
    made = read_lock(checkout)
    outputs, came = (sum(len(entry["outs"]) for entry in lock.values()) for lock in (wanted, made))
    differ = find_differences(wanted, made)
    print(f"{len(FOREIGN)} foreign settings; ended with {status}; {came} of {outputs} outputs, {len(differ)} differ")
    print(*differ, sep="\n")
    return "foreign settings", f"smoke x {options.longer}", outputs, came - len(differ)


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _add_row(path: Path, row: dict[str, object]) -> None:
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    sys.exit(main())
