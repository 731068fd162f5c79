"""The kitchen as folders of unlabelled clips: `clips/<dataset>/<class>/<video>.avi`, three data sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from visdyn.kitchen.motion import Clip, film_actions
from visdyn.kitchen.render import ImageSettings
from visdyn.kitchen.scene import kinds_cycle, make_scene, random_transition
from visdyn.kitchen.state import KINDS, Action, State, apply, valid_actions
from visdyn.kitchen.text import canonical
from visdyn.kitchen.write.files import write_jsonl, write_video

# Fewest and most actions in a clip of the data sets that stand for Moments in Time, UCF-101 and Kinetics-700.
DATASETS = {"moments": (1, 1), "ucf": (2, 2), "kinetics": (2, 3)}


def _next_action(state: State, previous: Action, rng: np.random.Generator) -> Action:
    """Draw what happens next: a kind of action first, then the action, on something else where possible."""
    actions = valid_actions(state)
    actions = [a for a in actions if a.noun != previous.noun] or actions
    kinds = sorted({action.kind for action in actions}, key=KINDS.index)
    kind = kinds[int(rng.integers(len(kinds)))]
    actions = [action for action in actions if action.kind == kind]
    return actions[int(rng.integers(len(actions)))]


def make_clips(dataset: str, split: str, count: int, seed: int, settings: ImageSettings) -> Iterator[tuple[str, Clip]]:
    """Yield (class, clip); the class is the verb of the first action, kinds in balanced order."""
    number = list(DATASETS).index(dataset)
    rng = np.random.default_rng([seed, 3, number + len(DATASETS) * ("train", "dev").index(split)])
    kinds = kinds_cycle(rng)
    fewest, most = DATASETS[dataset]
    for index in range(count):
        scene = make_scene(seed, split, 200_000 + 10_000 * number + index)
        first = random_transition(rng, scene, next(kinds))
        actions, state = [first.action], first.end
        for _ in range(int(rng.integers(fewest, most + 1)) - 1):
            actions.append(_next_action(state, actions[-1], rng))
            state = apply(state, actions[-1])
        yield first.action.verb, film_actions(first.start, scene, actions, rng, settings)


def clip_record(name: str, dataset: str, label: str, clip: Clip, fps: int) -> dict[str, Any]:
    """Make a clip's truth record (see `truth.load_truth`)."""
    return {
        "id": name,
        "video": f"clips/{dataset}/{label}/{name}.avi",
        "dataset": dataset,
        "class": label,
        "fps": fps,
        "num_frames": len(clip.frames),
        "scene": clip.scene.to_json(),
        "states": [state.to_json() for state in clip.states],
        "actions": [action.to_json() for action in clip.actions],
        "texts": [canonical(action) for action in clip.actions],
        "settled": [asdict(span) for span in clip.settled],
        "motion": [asdict(span) for span in clip.motion],
    }


def write_clips(out: Path, split: str, per_dataset: int, seed: int, settings: ImageSettings) -> dict[str, int]:
    """Write `clips/` and its truth file under `out`; return the number of clips of each data set.

    Args:
        split: whose scenes they show, `train` or `dev`.
    """
    truth, counts = [], {}
    for dataset in DATASETS:
        for index, (label, clip) in enumerate(make_clips(dataset, split, per_dataset, seed, settings)):
            record = clip_record(f"{dataset}_{index:05d}", dataset, label, clip, settings.fps)
            write_video(out / record["video"], clip.frames, settings.fps, settings.codec)
            truth.append(record)
        counts[f"clips_{dataset}"] = per_dataset
    write_jsonl(out / "truth" / "clips.jsonl", truth)
    return counts
