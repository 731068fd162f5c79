"""Guards around a stage: what its entry in dvc.yaml declares, hashed when the stage starts and again when it ends.

DVC records the hashes of dependencies after the command has ended (treeverse/dvc#11058), so an edit made while a
stage runs would tie the old outputs to the new code. The runner fails such a stage.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, TextIO

from visdyn.pipeline.errors import StageError
from visdyn.pipeline.processes import end_marked
from visdyn.yaml_files import YamlError, clipped, read_yaml

# Folders that .dvcignore names too: Python writes bytecode beside the sources while a stage runs.
IGNORED = {"__pycache__", ".ipynb_checkpoints"}
# Runs beside DVC's graph (`make robust`): it reads a finished run, and nothing waits for it.
BESIDE = {
    "robust": {
        "deps": [
            "${root}/notebooks/11_robustness.ipynb", "data/kitchen", "data/mined", "data/annotated",
            "models/base", "models/idm", "models/generator", "models/fdm", "models/doundo", "models/clip",
            "models/dino", "reports/results/fdm", "reports/results/evaluation",
            "reports/results/evaluation_doundo",
        ],
        "params": ["seed", "chains", "mining", "annotation", "fdm", "doundo", "evaluation", "evaluation_doundo"],
    }
}  # fmt: skip
# Files above this many bytes are compared by size and time only: hashing a 14 GB checkpoint twice costs minutes.
LARGE_FILE = 64 * 2**20


@dataclass(frozen=True)
class Entry:
    """One stage of dvc.yaml; paths are relative to the profile's folder."""

    stage: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def notebook(self) -> str:
        """The one notebook among the dependencies."""
        notebooks = [dep for dep in self.deps if dep.endswith(".ipynb")]
        if len(notebooks) != 1:
            raise StageError(f"stage {self.stage} in dvc.yaml must depend on one notebook, not {len(notebooks)}")
        return notebooks[0]


@dataclass(frozen=True)
class Signature:
    """What one file was: stat values and a digest of its content (empty for a large file)."""

    size: int
    modified: int
    digest: str


Snapshot = dict[str, dict[str, Signature]]


@contextlib.contextmanager
def hold_stage(path: Path, name: str, token: str) -> Iterator[None]:
    """Hold the lock of a stage while it runs: two runners would write one scratch folder and one log.

    What a killed run has left, and its watchdog may still be ending, is ended first.

    Args:
        path: of the lock, which holds the process and the token of who has it.

    Raises:
        StageError: another runner has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = path.read_text().partition(" ")[0] or "unknown"
            raise StageError(
                f"stage {name} of this profile is being run already, by process {owner}; wait for it, or end it"
            ) from None
        except OSError as error:  # a network file system without locks
            print(f"{name}: {path} cannot be locked ({error.strerror}); run this stage once at a time", file=sys.stderr)
        file.seek(0)
        if left := file.read().partition(" ")[2].strip():
            end_marked(left)
        _write_owner(file, f"{os.getpid()} {token}\n")
        yield
        _write_owner(file, "")


def _write_owner(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def read_entries(root: Path) -> dict[str, Entry]:
    """Return the stages that the dvc.yaml of profile folder `root` declares, by name.

    Raises:
        StageError: it has no mapping of stages, a stage is not written as DVC has it, or names a `${key}` that
            params.yaml lacks.
    """
    values, path = _read_yaml(root / "params.yaml"), root / "dvc.yaml"
    stages = _read_yaml(path).get("stages", {})
    if not isinstance(stages, dict):
        raise StageError(f"{path} has no mapping of stages; write them as the root's dvc.yaml has them")
    entries = {}
    for name, body in stages.items():
        try:
            entries[name] = _make_entry(name, body, values)
        except KeyError as error:
            raise StageError(f"{path}: stage {name} names ${{{error.args[0]}}}, which params.yaml lacks") from None
        except (TypeError, AttributeError, StopIteration):
            raise StageError(
                f"{path}: stage {name} is not written as DVC has it (lists of deps, params, outs); "
                "write it as the root's dvc.yaml has its stages"
            ) from None
    return entries


def read_entry(root: Path, stage: str) -> Entry:
    """Return the entry of one stage, or of what runs beside them (`BESIDE`).

    Raises:
        StageError: dvc.yaml has no such stage; the message lists those it has.
    """
    if stage in BESIDE:
        return _make_entry(stage, BESIDE[stage], _read_yaml(root / "params.yaml"))
    entries = read_entries(root)
    if stage not in entries:
        raise StageError(f"{root / 'dvc.yaml'} has no stage {stage!r}; it has {', '.join(entries)}")
    return entries[stage]


def snapshot(root: Path, entry: Entry) -> Snapshot:
    """Hash every declared dependency and parameter.

    Raises:
        StageError: a dependency does not exist; the message names it and the stage that makes it.
    """
    taken = {dep: {str(path): _file_signature(path) for path in _list_files(root, entry, dep)} for dep in entry.deps}
    return taken | {f"params.yaml: {key}": _value_signature(root, key) for key in entry.params}


def changed(root: Path, entry: Entry, before: Snapshot) -> list[str]:
    """Return the dependencies and parameters that differ from `before`, each with the file that changed."""
    named = []
    for dep in entry.deps:
        if not (root / dep).exists():
            named.append(f"{dep} (gone)")
        elif (file := _first_difference(before[dep], list(_list_files(root, entry, dep)))) is not None:
            named.append(dep if Path(dep).name == Path(file).name else f"{dep} ({file})")
    keys = (f"params.yaml: {key}" for key in entry.params)
    return named + [key for key in keys if before[key] != _value_signature(root, key.removeprefix("params.yaml: "))]


def key_of(taken: Snapshot) -> str:
    """Return 16 hexadecimal digits that name this state of parameters and dependencies."""
    content = {
        dep: sorted((Path(name).name, file.digest or str(file.size)) for name, file in files.items())
        for dep, files in taken.items()
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def stage_key(root: Path, stage: str) -> str:
    """Return the key of a stage's present parameters and dependencies (see `key_of`)."""
    return key_of(snapshot(root, read_entry(root, stage)))


