"""Write a study's folder from images at hand: a notebook's generations, or folders that other programs filled.

`visdyn.stages.human_study_outputs` is the command that writes one from a profile's own images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from visdyn.human_study.study import VIEWS, StudyError
from visdyn.human_study.study_criteria import BEST_WORST, PAIRWISE
from visdyn.images import ImageRef, load
from visdyn.trajectory import ReversiblePair, Trajectory
from visdyn.yaml_files import yaml_text


def write_best_worst(
    folder: str | Path, items: Sequence[Trajectory], images: Mapping[str, Sequence[ImageRef]], **settings: object
) -> Path:
    """Write a best/worst study (Bootstrapping, Table 5).

    Args:
        folder: to fill; an older study there is refused.
        items: what was asked of the systems (N).
        images: system -> its N images.
        **settings: keys of study.yaml (`title`, `seed`, `items_per_subset`, ...).

    Returns:
        The folder.

    Raises:
        StudyError: the folder holds a study, or a system has more or fewer images than there are items.
    """
    records = [{"id": item.id, "subset": item.subset, "prompt": item.action} for item in items]
    views = {name: [[image] for image in refs] for name, refs in images.items()}
    return _write_study(folder, BEST_WORST, records, [item.source for item in items], views, settings)


def write_pairwise(
    folder: str | Path,
    pairs: Sequence[ReversiblePair],
    images: Mapping[str, Sequence[tuple[ImageRef, ImageRef]]],
    /,  # `pairs` is also a key of study.yaml
    length: str = "short",
    **settings: object,
) -> Path:
    """Write a pairwise study (Do-Undo, Table 7).

    Args:
        folder: to fill; an older study there is refused.
        pairs: what was asked of the systems (N).
        images: system -> its N pairs of images (done, undone).
        length: of the prompts shown, `short` or `long`.
        **settings: keys of study.yaml.

    Raises:
        StudyError: as `write_best_worst`.
    """
    records = [
        {"id": pair.id, "subset": pair.verb or "doundo", "prompt": pair.forward(length).action,
         "reverse_prompt": pair.reverse(length).action}
        for pair in pairs
    ]  # fmt: skip
    return _write_study(folder, PAIRWISE, records, [pair.start for pair in pairs], images, settings)


def _write_study(
    folder: str | Path,
    kind: str,
    records: list[dict],
    sources: Sequence[ImageRef],
    images: Mapping[str, Sequence[Sequence[ImageRef]]],
    settings: Mapping[str, object],
) -> Path:
    folder = Path(folder)
    if (folder / "study.yaml").exists():
        raise StudyError(f"{folder} holds a study already; choose another folder: its answers need its images")
    for system, refs in images.items():
        if len(refs) != len(records):
            raise StudyError(f"system {system} has {len(refs)} images for {len(records)} items")
    for number, (record, source) in enumerate(zip(records, sources, strict=True)):
        record["source"] = f"sources/{number:05d}.png"
        _save_image(source, folder, record["source"])
        for system, refs in images.items():
            for view, image in zip(VIEWS[kind], refs[number], strict=True):
                name = f"{record['id']}-{view}.png" if view else f"{record['id']}.png"
                _save_image(image, folder, f"outputs/{system}/{record['subset']}/{name}")
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "items.jsonl").write_text(lines, encoding="utf-8")
    # Last, so that a folder without it is one whose writing was cut off.
    definition = {"title": "Which image shows the action?", "kind": kind, "systems": list(images), **settings}
    (folder / "study.yaml").write_text(yaml_text(definition), encoding="utf-8")
    return folder


def _save_image(image: ImageRef, folder: Path, name: str) -> None:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise StudyError(f"the name {name!r} leads out of {folder}; give the item or system another")
    path.parent.mkdir(parents=True, exist_ok=True)
    load(image).save(path)
