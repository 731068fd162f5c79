"""Starting training jobs: forks of one warm process against a fresh Python for each.

`python benchmarks/warm_processes.py`: about a minute on 2 cores. A job here only imports what a recipe imports, so
the ratio is that of the start alone.
"""

from __future__ import annotations

import subprocess
import sys
import time

from visdyn.compute.pool import map_processes

JOBS = 6
RECIPE = "visdyn.training.dynamics"


def start(_, job: int) -> int:
    """Import what a recipe imports."""
    __import__(RECIPE)
    return job


def fresh() -> None:
    """Run the jobs two at a time, each in a Python of its own."""
    for _ in range(JOBS // 2):
        pair = [subprocess.Popen([sys.executable, "-c", f"import {RECIPE}"]) for _ in range(2)]
        for process in pair:
            process.wait()


def seconds(work) -> float:
    """Return the wall time of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    plain = seconds(fresh)
    # One process a job, as the launcher does it: map_processes keeps its processes, so it is called once a pair.
    warm = seconds(lambda: [map_processes(start, [job, job + 1], processes=2) for job in range(0, JOBS, 2)])
    print(f"{JOBS} jobs, two at a time: {plain:.1f} s fresh, {warm:.1f} s forked, {plain / warm:.1f} times faster")