def _first_difference(before: dict[str, Signature], now: list[Path]) -> str | None:
    if gone := set(before) - {str(path) for path in now}:
        return min(gone)
    for path in now:
        old = before.get(str(path))
        stat = path.stat()
        same_stat = old is not None and (old.size, old.modified) == (stat.st_size, stat.st_mtime_ns)
        if not same_stat and (old is None or not old.digest or old.digest != _file_signature(path).digest):
            return str(path)
    return None


def _list_files(root: Path, entry: Entry, dep: str) -> Iterator[Path]:
    path = root / dep
    if path.is_dir():
        found = (item for item in path.rglob("*") if not IGNORED & set(item.relative_to(path).parts))
        yield from sorted(item for item in found if item.is_file())
    elif path.is_file():
        yield path
    else:
        remedy = _suggest_remedy(root, dep)
        raise StageError(f"stage {entry.stage} needs {dep}, which does not exist in {root}; {remedy}")


def _suggest_remedy(root: Path, dep: str) -> str:
    for other in read_entries(root).values():
        if any(Path(dep).is_relative_to(out) for out in other.outs):
            return f"run `dvc repro {other.stage}` or `dvc pull {dep}` first"
    return "no stage makes it, so restore it from git"


def _file_signature(path: Path) -> Signature:
    stat = path.stat()
    digest = "" if stat.st_size > LARGE_FILE else hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return Signature(stat.st_size, stat.st_mtime_ns, digest)


def _value_signature(root: Path, key: str) -> dict[str, Signature]:
    values = _read_yaml(root / "params.yaml")
    try:
        value = reduce(lambda inner, name: inner[name], key.split("."), values)
    except (KeyError, TypeError) as error:
        raise StageError(f"{root / 'params.yaml'} has no {key!r}, which dvc.yaml declares; add it") from error
    return {key: Signature(0, 0, json.dumps(value, sort_keys=True))}


def _make_entry(name: str, body: dict[str, Any], values: dict[str, Any]) -> Entry:
    lists = {kind: body.get(kind, []) for kind in ("deps", "params", "outs", "plots", "metrics")}
    if not all(isinstance(one, list) for one in lists.values()):
        raise TypeError("a text would be taken for a list of its letters")
    outs = [_out_path(out) for kind in ("outs", "plots", "metrics") for out in lists[kind]]
    return Entry(
        stage=name,
        deps=tuple(_fill_template(dep, values) for dep in lists["deps"]),
        params=tuple(key for key in lists["params"] if isinstance(key, str)),
        outs=tuple(_fill_template(out, values) for out in outs),
    )


def _out_path(out: str | dict[str, Any]) -> str:
    return out if isinstance(out, str) else next(iter(out))


def _fill_template(text: str, values: dict[str, Any]) -> str:
    return str(Path(re.sub(r"\$\{(\w+)\}", lambda match: str(values[match[1]]), text)))


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise StageError(f"{path} does not exist; a profile has a params.yaml and a dvc.yaml")
    try:
        values = read_yaml(path) or {}
    except YamlError as error:
        raise StageError(str(error)) from None
    if not isinstance(values, dict):
        raise StageError(f"{path} must be a mapping of keys, not {clipped(values)}")
    return values
