"""Training data of the base models: captioned single frames, and unlabelled pairs of consecutive states."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visdyn.kitchen.motion import render_moment
from visdyn.kitchen.render import ImageSettings, photograph, render
from visdyn.kitchen.scene import Scene, kinds_cycle, make_scene, random_state, random_transition
from visdyn.kitchen.text import caption, caption_of_hand
from visdyn.kitchen.write.aurora_files import shoot
from visdyn.kitchen.write.files import write_jsonl

FRAMES_PER_SCENE = 3
HAND_SHARE = 0.15  # of captioned frames show a hand at work, so that tokenizers and base models know hands


def _draw_captioned_frame(scene: Scene, rng: np.random.Generator, settings: ImageSettings) -> tuple[np.ndarray, str]:
    """Draw one frame of a scene with its caption: a settled state, or at times a hand at work."""
    if rng.random() < HAND_SHARE:
        transition = random_transition(rng, scene)
        clean = render_moment(transition.start, scene, transition.action, float(rng.uniform(0.2, 0.8)), settings.size)
        image = photograph(clean, rng, settings.jitter * settings.size / 64, settings.noise)
        return image, caption_of_hand(transition.start, transition.action, rng)
    state = random_state(rng, scene)
    return render(state, scene, rng, settings.jitter, settings.noise, settings.size), caption(state, rng)


def write_captions(out: Path, captions: int, pairs: int, seed: int, settings: ImageSettings) -> dict[str, int]:
    """Write `captions/images.npy` (N, S, S, 3), `captions.jsonl` and `pairs.npy` (M, 2, S, S, 3), all uint8.

    Pairs show a state and the one after some action, verbs balanced, without a label.
    """
    folder = out / "captions"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 4])
    images = np.empty((captions, settings.size, settings.size, 3), np.uint8)
    records = []
    for index in range(captions):
        scene = make_scene(seed, "train", 300_000 + index // FRAMES_PER_SCENE)
        images[index], text = _draw_captioned_frame(scene, rng, settings)
        records.append({"index": index, "caption": text})
    np.save(folder / "images.npy", images)
    write_jsonl(folder / "captions.jsonl", records)

    rng = np.random.default_rng([seed, 5])
    kinds = kinds_cycle(rng)
    frames = np.empty((pairs, 2, settings.size, settings.size, 3), np.uint8)
    for index in range(pairs):
        scene = make_scene(seed, "train", 400_000 + index // FRAMES_PER_SCENE)
        frames[index] = shoot(random_transition(rng, scene, next(kinds)), rng, settings)
    np.save(folder / "pairs.npy", frames)
    return {"captions": captions, "pairs": pairs}
