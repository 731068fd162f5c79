"""Executing a notebook with papermill: this environment's kernel, output to a log file that the console reads."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visdyn.paths import repository_root
from visdyn.pipeline.console import Console, name_cell
from visdyn.pipeline.executed import first_error, write_record
from visdyn.pipeline.processes import TOKEN, kernel_prefix, reap_orphans

PER_MIB = 2**20 if sys.platform == "darwin" else 2**10  # of what getrusage counts memory in


@dataclass(frozen=True)
class Kernel:
    """What one execution needs: absolute paths, the parameters to inject, and folders that its record does not name."""

    notebook: Path
    output: Path
    parameters: dict[str, Any]
    log: Path
    timings: Path
    folders: tuple[str, ...] = ()


def execute(run: Kernel, console: Console) -> str:
    """Execute the notebook; return an empty string, or the error of the cell that failed.

    The console is told which cell is under way. The executed notebook, its HTML and its timings are written in every
    case, also when a signal interrupts. Where they cannot be (a full disk), that is said behind the run's own error,
    never in its place.
    """
    run.output.parent.mkdir(parents=True, exist_ok=True)
    for stale in (run.output, run.output.with_suffix(".html")):
        stale.unlink(missing_ok=True)
    try:
        error = _execute_cells(run, console)
    except BaseException:
        _keep_record(run)
        raise
    return "; ".join(filter(None, [error, _keep_record(run)]))


def _keep_record(run: Kernel) -> str:
    """Write what is kept of a run; return why that cannot be done, "" where it can."""
    try:
        if run.output.exists():
            reap_orphans(os.environ.get(TOKEN, ""))
            write_record(run.output, run.timings, cost(), run.folders)
    except Exception as problem:  # whatever a half-written notebook makes of its reader
        line = str(problem).partition("\n")[0]
        return f"the executed notebook could not be kept ({type(problem).__name__}: {line[:200]})"
    return ""


def cost() -> dict[str, float]:
    """Return CPU seconds and peak memory (MiB) of this process's ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"cpu_seconds": round(used.ru_utime + used.ru_stime, 2), "peak_mib": round(used.ru_maxrss / PER_MIB, 1)}


def _execute_cells(run: Kernel, console: Console) -> str:
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    _register_engine()
    logging.getLogger("papermill").setLevel(logging.WARNING)
    prefix = kernel_prefix(os.environ.get(TOKEN, "kernel"))
    place = os.environ.get("TMPDIR")  # not `tempfile.gettempdir()`, which this process may have settled before
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as folder,
        open(run.log, "a", buffering=1) as log,
    ):
        _write_kernel_spec(Path(folder))
        os.environ.update(
            JUPYTER_PATH=folder,  # searched first, so that no kernel spec of the user's can stand in for this one
            JUPYTER_RUNTIME_DIR=folder,  # its sockets lie here, and their paths must be short
            JUPYTER_CONFIG_DIR=f"{folder}/config",
            IPYTHONDIR=f"{folder}/ipython",  # no start-up files or history of the user's
        )
        try:
            papermill.execute_notebook(
                str(run.notebook),
                str(run.output),
                parameters=run.parameters,
                engine_name="visdyn",
                kernel_name="python3",
                cwd=str(repository_root()),
                progress_bar=False,
                stdout_file=log,
                stderr_file=log,
                console=console,
                config=Config(ConnectionFileMixin={"transport": "ipc"}),  # files of this user, not open ports
            )
        except PapermillExecutionError as error:
            said = _read_cell_error(run.output) or f"{error.ename}: {error.evalue}"
            return f"cell {error.exec_count} failed with {said}"
        except Exception as error:  # a dead kernel, a kernel that does not start
            return f"the notebook's kernel ended with {type(error).__name__}: {error}"
    return ""


def _read_cell_error(notebook: Path) -> str:
    try:
        return first_error(notebook)
    except Exception:  # it was not written to its end; papermill knows the error too
        return ""


def _write_kernel_spec(folder: Path) -> None:
    spec = folder / "kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    # What the kernel says about itself goes to the stage's log, not between the progress lines.
    shell = ["/bin/sh", "-c", 'exec "$0" "$@" >>"$VISDYN_LOG" 2>&1']
    arguments = [*shell, sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": arguments, "display_name": "Python 3 (ipykernel)", "language": "python"}))


def _register_engine() -> None:
    from papermill.engines import NBClientEngine, papermill_engines

    class TellingEngine(NBClientEngine):
        """papermill's engine that also tells the console which code cell is under way."""

        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, console=None, **options):
            _tell_cells(nb_man, console)
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register("visdyn", TellingEngine)


def _tell_cells(manager: Any, console: Console) -> None:
    # Papermill has no hook of its own for a cell's end: the manager's two methods are wrapped.
    complete, start = manager.cell_complete, manager.cell_start
    codes = [index for index, cell in enumerate(manager.nb.cells) if cell.cell_type == "code"]
    console.cells, began = len(codes), {}

    def started(cell, cell_index=None, **options):
        began[cell_index] = time.monotonic()
        if cell_index in codes:
            console.start_cell(codes.index(cell_index) + 1, name_cell(manager.nb.cells, cell_index))
        return start(cell, cell_index, **options)

    def completed(cell, cell_index=None, **options):
        if cell_index in codes:
            console.end_cell(time.monotonic() - began[cell_index])
        return complete(cell, cell_index, **options)

    manager.cell_start, manager.cell_complete = started, completed
