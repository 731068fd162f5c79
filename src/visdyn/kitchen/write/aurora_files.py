"""The kitchen as AURORA: labelled triplets in `data/<subset>/train.json`, and `test.json` with all five subsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from visdyn.kitchen.render import ImageSettings, render
from visdyn.kitchen.scene import Transition, kinds_cycle, make_scene, random_transition
from visdyn.kitchen.text import canonical
from visdyn.kitchen.truth import transition_record
from visdyn.kitchen.write.files import write_json, write_jsonl, write_png

# AURORA's subsets in the order of its test.json, and the actions that stand for each (docs/architecture.md).
SUBSETS: dict[str, tuple[str, ...]] = {
    "magicbrush": ("place-in", "remove-from"),
    "ag": ("open", "close"),
    "something": ("pick-up", "put-down"),
    "whatsup": ("move-left", "move-right"),
    "kubric": ("stack", "unstack", "turn-on", "turn-off"),
}
TEST_ONLY = ("whatsup",)


def shoot(transition: Transition, rng: np.random.Generator, settings: ImageSettings) -> tuple[np.ndarray, np.ndarray]:
    """Photograph both ends of a transition: two uint8 (S, S, 3)."""
    first, last = (
        render(state, transition.scene, rng, settings.jitter, settings.noise, settings.size)
        for state in (transition.start, transition.end)
    )
    return first, last


def _write_subset(
    root: Path, subset: str, split: str, count: int, seed: int, settings: ImageSettings, first_id: int = 0
) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Write the images of one subset and split; return AURORA's items and the truth records.

    Truth ids are those of `datasets.aurora`: the index in test.json, or in the subset's train.json.
    """
    number = list(SUBSETS).index(subset)
    rng = np.random.default_rng([seed, 1, number, ("train", "test", "dev").index(split)])
    kinds = kinds_cycle(rng, SUBSETS[subset])
    items, truth = [], []
    for index in range(count):
        scene = make_scene(seed, split, 10_000 * number + index)
        transition = random_transition(rng, scene, next(kinds))
        name = f"{subset}-{split}-{index:05d}"
        paths = [f"data/{subset}/images/{name}-{end}.png" for end in ("input", "output")]
        for path, image in zip(paths, shoot(transition, rng, settings), strict=True):
            write_png(root / path, image)
        items.append({"instruction": canonical(transition.action), "input": paths[0], "output": paths[1]})
        record = transition_record(str(first_id + index), transition, candidates=split != "train")
        truth.append({**record, "subset": subset, "input": paths[0], "output": paths[1]})
    return items, truth


def write_aurora_train(out: Path, per_subset: int, seed: int, settings: ImageSettings) -> int:
    """Write the training subsets of `aurora/` and their truth file under `out`; return the number of triplets."""
    root, truth = out / "aurora", []
    for subset in SUBSETS:
        if subset not in TEST_ONLY:
            items, records = _write_subset(root, subset, "train", per_subset, seed, settings)
            write_json(root / "data" / subset / "train.json", items)
            truth += records
    return write_jsonl(out / "truth" / "aurora_train.jsonl", truth)


def write_aurora_test(out: Path, split: str, per_subset: int, seed: int, settings: ImageSettings) -> int:
    """Write `aurora/test.json`, its images and truth file under `out`; return the number of items.

    Args:
        split: whose scenes they show, `test` or `dev`.
    """
    root, test, truth = out / "aurora", [], []
    for subset in SUBSETS:
        items, records = _write_subset(root, subset, split, per_subset, seed, settings, len(test))
        test += [{**item, "task": subset} for item in items]
        truth += records
    write_json(root / "test.json", test)
    return write_jsonl(out / "truth" / "aurora_test.jsonl", truth)
