"""What a run has changed of the files in git, why, and how to put them back or keep them.

Results are in git, so a run whose arithmetic is another one than the committed run's changes hundreds of files. A
newcomer should read that in one place, and not in `git status`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from visdyn.paths import profile_root, repository_root
from visdyn.pipeline.arithmetic import is_portable
from visdyn.readers import parse_json, read_json
from visdyn.reporting.provenance import name_families, read_families


def describe_changes(profile: str = ".") -> list[str]:
    """Return the lines with which `make repro` ends: results that differ from the last commit's, and what to do.

    Returns:
        Nothing where there is no git checkout.
    """
    repository, root = repository_root(), profile_root(profile)
    places = [(root / part).relative_to(repository).as_posix() for part in ("reports", "dvc.lock")]
    listed = _git(repository, "status", "--porcelain", "--untracked-files=no", "--", *places)
    if listed is None:
        return []
    lines = _name_native_stages(root / "reports/machine.json")
    number = len(listed.splitlines())
    if not number:
        return [*lines, "Every result in git is byte for byte that of the last commit."]
    reference = _git(repository, "show", f"HEAD:{places[0]}/machine.json")
    committed = parse_json(reference, "the committed machine.json", dict)["machines"] if reference else {}
    lines.append(f"{number} files in git ({', '.join(places)}) differ from the last commit's: "
                 + _say_why(committed, read_families(root / "reports/machine.json")))  # fmt: skip
    if "portable" in name_families(committed).values() and not is_portable():
        lines.append("  to make its bytes here:       PORTABLE=1 dvc repro --force")
    lines += [
        f"  to put the committed ones back: git restore -- {' '.join(places)}",
        f"  to keep these:                git commit -m 'Results of this machine' -- {' '.join(places)}",
    ]
    return lines


def _say_why(committed: dict, here: dict[str, str]) -> str:
    if not committed or not here:
        return "which machine made either is not recorded."
    names = [", ".join(f"{name} ({kind})" for name, kind in one.items()) for one in (name_families(committed), here)]
    if committed.keys() == here.keys():
        return f"the arithmetic is the same, {names[1]}, so code, parameters or data are not those of that commit."
    return (
        f"the committed run was made by the family of machines {names[0]}, this one by {names[1]}. Another family "
        "adds in another order, so that every trained model has other weights: compare verdicts, not digits."
    )


def _name_native_stages(path: Path) -> list[str]:
    """Say which stages were made before PORTABLE was asked for: DVC takes what is there as made."""
    if not is_portable() or not path.is_file():
        return []
    families, stages = read_families(path), read_json(path, dict)["stages"]
    native = sorted(stage for stage, family in stages.items() if families[family] == "native")
    if not native:
        return []
    return [f"PORTABLE is set, but these stages were made without it: {', '.join(native)}. "
            "`PORTABLE=1 dvc repro --force` makes them again."]  # fmt: skip


def _git(repository: Path, *arguments: str) -> str | None:
    """Return what a git command prints, or None where it fails (no checkout, no such file in the last commit)."""
    found = subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True)
    return None if found.returncode else found.stdout
