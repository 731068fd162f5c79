"""Do and undo (Do-Undo, section 3.2), and the command that makes the benchmark's images with any editor.

The command writes the authors' file layout: `<narration_id>_fwd.png` and `<narration_id>_rev.png` in one folder, as the
released evaluation scripts read them. Unlike the released script it is seeded, and a finished file is never made again:
started once more, it goes on.

    visdyn bench BAGEL-7B-MoT annotations_test.json EPIC-KITCHENS out --device cuda
    torchrun --nproc_per_node 8 -m visdyn.inference.do_undo ...        # each rank takes its share
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from visdyn.compute.seeds import item_seed
from visdyn.datasets import doundo_bench
from visdyn.datasets.bad_items import image_problem
from visdyn.images import ImageRef
from visdyn.mining.reversible import with_short_prompts
from visdyn.models.editors.protocol import REVERSE_FROM, Edit, Guidance, ImageEditor, Request
from visdyn.paths import file_digest, write_atomically
from visdyn.quarantine import Quarantine
from visdyn.readers import read_json
from visdyn.trajectory import ReversiblePair

SETTINGS_FILE = "benchmark.json"


# Makes or finds the images that are asked for; None for one that cannot be had.
Make = Callable[[Sequence[Edit]], Sequence[ImageRef | None]]
Images = np.ndarray | list[ImageRef | None]


def do_and_undo(
    editor: ImageEditor | Make,
    pairs: Sequence[ReversiblePair],
    prompt_length: str = "long",
    reverse_from: str | Sequence[str] = "gt",
    seed: int = 0,
    steps: int | None = None,
    guidance: Guidance | None = None,
) -> tuple[Images, Images | dict[str, Images]]:
    """Perform each pair's action, and undo it (Do-Undo, section 3.2).

    I_F^ = f(I_o, P_F); I_R^ = f(I_F, P_R) from the true end image (`gt`, as the released benchmark does), or
    I_R^ = f(I_F^, P_R) from the edited image itself (`generated`, as the paper's prose says: a chain).

    Args:
        editor: the model f; or a function that makes or finds the images of a list of `Edit`, None for one that cannot
            be had: so the evaluation and the benchmark command go on where they stopped.
        pairs: N pairs of different ids; images of any sizes.
        prompt_length: `long` or `short`.
        reverse_from: `gt` or `generated`, or several: the forward images are then made once.
        seed: run seed; an image's noise follows from it, the pair's id and the direction alone.
        steps, guidance: see `ImageEditor.edit`; a function has its own.

    Returns:
        I_F^ and I_R^ of every pair; a dict of I_R^ by what it was made from where several are named. Each is uint8
        (N, H, W, 3) where an editor's images all have one size, else a list; a pair that could not be done is not
        undone from its generated image (None). The size is the editor's (BAGEL: 912 x 512 for a source of 456 x 256).

    Raises:
        ValueError: unknown prompt length or reverse source, or two pairs of one id (they would share their noise).
    """
    starts_from = (reverse_from,) if isinstance(reverse_from, str) else tuple(reverse_from)
    if prompt_length not in ("long", "short"):
        raise ValueError(f"unknown prompt length {prompt_length!r}; one of long, short")
    if unknown := set(starts_from) - set(REVERSE_FROM):
        raise ValueError(f"unknown reverse source {sorted(unknown)[0]!r}; one of {', '.join(REVERSE_FROM)}")
    if len({pair.id for pair in pairs}) < len(pairs):
        raise ValueError("two reversible pairs have the same id; ids name the noise and must differ")
    make = editor if callable(editor) else partial(_edit_batch, editor, steps=steps, guidance=guidance)

    forward = [
        Edit(Request(prompt_length, "forward", "", pair.id), pair.start, half.action, item_seed(seed, half.id))
        for pair in pairs
        for half in [pair.forward(prompt_length)]
    ]
    done = list(make(forward))
    undone = {}
    for origin in starts_from:
        sources = done if origin == "generated" else [pair.end for pair in pairs]
        reverse = {
            row: Edit(Request(prompt_length, "reverse", origin, pair.id), source, half.action, item_seed(seed, half.id))
            for row, (pair, source) in enumerate(zip(pairs, sources, strict=True))
            for half in [pair.reverse(prompt_length)]
            if source is not None
        }
        made = dict(zip(reverse, make(list(reverse.values())), strict=True))
        undone[origin] = _stack_images([made.get(row) for row in range(len(pairs))])
    return _stack_images(done), undone[reverse_from] if isinstance(reverse_from, str) else undone


def _edit_batch(
    editor: ImageEditor, edits: Sequence[Edit], steps: int | None, guidance: Guidance | None
) -> list[np.ndarray]:
    sources, prompts, seeds = ([getattr(one, name) for one in edits] for name in ("source", "prompt", "seed"))
    return list(editor.edit(sources, prompts, seeds, steps, guidance))


def _stack_images(images: list[ImageRef | None]) -> Images:
    """Stack arrays of one size to (N, H, W, 3); leave files, gaps and different sizes as they are."""
    arrays = all(isinstance(image, np.ndarray) for image in images)
    return np.stack(images) if images and arrays and len({image.shape for image in images}) == 1 else images


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
    pairs = with_short_prompts(pairs, unusable) if protocol.prompts == "short" else pairs
    _check_ids(pairs)
    _claim_folder(output, protocol, Path(annotations))
    quarantine.items += unusable.items if rank == 0 else []
    folder = _Folder(output, editor, protocol, rank, quarantine)
    share = pairs[rank::world_size]
    for first in range(0, len(share), batch_size):
        batch = share[first : first + batch_size]
        done, _ = do_and_undo(folder.make, batch, protocol.prompts, protocol.reverse_from, protocol.seed)
        for pair, image in zip(batch, done, strict=True):
            if image is None and protocol.reverse_from == "generated":
                quarantine.add(pair.reverse().id, f"{image_path(output, pair.id, 'forward')} does not exist")
    if len(quarantine):
        quarantine.write(output / f"quarantine_{rank}.csv")
    return Outcome(folder.generated, folder.finished_before, quarantine)


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


def _claim_folder(output: Path, protocol: Protocol, annotations: Path) -> None:
    """Refuse a folder of another protocol; else record this one."""
    record = json.loads(json.dumps({**asdict(protocol), "annotations": file_digest(annotations)}))
    path = output / SETTINGS_FILE
    if path.is_file() and (found := read_json(path, dict, BenchmarkError)) != record:
        differing = sorted(key for key in record if found.get(key) != record[key])
        raise BenchmarkError(
            f"{output} holds images of another run (different {', '.join(differing)}); choose another folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())


@dataclass
class _Folder:
    """The images of one rank: what lies in the folder is found, the rest is made."""

    output: Path
    editor: ImageEditor
    protocol: Protocol
    rank: int
    quarantine: Quarantine
    generated: int = 0
    finished_before: int = 0

    def make(self, edits: Sequence[Edit]) -> list[Path | None]:
        """Return every image's file, made where it was missing; None where its source cannot be used.

        A chain reads the forward image from its file, so that a resumed run sees the same pixels.
        """
        paths = [image_path(self.output, edit.request.item, edit.request.direction) for edit in edits]
        missing = [(edit, path) for edit, path in zip(edits, paths, strict=True) if not path.is_file()]
        self.finished_before += len(edits) - len(missing)
        usable = []
        for edit, path in missing:
            if problem := image_problem(Path(edit.source), decode=True):
                self.quarantine.add(f"{edit.request.item}-{edit.request.direction}", problem)
            else:
                usable.append((edit, path))
        if usable:
            images = _edit_batch(self.editor, [edit for edit, _ in usable], self.protocol.steps, self.protocol.guidance)
            for image, (edit, path) in zip(images, usable, strict=True):
                if image is None:
                    name = f"{edit.request.item}-{edit.request.direction}"
                    self.quarantine.add(name, "the editor made no image of it: blacked out, or NaN or infinite")
                else:
                    _write_png(image, path, self.rank)
                    self.generated += 1
        return [path if path.is_file() else None for path in paths]


def _write_png(image: np.ndarray, path: Path, rank: int) -> None:
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
    editor = _load_options_editor(options)
    think = getattr(editor, "think", "") or ""
    name = f"{options.model}+{options.adapter}" if options.adapter else options.model
    protocol = Protocol(name, options.reverse_from, options.prompts, options.seed, options.steps, think=think)
    outcome = run(editor, options.annotations, options.frames, options.output, protocol, batch_size=options.batch_size)
    print(f"{outcome.generated} images made, {outcome.finished_before} were there; {outcome.quarantine.summary()}")


def _load_options_editor(options: argparse.Namespace) -> ImageEditor:
    from visdyn.models.editors import load_editor

    on_gpu = options.device == "cuda"
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if on_gpu else options.device
    given = {"think": True} if options.think else {}
    return load_editor(options.model, options.adapter, device, "bfloat16" if on_gpu else None, **given)


if __name__ == "__main__":
    main()
