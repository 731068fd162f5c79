"""The pack: the first chain's checkpoints and the figures' images, small enough for git, and how a clone unpacks them.

    visdyn pack                    # write data/pack of the profile's models, and say what its compression costs
    visdyn pack --unpack           # put the figures' images of data/pack to where `make report` reads them

Weights are float16, or 8-bit differences from the model that they were fine-tuned from, one scale a row. Test items
are not in it: the kitchen writes them again from its seed, the same bytes. Its `pack.json` says what is in it and what
was lost.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load, save, save_file

from visdyn.kitchen.render import ImageSettings
from visdyn.kitchen.truth import MARKER, load_image_settings
from visdyn.kitchen.write.aurora_files import write_aurora_test
from visdyn.models.strict_load import read_tensors
from visdyn.paths import file_digest, write_atomically
from visdyn.pipeline import open_stage
from visdyn.pipeline.stage import Stage
from visdyn.readers import parse_json, read_json
from visdyn.stages.evaluation.galleries import spread_rows
from visdyn.training.runs import member, of_chain, run_name

if TYPE_CHECKING:
    from visdyn.explorer.opened import Opened

FOLDER = "data/pack"
INDEX, WEIGHTS, TEXTS, GALLERIES = "pack.json", "weights.xz", "texts.xz", "galleries.xz"
MOST_BYTES = 16 * 2**20  # of all files together: what git can carry
# Model of a profile -> the one that its weights are differences from; None: float16. What is not trained is left out;
# so are controls, and of the two Do-Undo models the one without the consistency loss: with them git could not carry it.
MODELS: dict[str, str | None] = {
    "models/base": None,
    "models/idm": "models/base",
    "models/fdm/supervised": "models/base",
    "models/fdm/supervised_weighted": "models/base",
    "models/fdm/synthetic": "models/base",
    "models/fdm/synthetic_weighted": "models/base",
    "models/generator": None,
    "models/doundo/doundo_c": "models/generator",
}
_SCALE, _DIFFERENCE = "::scale", "::int8"
_LEFT_OUT = ("training.csv", "trained_parameters.csv")
_MEASURED = 20  # test items on which the loss is measured
_DONE = "unpacked.json"


def find_pack(root: Path) -> Path | None:
    """Return the pack of a profile; None where it has none."""
    folder = root / FOLDER
    return folder if (folder / INDEX).is_file() else None


def unpack(pack: Path, scratch: Path) -> tuple[Path, str]:
    """Write the pack's models and test items as a profile has them; once, for a folder carries the pack's digest.

    Returns:
        the folder that stands for the profile's, and a sentence on what is in it.

    Raises:
        ValueError: a file of the pack is not the one that its index names.
    """
    index = read_json(pack / INDEX, dict)
    for name, digest in index["files"].items():
        if not (pack / name).is_file() or file_digest(pack / name) != digest:
            raise ValueError(f"{pack / name} is not the file that {INDEX} names; take {FOLDER} from git again")
    root = scratch / file_digest(pack / INDEX)[:16]
    if not (root / _DONE).is_file():
        scratch.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix="draft-", dir=scratch))
        _write_models(pack, draft, index)
        _write_items(draft, index["world"])
        (draft / _DONE).write_text(json.dumps({"pack": index["files"]}) + "\n")
        try:
            os.replace(draft, root)
        except OSError:  # another process was first
            shutil.rmtree(draft)
    return root, describe_pack(index)


def describe_pack(index: Mapping[str, Any]) -> str:
    """Say in one sentence where the models of a pack come from."""
    return (
        f"There is no models/ here: these are the packed checkpoints of {FOLDER} (chain {index['chain']}, "
        f"{len(index['models'])} models, 8 and 16 bits a weight), close to those of the tables but not the same."
    )


def unpack_galleries(pack: Path, root: Path) -> list[Path]:
    """Write the folders of images that figures show to `data/generated/` of a profile, where they are missing.

    A folder comes whole or not at all: one that is there is taken for a run's own.

    Returns:
        the files that were written.
    """
    folders: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name, arrays in _read_galleries(pack).items():
        folder, _, file = name.partition("/")
        folders.setdefault(folder, {})[file] = arrays
    written, generated = [], root / "data/generated"
    generated.mkdir(parents=True, exist_ok=True)
    for folder, files in folders.items():
        if (generated / folder).exists():
            continue
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=generated) as draft:
            place = Path(draft) / folder
            place.mkdir()
            for file, arrays in files.items():
                np.savez_compressed(place / file, **arrays)
            os.replace(place, generated / folder)
        written += [generated / folder / file for file in files]
    return written


def write_pack(stage: Stage, folder: Path) -> dict[str, Any]:
    """Write the pack of a profile's first chain; return its index.

    Raises:
        FileNotFoundError: the profile has no base model.
        ValueError: its data are not the kitchen's (their pixels are not ours to give), or it is too large for git.
    """
    if stage.kitchen is None:
        raise ValueError(f"profile {stage.profile!r} has real data, whose pixels are not packed; pack the kitchen's")
    chain, weights, texts, kept = stage.chains[0], {}, {}, []
    for name, base in MODELS.items():
        place = of_chain(stage.path(name), chain)
        if place is None:
            continue
        kept.append(name)
        origin = of_chain(stage.path(base), chain) if base else None
        for file in sorted(path for path in place.rglob("*") if path.is_file()):
            inner = file.relative_to(place).as_posix()
            if file.suffix == ".safetensors":
                weights |= _encode_file(file, f"{name}/{inner}", f"{base}/{inner}", origin and origin / inner, weights)
            elif file.name not in _LEFT_OUT:
                texts[f"{name}/{inner}"] = file.read_text(encoding="utf-8")
    if "models/base" not in kept:
        raise FileNotFoundError(
            f"{stage.path('models/base')} has no run of chain {chain}; train it first (`make repro`)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    stored = {key: value for key, value in weights.items() if isinstance(value, torch.Tensor)}
    links = {key: value for key, value in weights.items() if isinstance(value, str)}
    _write_compressed(folder / WEIGHTS, save(stored))
    _write_compressed(folder / TEXTS, json.dumps({"texts": texts, "same": links}, sort_keys=True).encode())
    arrays = {f"{path.parent.name}/{path.name}": dict(np.load(path)) for path in sorted(
        stage.path("data/generated").glob("evaluation*/*.npz"))}  # fmt: skip
    _write_galleries(folder / GALLERIES, arrays)
    image = load_image_settings(stage.kitchen)
    world = {"seed": stage.seed, "aurora_test_per_subset": stage.settings.world.aurora_test_per_subset,
             "image": asdict(image)}  # fmt: skip
    index = {"chain": chain, "models": kept, "world": world,
             "files": {name: file_digest(folder / name) for name in (WEIGHTS, TEXTS, GALLERIES)}}  # fmt: skip
    _write_index(folder, index)
    if (size := pack_size(folder)) > MOST_BYTES:
        raise ValueError(f"{folder} has {size / 2**20:.1f} MiB, more than {MOST_BYTES / 2**20:.0f}; leave a model out")
    return index


def pack_size(folder: Path) -> int:
    """Return the bytes of a pack's files."""
    return sum((folder / name).stat().st_size for name in (INDEX, WEIGHTS, TEXTS, GALLERIES))


