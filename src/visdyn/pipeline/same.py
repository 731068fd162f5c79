"""Whether two checkouts made the same bytes: `visdyn same BEFORE AFTER`.

A change that must not change results proves it: run the pipeline before and after on one machine (trained models differ
from one processor to the next), then compare. What is compared is every file that a stage of either checkout declares
as its output. Files that name code or runs rather than results (executed notebooks, the report that links to them) are
listed apart and do not decide.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from visdyn.paths import file_digest
from visdyn.yaml_files import read_yaml

# What holds import lines, file names of the code, or hashes of either: other bytes, the same results.
NAMES_CODE = ("reports/notebooks", "reports/index.html", "reports/provenance.json")
SHOWN = 20  # differing files that are printed by name


@dataclass
class Comparison:
    """Files of two checkouts, by what became of them (paths relative to the profile's folder, in the second)."""

    same: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    only_before: list[str] = field(default_factory=list)
    only_after: list[str] = field(default_factory=list)
    names_code: list[str] = field(default_factory=list)

    @property
    def is_same(self) -> bool:
        """Every output is there on both sides with the same bytes, and there is at least one."""
        return bool(self.same) and not (self.differs or self.only_before or self.only_after)


def compare(before: Path, after: Path, moved: dict[str, str] | None = None) -> Comparison:
    """Compare the outputs of two profile folders, byte for byte.

    Args:
        before: a profile's folder (the checkout itself, or its `profiles/smoke`) after its pipeline has run.
        after: the same profile's folder in the other checkout.
        moved: prefixes of paths that were renamed on purpose, old to new.

    Raises:
        FileNotFoundError: a folder has no dvc.lock, so no pipeline has run there.
    """
    first = {_move_path(path, moved or {}): file for path, file in _find_outputs(before).items()}
    second = _find_outputs(after)
    result = Comparison()
    for path in sorted(first | second):
        if path.startswith(NAMES_CODE):
            result.names_code.append(path)
        elif path not in second:
            result.only_before.append(path)
        elif path not in first:
            result.only_after.append(path)
        elif file_digest(first[path]) == file_digest(second[path]):
            result.same.append(path)
        else:
            result.differs.append(path)
    return result


def first_difference(before: Path, after: Path) -> str:
    """Say where two files part: the first line that differs of text, the sizes of anything else."""
    texts = [path.read_bytes() for path in (before, after)]
    if any(b"\0" in text[:4096] for text in texts):
        return f"{len(texts[0])} and {len(texts[1])} bytes"
    lines = zip_longest(*(text.decode(errors="replace").splitlines() for text in texts), fillvalue="(no line)")
    for number, (old, new) in enumerate(lines, 1):
        if old != new:
            return f"line {number}: {old[:100]!r} became {new[:100]!r}"
    return "line endings"


def main(arguments: list[str] | None = None) -> int:
    """Print what is the same and what is not; status 1 unless every result has the same bytes."""
    parser = argparse.ArgumentParser(prog="visdyn same", description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="folder of a profile whose pipeline has run")
    parser.add_argument("after", type=Path, help="the same profile's folder in another checkout")
    parser.add_argument("--moved", action="append", default=[], metavar="OLD=NEW", help="a path renamed on purpose")
    options = parser.parse_args(arguments)
    moved = dict(item.split("=", 1) for item in options.moved)
    try:
        result = compare(options.before, options.after, moved)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    back = {_move_path(path, moved): file for path, file in _find_outputs(options.before).items()}
    for path in result.differs[:SHOWN]:
        print(f"differs: {path}: {first_difference(back[path], options.after / path)}")
    if len(result.differs) > SHOWN:
        print(f"... and {len(result.differs) - SHOWN} more that differ")
    for side, paths in (("before", result.only_before), ("after", result.only_after)):
        for folder, number in Counter(str(Path(path).parent) for path in paths).items():
            print(f"only {side}: {number} files in {folder}")
    kinds = Counter("/".join(Path(path).parts[:2]) for path in result.same)
    print(f"same bytes: {len(result.same)} files ({', '.join(f'{kind} {n}' for kind, n in sorted(kinds.items()))})")
    print(f"not compared, they name the code: {len(result.names_code)} files in {', '.join(NAMES_CODE)}")
    print("verdict: " + ("the same" if result.is_same else "NOT the same"))
    return 0 if result.is_same else 1


def _find_outputs(profile: Path) -> dict[str, Path]:
    """Return the files that the profile's dvc.lock names as outputs, by their path from the profile's folder."""
    lock = profile / "dvc.lock"
    if not lock.is_file():
        raise FileNotFoundError(f"{profile} has no dvc.lock; run `dvc repro` there first")
    stages = read_yaml(lock)["stages"].values()
    outputs = [profile / out["path"] for stage in stages for out in stage.get("outs", [])]
    return {str(file.relative_to(profile)): file for output in outputs for file in _walk_files(output)}


def _walk_files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())
    elif path.is_file():
        yield path


def _move_path(path: str, moved: dict[str, str]) -> str:
    for old, new in moved.items():
        if path.startswith(old):
            return new + path.removeprefix(old)
    return path


if __name__ == "__main__":
    sys.exit(main())
