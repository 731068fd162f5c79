"""Ending everything a stage started, however the stage ends.

Each run puts a random token into the environment of its kernel; whatever the kernel starts inherits it, also through
launchers that open their own sessions. Ending a run means ending every process whose environment holds the token
(Linux `/proc`). A watchdog process does the same when the runner itself was killed without a chance to tidy up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TOKEN = "VISDYN_RUN"
_PR_SET_PDEATHSIG = 1


class Interrupted(KeyboardInterrupt):
    """The runner was asked to stop by a signal; its number is in `signum`."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def marked(token: str) -> list[int]:
    """Return the ids of the live processes whose environment holds the run's token, the caller excepted."""
    wanted = f"{TOKEN}={token}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if alive and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return [pid for pid in found if pid != os.getpid()]


def end_marked(token: str, grace: float = 5.0) -> int:
    """End the run's processes: SIGTERM, then SIGKILL after `grace` seconds. Returns how many there were."""
    first = marked(token)
    _signal_all(first, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while (left := marked(token)) and time.monotonic() < deadline:
        time.sleep(0.05)
    while left:  # a process may start another between two looks, so look until none is left
        _signal_all(left, signal.SIGKILL)
        time.sleep(0.05)
        left = marked(token)
    return len(first)


@contextlib.contextmanager
def supervised(token: str) -> Iterator[None]:
    """Run the body so that a signal, an error or a kill of this process ends every process marked with `token`.

    Raises:
        Interrupted: SIGTERM, SIGINT or SIGHUP arrived; the marked processes are gone by then.
    """

    def stop(signum: int, frame) -> None:
        for name in signals:
            signal.signal(name, signal.SIG_IGN)
        end_marked(token)
        raise Interrupted(signum)

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    watchdog = _start_watchdog(token)
    if "DVC_STAGE" in os.environ:
        _signal_on_parent_death(signal.SIGTERM)  # `kill dvc` does not reach its commands otherwise
    previous = {name: signal.signal(name, stop) for name in signals}
    try:
        yield
    finally:
        end_marked(token)
        for name, handler in previous.items():
            signal.signal(name, handler)
        watchdog.stdin.close()
        watchdog.wait()


def _start_watchdog(token: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__)), token],
        stdin=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != TOKEN},
        start_new_session=True,  # a Ctrl-C in the terminal must not reach it
    )


def _signal_on_parent_death(signum: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere the watchdog is all there is
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)


def _signal_all(pids: list[int], signum: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


if __name__ == "__main__":
    sys.stdin.read()  # returns when the runner closes the pipe, or dies
    end_marked(sys.argv[1])