def measure_loss(whole: Opened, packed: Opened) -> dict[str, dict[str, float]]:
    """Compare packed models with those that they were packed from, on test items spread over the test set.

    Returns:
        by arm: `log_likelihood`, the mean absolute difference of the true image's in nats a token; `codes`, the share
        of equally seeded samples' codes that differ; of an editor `pixels`, the mean absolute difference of its images
        in [0, 1]; of the IDM `log_likelihood` of the true action, and `predictions`, the share of other words.
    """
    from visdyn.explorer.opened import EDITOR
    from visdyn.inference.generation import generate

    items, loss = [whole.items[row] for row in spread_rows(len(whole.items), _MEASURED)], {}
    sources, actions, targets = ([getattr(one, end) for one in items] for end in ("source", "action", "target"))
    for name in packed.arms:
        if packed.arms[name].kind == EDITOR:
            seeds = list(range(len(items)))
            made = [np.stack(one.editor(name).edit(sources, actions, seeds)) / 255.0 for one in (whole, packed)]
            loss[name] = {"pixels": float(np.abs(made[0] - made[1]).mean())}
            continue
        models = [one.forward_model(name) for one in (whole, packed)]
        said = [model.log_likelihood(sources, actions, targets) for model in models]
        codes = [generate(model, items, 1, whole.seed_of("images", 0))[1] for model in models]
        loss[name] = {"log_likelihood": float((said[0] - said[1]).abs().mean()),
                      "codes": float((codes[0] != codes[1]).mean())}  # fmt: skip
    idms = [one.inverse_model() for one in (whole, packed)]
    said = [idm.log_likelihood(sources, targets, actions) for idm in idms]
    words = [idm.predict(sources, targets) for idm in idms]
    differing = sum(one != other for one, other in zip(*words, strict=True)) / len(items)
    loss["idm"] = {"log_likelihood": float((said[0] - said[1]).abs().mean()), "predictions": differing}
    return loss


