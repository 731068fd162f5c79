"""Writes the kitchen world in public on-disk layouts (docs/architecture.md, "The kitchen world on disk")."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from visdyn.kitchen.render import ImageSettings
from visdyn.kitchen.truth import MARKER
from visdyn.kitchen.write.aurora_files import write_aurora_test, write_aurora_train
from visdyn.kitchen.write.caption_files import write_captions
from visdyn.kitchen.write.clip_files import write_clips
from visdyn.kitchen.write.epic_files import write_epic
from visdyn.kitchen.write.files import write_json
from visdyn.kitchen.write.spatial_files import write_spatial
from visdyn.params.world import DevSizes

FOLDERS = ("aurora", "epic", "clips", "doundo", "captions", "spatial", "truth")


@dataclass(frozen=True)
class KitchenSizes:
    """How many of each thing to write; the defaults are the embedded profile's.

    Attributes:
        aurora_train_per_subset: labelled triplets in each of the four training subsets.
        aurora_test_per_subset: in each of the five test subsets.
        epic_train, epic_validation: narrated segments.
        clips_per_dataset: unlabelled clips in each of the three data sets.
        captions: captioned single frames.
        pairs: unlabelled pairs of frames.
        spatial: questions about where things are.
    """

    aurora_train_per_subset: int = 150
    aurora_test_per_subset: int = 40
    epic_train: int = 1200
    epic_validation: int = 150
    clips_per_dataset: int = 300
    captions: int = 6000
    pairs: int = 3000
    spatial: int = 240


def write_kitchen(
    out: Path, sizes: KitchenSizes | None = None, seed: int = 0, image: ImageSettings | None = None
) -> dict[str, int]:
    """Write the whole tree and return how many items of each part there are.

    Args:
        out: folder to write; must be empty, absent, or an earlier kitchen, which is replaced.
        sizes: defaults to the embedded profile's.
        seed: the same seed, sizes and settings write the same bytes.
        image: size, camera shift, noise, codecs.

    Raises:
        FileExistsError: the folder holds something else.
    """
    sizes, image = sizes or KitchenSizes(), image or ImageSettings()
    return _write_tree(
        Path(out),
        lambda out: {
            "aurora_train": write_aurora_train(out, sizes.aurora_train_per_subset, seed, image),
            "aurora_test": write_aurora_test(out, "test", sizes.aurora_test_per_subset, seed, image),
            "epic_train": write_epic(out, "train", sizes.epic_train, seed, image),
            "epic_validation": write_epic(out, "validation", sizes.epic_validation, seed, image),
            **write_clips(out, "train", sizes.clips_per_dataset, seed, image),
            **write_captions(out, sizes.captions, sizes.pairs, seed, image),
            "spatial": write_spatial(out, "test", sizes.spatial, seed, image),
        },
        {"seed": seed, "sizes": asdict(sizes), "image": asdict(image)},
    )


def write_dev(out: Path, sizes: DevSizes, seed: int = 0, image: ImageSettings | None = None) -> dict[str, int]:
    """Write the dev items, on which choices are made, and return how many items of each part there are.

    Scenes are those of split `dev`. Files are called as the test items' (`aurora/test.json`, `EPIC_100_validation.csv`,
    `annotations_test.json`, `truth/aurora_test.jsonl`), so that readers and `Truth` take this folder in the kitchen's
    place; nothing to train on is among them.

    Args:
        out, seed, image: as `write_kitchen` takes them.

    Raises:
        FileExistsError: the folder holds something else.
    """
    image = image or ImageSettings()
    return _write_tree(
        Path(out),
        lambda out: {
            "aurora_test": write_aurora_test(out, "dev", sizes.aurora_per_subset, seed, image),
            "epic_validation": write_epic(out, "dev", sizes.epic, seed, image),
            **write_clips(out, "dev", sizes.clips_per_dataset, seed, image),
            "spatial": write_spatial(out, "dev", sizes.spatial, seed, image),
        },
        {"seed": seed, "sizes": asdict(sizes), "image": asdict(image)},
    )


def _write_tree(out: Path, write: Callable[[Path], dict[str, int]], settings: dict) -> dict[str, int]:
    """Clear a folder, write its parts with one thread and the marker last; return the counts that `write` gives."""
    _clear_folder(out)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # images are tiny: threads cost more than they save
    try:
        counts = write(out)
    finally:
        cv2.setNumThreads(threads)
    write_json(out / MARKER, {**settings, "counts": counts})
    return counts


def _clear_folder(out: Path) -> None:
    """Remove an earlier kitchen, and nothing else."""
    if out.is_dir() and any(out.iterdir()):
        unknown = sorted(path.name for path in out.iterdir() if path.name not in (*FOLDERS, MARKER))
        if unknown or not (out / MARKER).is_file():
            found = ", ".join(unknown) or f"no {MARKER}"
            raise FileExistsError(f"{out} is not empty and not a kitchen ({found}); choose another folder or empty it")
        for name in FOLDERS:
            shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MARKER, {"unfinished": True})
