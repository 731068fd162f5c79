"""Who computes what is spread: processes of this machine, or a Ray cluster. No result depends on it.

`runtime.executor` of params.yaml says so; the runner hands it to a stage as VISDYN_EXECUTOR, which also overrides it,
as VISDYN_HARDWARE overrides `runtime.hardware`.
"""

from __future__ import annotations

import os

EXECUTORS = ("local", "ray")
VARIABLE = "VISDYN_EXECUTOR"


def chosen_executor() -> str:
    """Return one of `EXECUTORS`; `local` where nothing is said.

    Raises:
        ValueError: VISDYN_EXECUTOR names another.
    """
    return checked_executor(os.environ.get(VARIABLE) or "local", VARIABLE)


def checked_executor(name: str, where: str = "executor") -> str:
    """Return `name`, one of `EXECUTORS`.

    Raises:
        ValueError: it is another; the message calls its place `where`.
    """
    if name not in EXECUTORS:
        raise ValueError(f"{where}: unknown executor {name!r}; one of {', '.join(EXECUTORS)}")
    return name
