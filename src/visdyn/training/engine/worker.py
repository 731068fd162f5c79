"""The process that trains one job: forked from a warm server, or started by DeepSpeed's launcher.

Importing torch and transformers takes longer than many of the embedded profile's trainings wait for anything else; the
server does it once a stage, and each job is a fork of it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints

from visdyn.compute.pool import end_when, end_with_parent, warm_context
from visdyn.params.reading import from_mapping
from visdyn.paths import repository_root
from visdyn.pipeline.arithmetic import left_out, settle
from visdyn.readers import read_json


class Worker:
    """A running job, with the few methods of `subprocess.Popen` that the launcher needs."""

    def __init__(self, process: multiprocessing.Process) -> None:
        self._process = process
        self.terminate, self.kill = process.terminate, process.kill

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self._process.exitcode


def fork_worker(job: Path, log: Path, hardware) -> Worker:
    """Run a job file in a fork of the warm server, as a `launch.Hardware` says, with its output in `log`."""
    arguments = (str(job), str(log), _thread_environment(hardware))
    process = warm_context().Process(target=_run_forked, args=arguments, name=job.parent.name)
    process.start()
    return Worker(process)


def launch_worker(job: Path, log: Path, hardware) -> subprocess.Popen:
    """Run a job file through DeepSpeed's launcher as a `launch.Hardware` says, with its output in `log`."""
    module = ["--module", "visdyn.training.engine.worker", str(job)]
    options = [str(option) for option in hardware.launcher_options]
    command = [sys.executable, "-m", "deepspeed.launcher.runner", *options, *module]
    with log.open("a") as file:
        environment = settle(os.environ, hardware.threads)[0] | _thread_environment(hardware)
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=repository_root())


def _thread_environment(hardware) -> dict[str, str]:
    count = str(hardware.threads)
    own = {name: str(value) for name, value in hardware.environment.items()}
    return {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "TOKENIZERS_PARALLELISM": "false", **own}


def _run_forked(job: str, log: str, variables: dict[str, str]) -> None:
    """Become the worker: output to the log, threads as asked for, the repository as working directory."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=True)  # else what was printed before an error would follow it in the log
    for name in left_out(os.environ):  # a notebook of one's own may be one of a job's ranks; this process is alone
        del os.environ[name]
    os.environ.update(variables)
    os.chdir(repository_root())
    end_with_parent()
    main(job)


def main(path: str) -> None:
    """Run the recipe that a job file describes."""
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    without_kernels()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    job = read_json(path, dict)
    module, _, name = job["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    from visdyn.training.engine.fit import DivergedError

    try:
        function(**read_arguments(function, job["arguments"], path))
    except DivergedError as error:  # one sentence, where a traceback would hide it
        raise SystemExit(str(error)) from None


def read_arguments(function: Callable, arguments: dict, path: str) -> dict:
    """Return the arguments of a job file, its mappings read strictly where the function takes a dataclass.

    Raises:
        ParamsError: a mapping has a key too many, too few or mistyped; `path` names the file.
    """
    kinds = {name: kind for name, kind in get_type_hints(function).items() if is_dataclass(kind)}
    read = {name: from_mapping(kinds[name], arguments[name], path, name) for name in kinds if name in arguments}
    return {**arguments, **read}


def without_kernels() -> None:
    """Keep several ranks on a CPU from compiling DeepSpeed's optional kernel, which takes minutes and a compiler."""
    if os.environ.get("DS_ACCELERATOR") == "cpu" and "WORLD_SIZE" in os.environ:
        import deepspeed

        deepspeed.ops.__compatible_ops__.update(dict.fromkeys(deepspeed.ops.__compatible_ops__, False))


def end_rank() -> None:
    """End this process at once, with success, where it is one of several ranks; return where it is alone.

    DeepSpeed holds its process groups to the end of the interpreter, and a thread of theirs that then still lets go of
    a Python object aborts the process (SIGABRT), now and then, after everything has been saved. The ranks wait for each
    other first: the store that all of them use lives in the first one.
    """
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    torch.distributed.barrier()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def _parent_gone(every: float = 1.0) -> None:
    """Return when the parent process is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(every)


if __name__ == "__main__":
    end_when(_parent_gone)
    main(sys.argv[-1])
    end_rank()
