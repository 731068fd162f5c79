"""The Do-Undo benchmark's images: every action done and undone by an editor, in the authors' file layout.

`<narration_id>_fwd.png` and `<narration_id>_rev.png` in one folder, as the released evaluation scripts read them.
Unlike the released script it is seeded, and a finished file is never made again: started once more, it goes on.

    python -m visdyn.inference.do_undo BAGEL-7B-MoT annotations_test.json EPIC-KITCHENS out --device cuda
    torchrun --nproc_per_node 8 -m visdyn.inference.do_undo ...        # each rank takes its share
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from visdyn.compute.seeds import item_seed
from visdyn.datasets import doundo_bench
from visdyn.datasets.bad_items import image_problem
from visdyn.images import ImageRef
from visdyn.mining.reversible import with_short_prompts
from visdyn.models.editors.protocol import REVERSE_FROM, Guidance, ImageEditor
from visdyn.quarantine import Quarantine
from visdyn.trajectory import ReversiblePair, Trajectory

SETTINGS_FILE = "benchmark.json"


class BenchmarkError(ValueError):
    """The benchmark cannot run into this folder, or its items cannot be told apart; the message says why."""


@dataclass(frozen=True)
class Protocol:
    """What decides the images, beside the editor.

    Attributes:
        editor: name of the editor, for the folder's record; a folder holds the images of one.
        reverse_from: `gt`, undo from the true end frame, as the authors' code does; `generated`, from the image of
            the forward half, as the paper's prose says.
        prompts: `long` or `short`.
        seed: of the run; each image's seed follows from it, the item and the direction.
        steps, guidance: see `ImageEditor.edit`; None is the editor's own (for BAGEL the authors' settings).
        think: system prompt of BAGEL's think mode, for the folder's record; empty where it is off, as in the paper.
    """

    editor: str
    reverse_from: str = "gt"
    prompts: str = "long"
    seed: int = 0
    steps: int | None = None
    guidance: Guidance | None = None
    think: str = ""

    def __post_init__(self) -> None:
        if self.reverse_from not in REVERSE_FROM:
            raise ValueError(f"unknown reverse source {self.reverse_from!r}; one of {', '.join(REVERSE_FROM)}")
        if self.prompts not in ("long", "short"):
            raise ValueError(f"unknown prompt length {self.prompts!r}; one of long, short")


@dataclass(frozen=True)
class Outcome:
    """What one rank did: images generated, images found finished, and items set aside."""

    generated: int
    finished_before: int
    quarantine: Quarantine


def run(
    editor: ImageEditor,
    annotations: str | Path,
    frames: str | Path,
    output: str | Path,
    protocol: Protocol,
    *,
    batch_size: int = 8,
    rank: int | None = None,
    world_size: int | None = None,
) -> Outcome:
    """Generate this rank's share of the benchmark.

    Args:
        editor: anything that edits.
        annotations: the released `annotations_*.json`, or a file of that form.
        frames: root of the EPIC-KITCHENS frames.
        output: folder of the images, of `benchmark.json` (the protocol) and of `quarantine_<rank>.csv`.
        batch_size: items handed to the editor together; it does not change their images.
        rank, world_size: this process's share; RANK and WORLD_SIZE by default, as launchers set them.

    Raises:
        BenchmarkError: the folder holds images of another protocol, two items have one id, or an id is no file name.
        DatasetError: the annotations are missing or malformed.
    """
    rank = int(os.environ.get("RANK", "0")) if rank is None else rank
    world_size = int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size
    output, unusable, quarantine = Path(output), Quarantine(), Quarantine()
    pairs = doundo_bench.load(annotations, frames, unusable)
    pairs = with_short_prompts(pairs) if protocol.prompts == "short" else pairs
    _check_ids(pairs)
    _claim(output, protocol, Path(annotations), rank)
    quarantine.items += unusable.items if rank == 0 else []
    counts = [0, 0]
    share = pairs[rank::world_size]
    for first in range(0, len(share), batch_size):
        for direction in ("forward", "reverse"):
            made, found = _generate(
                editor, share[first : first + batch_size], direction, output, protocol, rank, quarantine
            )
            counts = [counts[0] + made, counts[1] + found]
    if len(quarantine):
        quarantine.write(output / f"quarantine_{rank}.csv")
    return Outcome(*counts, quarantine)


def image_path(output: str | Path, pair_id: str, direction: str) -> Path:
    """Return where an image of the benchmark lies; direction is `forward` or `reverse`."""
    return Path(output) / f"{pair_id}_{'fwd' if direction == 'forward' else 'rev'}.png"


def unfinished(pairs: Sequence[ReversiblePair], output: str | Path) -> list[str]:
    """List the image files that are still missing, over all ranks."""
    paths = [image_path(output, pair.id, direction) for pair in pairs for direction in ("forward", "reverse")]
    return [path.name for path in paths if not path.is_file()]


def _check_ids(pairs: Sequence[ReversiblePair]) -> None:
    seen: set[str] = set()
    for pair in pairs:
        if pair.id in seen:
            raise BenchmarkError(f"two items have the id {pair.id}; their images would overwrite each other")
        if Path(pair.id).name != pair.id:
            raise BenchmarkError(f"id {pair.id!r} is no file name; give the item another narration_id")
        seen.add(pair.id)


def _claim(output: Path, protocol: Protocol, annotations: Path, rank: int) -> None:
    """Refuse a folder of another protocol; else record this one."""
    digest = hashlib.sha256(annotations.read_bytes()).hexdigest()
    record = json.loads(json.dumps({**asdict(protocol), "annotations": digest}))
    path = output / SETTINGS_FILE
    if path.is_file() and (found := json.loads(path.read_text())) != record:
        differing = sorted(key for key in record if found.get(key) != record[key])
        raise BenchmarkError(
            f"{output} holds images of another run (different {', '.join(differing)}); choose another folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{SETTINGS_FILE}.{rank}")
    draft.write_text(json.dumps(record, indent=1) + "\n")
    draft.replace(path)


def _generate(
    editor: ImageEditor,
    pairs: Sequence[ReversiblePair],
    direction: str,
    output: Path,
    protocol: Protocol,
    rank: int,
    quarantine: Quarantine,
) -> tuple[int, int]:
    """Make the missing images of one direction; return how many were made and how many were there."""
    missing = [pair for pair in pairs if not image_path(output, pair.id, direction).is_file()]
    halves, sources = [], []
    for pair in missing:
        half, source = _half(pair, direction, output, protocol)
        if problem := image_problem(Path(source), decode=True):
            quarantine.add(half.id, problem)
        else:
            halves.append(half)
            sources.append(source)
    if halves:
        seeds = [item_seed(protocol.seed, half.id) for half in halves]
        prompts = [half.action for half in halves]
        images = editor.edit(sources, prompts, seeds, protocol.steps, protocol.guidance)
        for half, image in zip(halves, images, strict=True):
            _write(image, image_path(output, half.id.rpartition("-")[0], direction), rank)
    return len(halves), len(pairs) - len(missing)


def _half(pair: ReversiblePair, direction: str, output: Path, protocol: Protocol) -> tuple[Trajectory, ImageRef]:
    """Return one half of a pair and the image it starts from."""
    if direction == "forward":
        half = pair.forward(protocol.prompts)
        return half, half.source
    half = pair.reverse(protocol.prompts)
    # The generated image is always read from its file, so that a resumed run sees the same pixels.
    return half, half.source if protocol.reverse_from == "gt" else image_path(output, pair.id, "forward")


def _write(image: np.ndarray, path: Path, rank: int) -> None:
    """Write a PNG in one piece: a file that exists is whole."""
    draft = path.with_name(f".{path.name}.{rank}")
    Image.fromarray(image).save(draft, format="PNG")
    draft.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark with any editor."""
    parser = argparse.ArgumentParser(description="Generate the images of the Do-Undo benchmark.")
    parser.add_argument("model", help="folder or hub id: a BAGEL, a LoRA folder of one, or a diffusers pipeline")
    parser.add_argument("annotations", help="annotations_test.json")
    parser.add_argument("frames", help="root of the EPIC-KITCHENS frames")
    parser.add_argument("output", help="folder of the images")
    parser.add_argument("--adapter", help="LoRA folder of train_bagel")
    parser.add_argument("--reverse-from", default="gt", choices=REVERSE_FROM)
    parser.add_argument("--prompts", default="long", choices=("long", "short"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="network evaluations; 49 by default")
    parser.add_argument("--think", action="store_true", help="BAGEL writes a plan before each image")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; on cuda the weights are bfloat16")
    options = parser.parse_args(arguments)
    editor = _editor(options)
    think = getattr(editor, "think", "") or ""
    name = f"{options.model}+{options.adapter}" if options.adapter else options.model
    protocol = Protocol(name, options.reverse_from, options.prompts, options.seed, options.steps, think=think)
    outcome = run(editor, options.annotations, options.frames, options.output, protocol, batch_size=options.batch_size)
    print(f"{outcome.generated} images made, {outcome.finished_before} were there; {outcome.quarantine.summary()}")


def _editor(options: argparse.Namespace) -> ImageEditor:
    from visdyn.models.editors import load_editor

    on_gpu = options.device == "cuda"
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if on_gpu else options.device
    given = {"think": True} if options.think else {}
    return load_editor(options.model, options.adapter, device, "bfloat16" if on_gpu else None, **given)


if __name__ == "__main__":
    main()