def _encode_file(
    file: Path, key: str, base_key: str, base: Path | None, before: Mapping[str, Any]
) -> dict[str, torch.Tensor | str]:
    """Encode a file's tensors; a file that another one equals is stored once, and named here.

    Args:
        before: what was encoded so far; differences are taken from what it decodes to, so that errors do not add up.
    """
    digest = file_digest(file)
    same = next((name for name, value in before.items() if value == f"sha256:{digest}"), None)
    if same is not None:
        return {key: same}
    tensors, encoded = read_tensors(file), {key: f"sha256:{digest}"}
    origin = _decode_tensors(before, base_key) if base is not None and base.is_file() else {}
    for name, tensor in tensors.items():
        full = f"{key}::{name}"
        if name in origin and origin[name].shape == tensor.shape and tensor.ndim > 1:
            difference = (tensor.float() - origin[name]).flatten(1)  # (R, C)
            scale = (difference.abs().amax(1, keepdim=True) / 127).half()
            steps = torch.where(scale > 0, difference / scale.float(), 0.0).round().clamp(-127, 127)
            encoded |= {full + _DIFFERENCE: steps.to(torch.int8).reshape(tensor.shape), full + _SCALE: scale}
        else:
            encoded[full] = tensor.half() if tensor.is_floating_point() else tensor
    return encoded


def _decode_tensors(encoded: Mapping[str, Any], key: str, base_key: str | None = None) -> dict[str, torch.Tensor]:
    """Return the float32 tensors of one file."""
    link = encoded.get(key)
    if isinstance(link, str) and not link.startswith("sha256:"):
        return _decode_tensors(encoded, link, base_key)
    start, tensors = f"{key}::", {}
    origin = _decode_tensors(encoded, base_key) if base_key else {}
    for full, value in encoded.items():
        if not full.startswith(start) or full.endswith(_SCALE):
            continue
        name = full.removeprefix(start)
        if name.endswith(_DIFFERENCE):
            name = name.removesuffix(_DIFFERENCE)
            scale = encoded[start + name + _SCALE].float()
            tensors[name] = origin[name] + (value.float().flatten(1) * scale).reshape(value.shape)
        else:
            tensors[name] = value.float() if value.is_floating_point() else value
    return tensors


def _write_models(pack: Path, root: Path, index: Mapping[str, Any]) -> None:
    held = parse_json(lzma.decompress((pack / TEXTS).read_bytes()).decode(), str(pack / TEXTS), dict)
    encoded = load(lzma.decompress((pack / WEIGHTS).read_bytes())) | held["same"]
    chain = index["chain"]
    for name, text in held["texts"].items():
        path = _member_path(root, name, chain)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for key in held["same"]:
        model = next(name for name in MODELS if key.startswith(f"{name}/"))
        base, inner = MODELS[model], key.removeprefix(f"{model}/")
        path = _member_path(root, key, chain)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(_decode_tensors(encoded, key, f"{base}/{inner}" if base else None), path, metadata={"format": "pt"})


