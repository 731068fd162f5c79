"""A study from the pipeline's own images: `data/generated/outputs` of a profile (docs/architecture.md).

`visdyn study prepare --out FOLDER [--kind pairwise] [--profile profiles/paper] [--systems A B]`
writes one from the images that stages `evaluation` and `evaluation_doundo` keep of a profile's systems (`keep_images`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from visdyn.datasets.aurora import load_bench
from visdyn.datasets.bad_items import DatasetError
from visdyn.datasets.doundo_bench import load
from visdyn.evaluation.benches.bench import AURORA_BENCH, DOUNDO_BENCH, Bench
from visdyn.human_study.prepare import write_best_worst, write_pairwise
from visdyn.human_study.study import StudyError
from visdyn.human_study.study_criteria import BEST_WORST, PAIRWISE
from visdyn.mining.reversible import with_short_prompts
from visdyn.models.editors.protocol import Request
from visdyn.params import ParamsError
from visdyn.pipeline import open_stage
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine

OUTPUTS = "data/generated/outputs"
BENCHES: dict[str, Bench] = {BEST_WORST: AURORA_BENCH, PAIRWISE: DOUNDO_BENCH}
# What the papers compared, where its images are there; the order says nothing to the annotator.
WANTED = {
    BEST_WORST: ("GoT", "SmartEdit", "supervised", "synthetic_weighted"),
    PAIRWISE: ("base", "doundo", "doundo_c"),
}
STAGES = {BEST_WORST: "evaluation", PAIRWISE: "evaluation_doundo"}  # that keep the images


def prepare_study(
    stage: Stage, kind: str, folder: Path, systems: Sequence[str] = (), quarantine: Quarantine | None = None, **settings
) -> Path:
    """Write a study of a profile's systems.

    Args:
        stage: any stage of the profile.
        kind: `best_worst` (Bootstrapping, Table 5) or `pairwise` (Do-Undo, Table 7; undone from the generated image,
            as an annotator is shown one chain).
        folder: to fill.
        systems: names of folders in the profile's outputs; none: those of the paper that are there.
        quarantine: takes the items that lack an image of some system.
        **settings: keys of study.yaml.

    Raises:
        StudyError: no images, a system without a folder, fewer than two systems, or no item that all of them have.
    """
    bad = Quarantine() if quarantine is None else quarantine
    root = stage.path(OUTPUTS) / BENCHES[kind].name
    chosen = _systems(root, kind, systems)
    if kind == BEST_WORST:
        items = load_bench(stage.data("aurora"))
        requests = [Request()]
    else:
        settings = {"length": "short"} | settings
        annotations = stage.located(stage.settings.evaluation_doundo.annotations, "evaluation_doundo.annotations")
        length = str(settings["length"])
        items = load(annotations, stage.data("epic") / "frames", bad)
        items = with_short_prompts(items, bad) if length == "short" else items
        requests = [Request(length), Request(length, "reverse", "generated")]
    bench = BENCHES[kind]
    wanted = {name: [tuple(root / name / bench.file(item, request) for request in requests) for item in items]
              for name in chosen}  # fmt: skip
    kept = _complete(items, wanted, bad)
    if not kept:
        raise StudyError(f"no item has images of all of {', '.join(chosen)} in {root}: {bad.summary()}")
    images = {name: [views[row] for row in kept] for name, views in wanted.items()}
    if kind == BEST_WORST:
        single = {name: [view for (view,) in views] for name, views in images.items()}
        return write_best_worst(folder, [items[row] for row in kept], single, **settings)
    return write_pairwise(folder, [items[row] for row in kept], images, **settings)


def _systems(root: Path, kind: str, systems: Sequence[str]) -> list[str]:
    there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not there:
        stage = STAGES[kind]
        raise StudyError(
            f"there are no images in {root}; name the systems in {stage}.keep_images and run stage {stage}"
        )
    if missing := [name for name in systems if name not in there]:
        raise StudyError(f"{missing[0]} has no folder in {root}; there are {', '.join(there)}")
    chosen = list(systems) or [name for name in WANTED[kind] if name in there]
    if len(chosen) < 2:
        raise StudyError(f"a study compares two systems or more; {root} has {', '.join(there)}: name them by --systems")
    return chosen


def _complete(items: Sequence, wanted: dict[str, list[tuple[Path, ...]]], bad: Quarantine) -> list[int]:
    """Return the places of the items of which every system has every image."""
    kept = []
    for row, item in enumerate(items):
        lacking = [name for name, views in wanted.items() if not all(path.is_file() for path in views[row])]
        if lacking:
            bad.add(f"item {item.id}", f"no image of {', '.join(lacking)}")
        else:
            kept.append(row)
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 where no study can be made)."""
    options = _make_parser().parse_args(arguments)
    quarantine = Quarantine()
    changes = {"seed": options.seed, "items_per_subset": options.items_per_subset}
    try:
        stage = open_stage("human_study", options.profile)
        prepare_study(stage, options.kind, options.out, options.systems, quarantine, **changes)
    except (StudyError, StageError, ParamsError, DatasetError, FileNotFoundError) as error:
        print(f"human study: {error}", file=sys.stderr)
        return 2
    print(f"{options.out} holds the study ({quarantine.summary()}); serve it: visdyn study serve {options.out}")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visdyn study prepare", description="Write a study.")
    parser.add_argument("--out", required=True, type=Path, help="folder to fill")
    parser.add_argument("--kind", choices=(BEST_WORST, PAIRWISE), default=BEST_WORST)
    parser.add_argument("--profile", default=".", help="folder with params.yaml")
    parser.add_argument("--systems", nargs="*", default=(), help="default: those that the paper compares")
    parser.add_argument("--items-per-subset", type=int, default=5, help="that one annotator sees (the paper: 5)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
