"""AURORA and AURORA-Bench (McGill-NLP/AURORA, MIT): triplets of source image, instruction and target image.

Layout under a root: `test.json` (one list; items carry `task`) and `data/<subset>/train.json`; image paths are
relative to the root. The kitchen world's `aurora/` folder has the same layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from visdyn.datasets.bad_items import DatasetError, collecting, image_problem, require_rows
from visdyn.paths import OutsideError, inside
from visdyn.quarantine import Quarantine
from visdyn.readers import Unusable, read_items
from visdyn.trajectory import Trajectory

# The five subsets of AURORA-Bench that the Bootstrapping paper probes and evaluates (section 2).
PAPER_SUBSETS = ("magicbrush", "ag", "something", "whatsup", "kubric")

NO_TARGET = object()  # in the place of an output that cannot be had


def load_bench(
    root: str | Path,
    subsets: Sequence[str] | None = None,
    quarantine: Quarantine | None = None,
    decode: bool = False,
    targets: str = "required",
) -> list[Trajectory]:
    """Read the test triplets of `<root>/test.json`, in its order.

    Args:
        root: folder that holds test.json.
        subsets: tasks to read; None reads those of the paper's five that the file has.
        quarantine: takes the items without a usable source or target image (of the public files: 2 of 250,
            indices 135 and 147, whose target was never published); a warning counts them where it is None.
        decode: also decode every image, so that a damaged one is set aside here (slower).
        targets: `required`, or `optional`: an item whose target cannot be had stays, with `target` None (a judge that
            sees source and edited image alone can still judge it).

    Returns:
        Trajectories whose images are paths, whose subset is the task and whose id is the index in test.json.

    Raises:
        DatasetError: test.json is missing, malformed or without an item, or a subset asked for by name has none.
    """
    path = Path(root) / "test.json"
    items = _read_list(path)
    present = {task for item in items if isinstance(task := _task_of(item), str)}
    if absent := [name for name in subsets or () if name not in present]:
        known = ", ".join(sorted(present))
        raise DatasetError(f"{path} has no item of subset {', '.join(absent)}; it has {known}")
    wanted = set(PAPER_SUBSETS if subsets is None else subsets)
    # A record without a task belongs to no subset: it is passed on, so that it reaches the quarantine.
    tasks = [_task_of(item) for item in items]
    chosen = [(i, item) for i, item in enumerate(items) if not isinstance(tasks[i], str) or tasks[i] in wanted]
    if targets == "optional":
        chosen = [(index, _without_bad_target(path.parent, item, decode)) for index, item in chosen]
    return _read_trajectories(path, chosen, None, quarantine, True, decode)


def load_train(
    root: str | Path,
    subset: str,
    quarantine: Quarantine | None = None,
    require_images: bool = True,
    decode: bool = False,
) -> list[Trajectory]:
    """Read the training triplets of `<root>/data/<subset>/train.json`; ids are indices in that file.

    Of an instruction that is a list, the first entry is taken (as the dataset's own loader does).
    `require_images=False` skips the look on the disk, for the public annotations without their images.

    Raises:
        DatasetError: the file is missing, malformed or empty.
    """
    path = Path(root) / "data" / subset / "train.json"
    return _read_trajectories(path, list(enumerate(_read_list(path))), subset, quarantine, require_images, decode)


def _read_list(path: Path) -> list:
    return read_items(path, DatasetError, "give the folder of AURORA that holds test.json and data/")


def _read_trajectories(path, items, subset, quarantine, require_images, decode) -> list[Trajectory]:
    root = path.parent if subset is None else path.parents[2]
    require_rows(items, path, "give AURORA's own file, or leave the subset out")
    usable: list[Trajectory] = []
    with collecting(quarantine, path, usable) as bad:
        for index, item in items:
            if subset is None and isinstance(item, dict) and not isinstance(item.get("task"), str):
                problem = "has no task, the name of its subset"
            else:
                problem = _find_problem(root, item, require_images, decode)
            if problem:
                bad.add(f"{path.name}[{index}]" if subset is None else f"{subset}/{path.name}[{index}]", problem)
            else:
                usable.append(_make_trajectory(root, item, subset or item["task"], index))
    return usable


def _task_of(item: object) -> object:
    return item.get("task") if isinstance(item, dict) else None


def _make_trajectory(root: Path, item: dict, subset: str, index: int) -> Trajectory:
    target = None if item["output"] is NO_TARGET else root / item["output"]
    return Trajectory(root / item["input"], _first_instruction(item), target, subset, str(index))


def _without_bad_target(root: Path, item: object, decode: bool) -> object:
    if not isinstance(item, dict):
        return item
    output = item.get("output")
    with suppress(OutsideError):
        if isinstance(output, str) and output and not image_problem(inside(root, output), decode):
            return item
    return {**item, "output": NO_TARGET}


def _first_instruction(item: dict) -> str:
    text = item.get("instruction")
    first = text[0] if isinstance(text, list) and text else text
    return first.strip() if isinstance(first, str) else ""


def _find_problem(root: Path, item: object, require_images: bool, decode: bool) -> str | None:
    if not isinstance(item, dict):
        return item.reason if isinstance(item, Unusable) else f"is a {type(item).__name__}, not an object"
    if not _first_instruction(item):
        return "has no instruction"
    for key in ("input", "output"):
        if item.get(key) is NO_TARGET:
            continue
        if not isinstance(item.get(key), str) or not item[key]:
            return f"has no {key} image"
        try:
            path = inside(root, item[key])
        except OutsideError as error:
            return str(error)
        if require_images and (problem := image_problem(path, decode)):
            return problem
    return None