def _member_path(root: Path, key: str, chain: int) -> Path:
    """Return where a file of a packed model lies: in the run of its chain, as `training.runs` names it."""
    model = next(name for name in MODELS if key.startswith(f"{name}/"))
    among_others = model.startswith(("models/fdm/", "models/doundo/"))
    folder = root / run_name(model, chain) if among_others else member(root / model, chain)
    return folder / key.removeprefix(f"{model}/")


def _write_items(root: Path, world: Mapping[str, Any]) -> None:
    """Write AURORA's test items and what is known of them, as stage `world` does."""
    kitchen, image = root / "data/kitchen", ImageSettings(**world["image"])
    write_aurora_test(kitchen, "test", world["aurora_test_per_subset"], world["seed"], image)
    (kitchen / MARKER).write_text(json.dumps({"image": world["image"]}) + "\n")


def _write_galleries(path: Path, galleries: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write arrays so that what several galleries show is stored once."""
    kept: dict[str, np.ndarray] = {}
    places: dict[tuple, str] = {}  # what an array is -> its name
    names: dict[str, dict[str, str]] = {}
    for gallery, arrays in galleries.items():
        names[gallery] = {}
        for name, array in arrays.items():
            rows = array if array.ndim == 4 and array.dtype == np.uint8 else array[None]  # images one by one
            keys = [places.setdefault((row.dtype.str, row.shape, row.tobytes()), f"array_{len(places):05d}")
                    for row in rows]  # fmt: skip
            kept |= dict(zip(keys, rows, strict=True))
            names[gallery][name] = " ".join(keys)
    content = io.BytesIO()
    np.savez(content, index=np.array(json.dumps(names)), **kept)
    _write_compressed(path, content.getvalue())


def _read_galleries(pack: Path) -> dict[str, dict[str, np.ndarray]]:
    with np.load(io.BytesIO(lzma.decompress((pack / GALLERIES).read_bytes())), allow_pickle=False) as kept:
        names = parse_json(str(kept["index"]), str(pack / GALLERIES), dict)
        galleries: dict[str, dict[str, np.ndarray]] = {}
        for gallery, arrays in names.items():
            galleries[gallery] = {}
            for name, keys in arrays.items():
                rows = [kept[key] for key in keys.split()]
                stacked = np.stack(rows) if rows[0].ndim == 3 and rows[0].dtype == np.uint8 else rows[0]
                galleries[gallery][name] = stacked
    return galleries


def _write_compressed(path: Path, content: bytes) -> None:
    write_atomically(path, lzma.compress(content, preset=6))


def _write_index(folder: Path, index: Mapping[str, Any]) -> None:
    write_atomically(folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a profile's pack and say what it costs, or unpack the figures' images of one."""
    parser = argparse.ArgumentParser(prog="visdyn pack", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=".", help="folder with params.yaml, models and data")
    parser.add_argument("--out", type=Path, help=f"folder to write; {FOLDER} of the profile by default")
    parser.add_argument(
        "--unpack", action="store_true", help="write the figures' images that are missing, nothing else"
    )
    options = parser.parse_args(arguments)
    stage = open_stage("explore", options.profile)
    if options.unpack:
        pack = find_pack(stage.root)
        if pack is None:
            raise FileNotFoundError(f"{stage.root / FOLDER} holds no pack; `make repro` makes the figures' images")
        written = unpack_galleries(pack, stage.root)
        print(f"{len(written)} files of images written to {stage.root / 'data/generated'}")
        return 0
    from dataclasses import replace

    from visdyn.explorer.opened import Opened

    folder = options.out or stage.root / FOLDER
    index = write_pack(stage, folder)
    with tempfile.TemporaryDirectory() as scratch:
        root, _ = unpack(folder, Path(scratch))
        packed = Opened(stage, replace(stage, root=root), stage.chains[0])
        index["loss"] = measure_loss(Opened(stage, stage, stage.chains[0]), packed)
    _write_index(folder, index)
    for name, values in index["loss"].items():
        print(f"{name}: " + ", ".join(f"{key} {value:.2g}" for key, value in values.items()))
    print(f"{folder}: {pack_size(folder) / 2**20:.1f} MiB of at most {MOST_BYTES / 2**20:.0f}")
    return 0
