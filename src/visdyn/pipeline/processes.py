"""Ending everything a stage started, however the stage ends.

Each run puts a random token into the environment of its kernel; whatever the kernel starts inherits it, also through
launchers that open their own sessions. Ending a run means ending every process whose environment holds the token
(Linux `/proc`). A watchdog process does the same when the runner itself was killed without a chance to tidy up.

`guard_start` comes before everything else: DVC may be ended while the runner still imports, or hashes what the stage
depends on, which takes minutes at the papers' sizes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

TOKEN = "VISDYN_RUN"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE = 30.0  # seconds for processes that were killed to be gone
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


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
    deadline = time.monotonic() + PATIENCE
    while left and time.monotonic() < deadline:  # a process may start another between two looks: until none is left
        _signal_all(left, signal.SIGKILL)
        time.sleep(0.05)
        left = marked(token)
    if left:
        print(f"processes {', '.join(map(str, left))} could not be ended; end them before the next run",
              file=sys.stderr)  # fmt: skip
    return len(first)


def adopt_orphans() -> None:
    """Become the parent of what loses its own (Linux): a pool's processes hang on a server that no kernel waits for."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans(token: str, patience: float = 5.0) -> None:
    """Wait for the run's processes to end by themselves, at most `patience` seconds, and take the adopted ones in.

    Only a process that was waited for is counted in what a stage used.
    """
    deadline = time.monotonic() + patience
    while marked(token) and time.monotonic() < deadline:
        time.sleep(0.05)
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _read_stat(int(folder.name))
        if fields[:2] == ["Z", str(os.getpid())]:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(folder.name), os.WNOHANG)


def guard_start() -> None:
    """Be ended by the end of DVC and by a signal from here on, in one sentence: nothing runs yet that must be ended.

    `supervised` takes the signals over once something does.
    """
    for name in _list_signals():
        signal.signal(name, _stop_early)
    if "DVC_STAGE" in os.environ:
        _follow_dvc()


def end_with(parent: int) -> None:
    """Have this process sent SIGTERM when `parent`, which has just started it, ends however it does (Linux)."""
    _ask_for_end()
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)


def find_parent(rwlock: Path, folder: Path) -> int | None:
    """Return the process that runs this one for DVC; None where it is gone already.

    DVC notes in `.dvc/tmp/rwlock` which process writes what. A runner whose DVC has ended has another parent, which
    may be anyone: only the note tells.

    Args:
        rwlock: DVC's file.
        folder: of the profile, whose outputs are being written.
    """
    try:
        writing = json.loads(rwlock.read_text()).get("write", {})
        pids = {info["pid"] for path, info in writing.items() if Path(path).is_relative_to(folder)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pids = set()  # another version of DVC, or none
    if not pids:
        return os.getppid()
    return next((pid for pid in _list_ancestors() if pid in pids), None)


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

    signals = _list_signals()
    adopt_orphans()
    watchdog = _start_watchdog(token)
    previous = {name: signal.signal(name, stop) for name in signals}
    try:
        yield
    finally:
        end_marked(token)
        for name, handler in previous.items():
            signal.signal(name, handler)
        watchdog.stdin.close()
        watchdog.wait()


def kernel_prefix(token: str) -> str:
    """Return how the names of a run's folders in the temporary folder begin; the watchdog removes what is left."""
    return f"visdyn-{token[:6]}-"  # short: the path of a socket in it has 107 bytes at most


def _list_signals() -> list[signal.Signals]:
    # What `nohup` ignores stays ignored, so that a run outlives its terminal.
    return [name for name in SIGNALS if name != signal.SIGHUP or signal.getsignal(name) is not signal.SIG_IGN]


def _stop_early(signum: int, frame: object = None) -> None:
    said = f"{' '.join(sys.argv[1:2])}: stopped by {signal.Signals(signum).name}; nothing of it is running\n"
    with contextlib.suppress(OSError):
        os.write(2, said.encode())
    os._exit(128 + signum)  # no exception: half-imported modules would turn it into a traceback


def _ask_for_end() -> None:
    """Have the kernel send SIGTERM to this process when its parent ends; Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _follow_dvc() -> None:
    """End this process by SIGTERM when DVC ends, also where a shell stands between the two."""
    _ask_for_end()  # elsewhere than on Linux the watchdog below is all there is
    if not _read_start(os.getpid()):
        return  # no /proc
    root = os.environ.get("DVC_ROOT", ".")
    parent = find_parent(Path(root, ".dvc/tmp/rwlock"), Path.cwd())
    started = parent and _read_start(parent)
    if not started or started > _read_start(os.getpid()):
        _stop_early(signal.SIGTERM)

    def watch() -> None:
        while _read_start(parent) == started:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="follow-dvc").start()


def _list_ancestors() -> Iterator[int]:
    pid = os.getppid()
    while pid:
        yield pid
        fields = _read_stat(pid)
        pid = int(fields[1]) if fields else 0


def _read_start(pid: int) -> int:
    """Return when a process started, in ticks since the machine did; 0 where it has ended."""
    fields = _read_stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else 0


def _read_stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat behind the process's name: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return []


def _start_watchdog(token: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__)), token],
        stdin=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != TOKEN},
        start_new_session=True,  # a Ctrl-C in the terminal must not reach it
    )


def _signal_all(pids: list[int], signum: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)


if __name__ == "__main__":
    sys.stdin.read()  # returns when the runner closes the pipe, or dies
    end_marked(sys.argv[1])
    for folder in Path(tempfile.gettempdir()).glob(f"{kernel_prefix(sys.argv[1])}*"):
        shutil.rmtree(folder, ignore_errors=True)
