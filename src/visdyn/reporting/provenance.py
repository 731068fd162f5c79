"""What a figure, table or report was made from: hashes of its inputs, whether those are still what their stages
wrote, and the versions of the environment.

dvc.lock has one hash for each output of a stage. `recorded_outputs` computes it again by DVC's rule, without DVC and
its cache, which a plain clone does not have.

The commit is left out on purpose: a figure that carries it changes its bytes with every commit.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path

from visdyn.paths import write_atomically
from visdyn.readers import decode_text, parse_json, read_json
from visdyn.yaml_files import YamlError, parse_yaml

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "deepspeed",
    "diffusers",
    "numpy",
    "pandas",
    "matplotlib",
    "dvc",
    "papermill",
)

IGNORED = {"__pycache__", ".ipynb_checkpoints"}  # as .dvcignore has it
EDITED = "edited since its stage ran"
EXTERNAL = "reports/results/external"


@dataclass(frozen=True)
class RecordedOutputs:
    """What is recorded of the files that stages of a profile wrote.

    Attributes:
        profile: folder of the profile.
        digests: output (relative to it) -> its hash in dvc.lock, in machine.json (`robust`, which DVC does not run) or
            in a provenance.json (the files of `external`).
        problem: why nothing is known, "" where dvc.lock was read.
    """

    profile: Path
    digests: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""

    def output_of(self, path: str | Path) -> str | None:
        """Return the recorded output that a path (relative to the profile) is or lies in; None: nothing is recorded."""
        parts = (Path(path), *Path(path).parents)
        return next((one.as_posix() for one in parts if one.as_posix() in self.digests), None)

    def edited_output_of(self, path: str | Path) -> str | None:
        """Return `output_of` where that is no longer what its stage wrote, None where it is or nothing is recorded."""
        output = self.output_of(path)
        if output is None:
            return None
        recorded, place = self.digests[output], self.profile / output
        of_content = len(recorded) == 64 and place.is_file()  # SHA-256, where DVC writes MD5
        return output if recorded != (sha256(place) if of_content else output_digest(place)) else None

    def edited_under(self, folder: str) -> list[str]:
        """Return the recorded outputs in a folder of the profile that are there and edited, sorted."""
        inside = [output for output in self.digests if Path(output).is_relative_to(folder)]
        return sorted(one for one in inside if (self.profile / one).exists() and self.edited_output_of(one))


def recorded_outputs(profile: str | Path) -> RecordedOutputs:
    """Return what a profile's dvc.lock and reports/machine.json record of its outputs; both are read when they change.

    A lock that is missing or cannot be read (a merge left its marks in it) is said in `problem`.
    """
    profile = Path(profile).resolve()
    paths = [profile / name for name in ("dvc.lock", "reports/machine.json", f"{EXTERNAL}/provenance.json")]
    return _read_records(profile, *(path.read_bytes() if path.is_file() else None for path in paths))


@lru_cache(maxsize=8)
def _read_records(profile: Path, lock: bytes | None, machine: bytes | None, external: bytes | None) -> RecordedOutputs:
    texts = {"machine.json": machine, "provenance.json": external}
    noted = {name: parse_json(decode_text(text or b"{}", name), name, dict) for name, text in texts.items()}
    beside = dict(noted["machine.json"].get("results", {}))
    for source in noted["provenance.json"].values():
        beside |= {f"{EXTERNAL}/{name}": digest for name, digest in source.get("results", {}).items()}
    if lock is None:
        return RecordedOutputs(profile, beside, "there is no dvc.lock")
    try:
        stages = (parse_yaml(lock.decode(), "dvc.lock") or {}).get("stages", {})
        outs = [out for stage in stages.values() for out in stage.get("outs", [])]
        found = {Path(out["path"]).as_posix(): out["md5"] for out in outs if "md5" in out}
    except (YamlError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        return RecordedOutputs(profile, beside, f"dvc.lock cannot be read ({reason})")
    return RecordedOutputs(profile, {**beside, **found})


def record_results(profile: str | Path, folder: str) -> None:
    """Note the hash of `reports/results/<folder>`, which DVC does not make, in a profile's reports/machine.json."""
    path, output = Path(profile) / "reports/machine.json", f"reports/results/{folder}"
    found = read_json(path, dict) if path.is_file() else {"machines": {}, "stages": {}}
    digests = found.get("results", {}) | {output: output_digest(Path(profile) / output)}
    content = json.dumps(found | {"results": digests}, indent=1, sort_keys=True) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.encode())


def output_digest(path: str | Path) -> str:
    """Return the hash that dvc.lock gives an output: MD5 of a file, or of a folder's listing, then with `.dir` behind.

    The listing is JSON, `[{"md5": ..., "relpath": ...}, ...]`, sorted by path (DVC 3). "" where there is nothing.
    """
    path = Path(path)
    if path.is_file():
        return _file_md5(str(path), _stamp(path))
    if not path.is_dir():
        return ""
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listing = [{"md5": _file_md5(str(file), _stamp(file)), "relpath": name} for name, file in sorted(files.items())
               if not IGNORED & set(Path(name).parts)]  # fmt: skip
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _stamp(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache(maxsize=4096)  # a report asks for one folder once an item
def _file_md5(path: str, stamp: tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def input_hashes(paths: Iterable[str | Path], *roots: str | Path) -> dict[str, str]:
    """Map each input, named relative to the first of `roots` that it lies under, to its SHA-256, sorted by name.

    A file outside all of them is named by its last three path parts, so that no path of this machine is kept.
    """
    folders = [Path(root).resolve() for root in roots]
    hashes = {}
    for path in (Path(path).resolve() for path in paths):
        root = next((folder for folder in folders if path.is_relative_to(folder)), None)
        name = path.relative_to(root) if root else Path(*path.parts[-3:])
        hashes[name.as_posix()] = sha256(path)
    return dict(sorted(hashes.items()))


def write_sidecar(path: str | Path, inputs: dict[str, str], edited: str = "") -> Path:
    """Write `{"inputs": {name: sha256}}` as JSON, sorted and without a date, and return the path.

    Args:
        edited: which inputs were edited since their stages ran; written under that name where it says something.
    """
    path = Path(path)
    content = {"inputs": inputs} | ({"edited": edited} if edited else {})
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return path


def read_families(path: str | Path) -> dict[str, str]:
    """Return the families of machines that computed a run's stages: fingerprint -> `portable` or `native`.

    Args:
        path: a profile's machine.json (`visdyn.pipeline.fingerprint`); where there is none, nothing is known.
    """
    path = Path(path)
    return name_families(read_json(path, dict)["machines"]) if path.is_file() else {}


def name_families(machines: Mapping[str, Mapping]) -> dict[str, str]:
    """Return `read_families` of the part `machines` of a machine.json."""
    return {name: "portable" if facts.get("portable") else "native" for name, facts in sorted(machines.items())}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on ("not installed" where absent)."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
