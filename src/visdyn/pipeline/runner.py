"""The runner between DVC and papermill: `python -m visdyn.pipeline <stage>` from a profile's folder.

It checks what the stage declares, runs the stage's notebook with this environment's Python, keeps the executed
notebook and its HTML (also when the run fails), and leaves no process behind. Notebooks call `open_stage`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visdyn.compute.executor import VARIABLE as EXECUTOR
from visdyn.params import Params, ParamsError, load_params
from visdyn.params.reading import read_values
from visdyn.params.runtime import choose_hardware
from visdyn.paths import profile_root, repository_root
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.guards import hold_stage, read_entry
from visdyn.pipeline.processes import TOKEN, Interrupted, supervised
from visdyn.pipeline.stage import Stage, known_folders, open_stage

if TYPE_CHECKING:
    from visdyn.pipeline.guards import Entry, Snapshot

__all__ = ["Stage", "StageError", "open_stage", "run_stage"]

LOG_TAIL = 20  # lines of the stage's log that a failure shows


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; return the exit status (0, 1 for a failure told in a sentence, 128 + n for signal n)."""
    parser = argparse.ArgumentParser(prog="python -m visdyn.pipeline", description="Run one stage of a profile.")
    parser.add_argument("stage", help="name of a stage in the profile's dvc.yaml")
    parser.add_argument("--profile", help="folder of the profile (default: the current one)")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args(arguments)
    try:
        _settle_root()
        run_stage(options.stage, options.profile or _profile_here(), dict(options.p))
    except Interrupted as error:
        print(f"{options.stage}: {error}; everything it had started is ended", file=sys.stderr)
        return 128 + error.signum
    except (StageError, ParamsError, OSError) as error:  # OSError: a missing profile, a full disk
        print(f"{options.stage}: {error}", file=sys.stderr)
        return 1
    return 0


def run_stage(name: str, profile: str = ".", values: dict[str, str] | None = None) -> Path:
    """Run a stage's notebook and return the executed copy.

    Args:
        name: a stage of the profile's dvc.yaml.
        profile: `.`, `profiles/smoke`, ...
        values: further notebook parameters as text; each must be named in the notebook's parameters cell.

    Raises:
        StageError: an undeclared or mistyped parameter, a missing dependency, a failed cell, or a dependency that
            changed while the stage ran.
        Interrupted: a signal stopped it.
    """
    root, settings = profile_root(profile), load_params(profile)
    entry = read_entry(root, name)
    with hold_stage(root / ".visdyn/locks" / f"{name}.lock", name, token := uuid.uuid4().hex):
        return _run_held(root, entry, profile, values, settings, token)


def _run_held(
    root: Path, entry: Entry, profile: str, values: dict[str, str] | None, settings: Params, token: str
) -> Path:
    # Imported here so that a notebook's `from visdyn.pipeline.runner import open_stage` need not load papermill.
    from visdyn.pipeline.arithmetic import is_portable, isolate, named_variables, settle
    from visdyn.pipeline.console import Console, find_place
    from visdyn.pipeline.fingerprint import recall_machine, record_stage
    from visdyn.pipeline.guards import BESIDE, key_of, snapshot
    from visdyn.pipeline.kernel import Kernel, execute
    from visdyn.pipeline.notebooks import checked_parameters, stage_values
    from visdyn.reporting.provenance import record_results

    name, notebook = entry.stage, (root / entry.notebook).resolve()
    before = snapshot(root, entry)
    given = {"profile": profile} | stage_values(notebook, getattr(settings, name, None))
    parameters = checked_parameters(notebook, given, values)
    output = root / "reports/notebooks" / notebook.name
    log = _fresh_log(root, name)
    settled, said = settle(os.environ, settings.runtime.threads)
    environment, more = isolate(settled, named_variables(read_values(root)))
    for line in [*said, *more]:
        print(f"{name}: {line}", file=sys.stderr)
    # What a native run left half done is not continued by a portable one.
    key = f"{key_of(before)}-portable" if is_portable(environment) else key_of(before)
    environment |= _kernel_environment(settings.runtime, log, key, token)
    environment["VISDYN_HARDWARE"] = choose_hardware(settings.runtime, name)  # the stage's own, whoever asks below
    folders = known_folders(root, repository_root(), settings)
    kernel = Kernel(notebook, output, parameters, log, root / f".visdyn/timings/{name}.json", folders)
    console = Console(find_place(root, name, repository_root()), log)
    with _set_environ(environment), supervised(token), console:
        machine = recall_machine(root / ".visdyn/machine.json")
        error = execute(kernel, console)
    if error:
        raise StageError(_describe_failure(error, output, log))
    _refuse_changes(root, entry, before)
    record_stage(root / "reports/machine.json", name, machine)
    if name in BESIDE:  # dvc.lock records what the others have written
        record_results(root, name)
    shutil.rmtree(root / ".visdyn/scratch" / name, ignore_errors=True)  # the outputs hold what it led to
    return output


def _settle_root() -> None:
    # DVC names the repository it runs in; `dvc exp run --temp` runs in a copy, which an editable install does not see.
    if root := os.environ.get("VISDYN_ROOT") or os.environ.get("DVC_ROOT"):
        os.environ["VISDYN_ROOT"] = root


def _profile_here() -> str:
    root, here = repository_root(), Path.cwd()
    if not here.is_relative_to(root):
        raise StageError(f"{here} is not inside {root}; run from a profile's folder or give --profile")
    return str(here.relative_to(root))


def _fresh_log(root: Path, name: str) -> Path:
    log = root / ".visdyn/logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    return log


def _kernel_environment(runtime: Any, log: Path, key: str, token: str) -> dict[str, str]:
    # The checkout first, then what runs here: a copy (`dvc exp run --temp`) need not be what is installed.
    paths = [str(repository_root() / "src"), str(Path(__file__).resolve().parents[2])]
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    return (offline if runtime.offline else {}) | {
        TOKEN: token,
        "VISDYN_ROOT": str(repository_root()),
        "VISDYN_PREFIX": sys.prefix,
        "VISDYN_LOG": str(log),
        "VISDYN_STAGE_KEY": key,
        EXECUTOR: os.environ.get(EXECUTOR) or runtime.executor,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "MPLCONFIGDIR": str(repository_root() / ".visdyn/matplotlib"),  # fonts it has found; no settings of the user's
    }


@contextlib.contextmanager
def _set_environ(environment: dict[str, str]) -> Iterator[None]:
    previous = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(previous)


def _describe_failure(error: str, output: Path, log: Path) -> str:
    tail = log.read_text(errors="replace").splitlines()[-LOG_TAIL:] if log.is_file() else []
    shown = "".join(f"\n    {line}" for line in tail)
    return f"{error}\n  executed notebook: {output} (and .html)\n  end of {log}:{shown or ' (empty)'}"


def _refuse_changes(root: Path, entry: Entry, before: Snapshot) -> None:
    from visdyn.pipeline.guards import changed

    if named := changed(root, entry, before):
        raise StageError(
            f"{', '.join(named)} changed while stage {entry.stage} ran, so its outputs belong to neither version; "
            "run `dvc repro` again without editing it meanwhile"
        )


if __name__ == "__main__":
    sys.exit(main())
