"""What a stage used is what all of its processes used, those that hang on a pool's server included."""

import subprocess
import sys

import pytest

BURN = 1.5  # CPU seconds of the pool's process

KERNEL = f"""
import time
from visdyn.compute.pool import warm_context
def burn():
    while time.process_time() < {BURN}: pass
if __name__ == "__main__":
    context = warm_context()
    context.set_forkserver_preload([])
    process = context.Process(target=burn); process.start(); process.join()
"""

RUNNER = """
import os, subprocess, sys
from visdyn.pipeline.kernel import cost
from visdyn.pipeline.processes import TOKEN, adopt_orphans, reap_orphans
adopt_orphans()
subprocess.run([sys.executable, sys.argv[1]], env=os.environ | {TOKEN: "cost"}, check=True)
reap_orphans("cost")
print(cost()["cpu_seconds"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
def test_a_stages_cpu_seconds_hold_those_of_its_pools_processes(tmp_path):
    (tmp_path / "kernel.py").write_text(KERNEL)
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(tmp_path / "kernel.py")], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) > BURN
