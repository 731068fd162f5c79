"""Weight files as they lie on disk: which a folder has, whether they are whole, what they hold; and settings in JSON.

Everything here looks at headers only, without torch, so that `make doctor` can ask it too. Tensors are read and models
filled in `visdyn.models.strict_load`.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PICKLES = (".bin", ".pth", ".pt", ".ckpt")
SUFFIXES = (".safetensors", *PICKLES)
# What public folders call their weights, in the order in which the libraries look for them.
STEMS = ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model", "ema", "weights", "ae", "vqgan")
# More layers, blocks or experts than this, and than there are tensors, are no model but a typo or a trap.
MOST_PARTS = 1000

_LARGEST_HEADER = 100 * 2**20  # of safetensors' own reader
_INSTEAD = {
    b"version https://git-lfs": "a git-lfs pointer, not the weights; run `git lfs pull` in its repository, or "
    "download it again",
    b"/annex/objects": "a git-annex pointer, not the weights; run `git annex get` in its repository",
    b"# xet version": "an xet pointer, not the weights; download it again",
    b"<": "a web page, not the weights; download it again",
}
# Configuration keys that say how often something is built: num_hidden_layers, depth, n_layer, encoder_layers,
# num_local_experts, num_res_blocks, layers_per_block. `max_window_layers` (Qwen) builds nothing.
_COUNTS = re.compile(r"(?!max_)(?:.*_)?(?:layers?|depths?|blocks|experts|layers_per_block)")
# Names that torch.compile, FSDP, activation checkpointing and Lightning put before a module's own; DDP's `module.`
# stands at the start only.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which file, why, and what to do."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and its shape and type as safetensors writes them (`F32`, `BF16`, `F8_E4M3`, ...)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_settings(path: Path) -> dict:
    """Read a mapping from a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no JSON mapping, or holds a number that is none (NaN, Infinity, 1e999).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fetch the whole checkpoint folder")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        why = _first_line(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise CheckpointError(f"{path} is not valid JSON ({why}); fetch it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not a mapping of settings; fetch it again")
    for name, value in _walk_settings(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise CheckpointError(f"{path}: {name} is {value}, which is no number; correct it")
    return values


def find_weight_files(folder: Path, stems: Sequence[str] = STEMS, variant: str | None = None) -> list[Path]:
    """Return the weight files of a folder that a library would read: one, or the shards of an index; all are whole.

    Args:
        stems: file names without suffix, tried in this order; safetensors go before pickled files.
        variant: as of diffusers, such as `fp16` in `model.fp16.safetensors`.

    Raises:
        FileNotFoundError: there are none.
        CheckpointError: one is missing, cut, a pointer or lies outside the folder; the message names it.
    """
    inner = f".{variant}" if variant else ""
    for suffix in SUFFIXES:
        for stem in stems:
            single, index = folder / f"{stem}{inner}{suffix}", folder / f"{stem}{suffix}.index{inner}.json"
            if single.is_file() or single.is_symlink():
                files = [single]
            elif index.is_file():
                files = _list_shards(index)
            else:
                continue
            for file in files:
                check_weight_file(file)
            return files
    raise FileNotFoundError(f"{folder} holds no weights; fetch the whole checkpoint folder")


def _list_shards(index: Path) -> list[Path]:
    """Return the files that an index names, all of which lie beside it."""
    shards = read_settings(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(f"{index} has no weight_map of tensor and file names; fetch it again")
    names = sorted(set(shards.values()))
    if outside := [name for name in names if Path(name).name != name or name in ("", ".", "..")]:
        raise CheckpointError(f"{index} names {outside[0]!r}, which is no file beside it; fetch the folder again")
    if missing := [name for name in names if not os.path.isfile(index.parent / name)]:  # a name may be too long
        raise CheckpointError(f"{index.parent / missing[0]} is named in {index.name} but missing; download it")
    return [index.parent / name for name in names]


def check_weight_file(path: Path) -> None:
    """Refuse a file that does not hold the weights that its name promises, by its first and last bytes.

    Raises:
        CheckpointError: it is missing, empty, a pointer to the weights, or cut.
    """
    if path.suffix == ".safetensors":
        read_header(path)
        return
    start = _read_start(path)
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is cut: its end is missing; download it again")


def _read_start(path: Path, length: int = 64) -> bytes:
    if not path.is_file():
        what = "leads nowhere" if path.is_symlink() else "is missing"
        raise CheckpointError(f"{path} {what}; download it again")
    with path.open("rb") as file:
        start = file.read(length)
    if not start:
        raise CheckpointError(f"{path} is empty; download it again")
    # The length with which safetensors begin has a zero among its eight bytes, as no text has.
    if b"\0" not in start[:8]:
        for mark, what in _INSTEAD.items():
            if start.lstrip().startswith(mark):
                raise CheckpointError(f"{path} is {what}")
    return start


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return what a safetensors file holds, by its header; the file's length must be the one that the header states.

    Raises:
        CheckpointError: it is missing, empty, a pointer, cut, or no safetensors file.
    """
    start, size = _read_start(path), os.stat(path).st_size
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > _LARGEST_HEADER:
        raise CheckpointError(f"{path} is no safetensors file; download it again")
    if 8 + length > size:
        raise CheckpointError(f"{path} is cut within its header, after {size} bytes; download it again")
    with path.open("rb") as file:
        file.seek(8)
        text = file.read(length)
    try:
        described = json.loads(text)
        described.pop("__metadata__", None)
        stored = {
            name: StoredTensor(path, tuple(int(side) for side in entry["shape"]), str(entry["dtype"]))
            for name, entry in described.items()
        }
        end = max((int(entry["data_offsets"][1]) for entry in described.values()), default=0)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} has no header of a safetensors file; download it again") from error
    if size != 8 + length + end:
        kind = "cut" if size < 8 + length + end else "longer than its header says"
        raise CheckpointError(f"{path} is {kind}: {size} of {8 + length + end} bytes; download it again")
    return stored


def read_headers(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Return what several safetensors files hold, by name.

    Raises:
        CheckpointError: a file is not whole, or a tensor stands in two of them.
    """
    stored: dict[str, StoredTensor] = {}
    for file in files:
        header = read_header(file)
        if twice := sorted(stored.keys() & header.keys()):
            raise CheckpointError(f"{twice[0]} stands in {stored[twice[0]].file} and in {file}; fetch the folder again")
        stored |= header
    return stored


def check_counts(settings: Mapping, where: str | Path, tensors: int) -> None:
    """Refuse settings that ask for more layers, blocks or experts than could have been stored.

    A library would build them one by one before it looks at the weights: a million layers take hours and all memory.

    Args:
        where: the file, for the message.
        tensors: number of tensors that are stored.
    """
    limit = max(MOST_PARTS, tensors)
    for name, value in _walk_settings(settings):
        key = name.rpartition(".")[2]
        whole = isinstance(value, int | float) and not isinstance(value, bool)
        if whole and value > limit and _COUNTS.fullmatch(key):
            raise CheckpointError(
                f"{where}: {name} asks for {min(value, 10**300):.6g}, but only {tensors} tensors are stored; correct it"
            )
        if isinstance(value, list) and len(value) > 10 * limit:
            raise CheckpointError(f"{where}: {name} has {len(value)} entries; correct it")


def _walk_settings(values, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield every setting by its dotted name, lists both whole and entry by entry."""
    waiting = [(name, values)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{name}.{key}".lstrip("."), inner) for key, inner in value.items()]
            continue
        yield name, value
        if isinstance(value, list):
            waiting += [(name, inner) for inner in value]


def unwrap_names(names: Iterable[str]) -> dict[str, str]:
    """Translate names that a training wrapper has prefixed; every name is a key, the plain name its value.

    Raises:
        CheckpointError: two names would become one.
    """
    plain: dict[str, str] = {}
    before: dict[str, str] = {}
    for name in names:
        own = plain[name] = _unwrap(name)
        if own in before:
            raise CheckpointError(f"the weights hold {before[own]} and {name}, which are one name; remove one")
        before[own] = name
    return plain


def _unwrap(name: str) -> str:
    name = _WRAPPERS.sub("", name)
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def find_fault(folder: Path) -> str | None:
    """Say in one sentence what is wrong with a checkpoint's files, by their headers; None where they are whole."""
    try:
        if folder.is_file():
            check_weight_file(folder)
            return None
        files = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES)
        whole = {file.parent for file in files if file.suffix == ".safetensors"}
        for file in files:
            # Beside safetensors nothing pickled is read, and the original code's files never are.
            if file.suffix == ".safetensors" or not (file.parent in whole or "original" in file.parts):
                check_weight_file(file)
        for index in sorted(folder.rglob("*.index*.json")):
            if any(suffix in index.name for suffix in SUFFIXES):
                _list_shards(index)
    except (CheckpointError, FileNotFoundError) as error:
        return str(error)
    return None if files else f"{folder} holds no weights; fetch the whole folder"


def shorten_names(names: Iterable[str]) -> str:
    """Return the first three names, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
