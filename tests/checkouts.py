"""Copies of the working tree in which tests run DVC."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from visdyn.paths import repository_root


def dvc(folder: Path, *arguments: str, **environment: str) -> str:
    """Run DVC in a copy of the repository, with further environment variables, and return what it printed."""
    variables = {
        **os.environ,
        **environment,
        "PYTHONPATH": str(folder / "src"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for name in ("VISDYN_ROOT", "DVC_ROOT", "DVC_STAGE"):
        variables.pop(name, None)
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def copy_checkout(folder: Path) -> Path:
    """Copy the working tree, as git sees it and without generated reports, into a git repository of its own."""
    root = repository_root()
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        generated = name.startswith(("reports/", "profiles/smoke/reports/"))
        # What no stage of DVC's writes is there before the first run.
        written = name.startswith(("reports/results/external/", "reports/results/robust/"))
        if (root / name).is_file() and (written or not generated):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name, follow_symlinks=False)
    (folder / "profiles/smoke/dvc.lock").unlink(missing_ok=True)
    subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    return folder
