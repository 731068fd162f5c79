"""The K candidates of test-time verification: how tables name them, who chooses, and where their images lie.

Each candidate is a folder of images, like any system's:

    <folder>/<arm>-s<chain>/draw_<draw>/candidate_<candidate>/<subset>/<id>.png

So `visdyn score`, a judge or a human study takes a candidate as it takes any folder of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from visdyn.training.runs import run_name
from visdyn.trajectory import Trajectory

FOLDER = "data/generated/candidates"  # of a profile
KEYS = ["arm", "chain", "draw", "subset", "id"]  # of an item's candidates
# Who chooses among an item's candidates -> the column of `verification/candidates.csv` that it goes by.
# `zero_shot` (the base as it is) and `idm_same_labels` (the IDM of the FDM's own labels) are controls of `idm`.
VERIFIERS = {
    "idm": "idm_log_likelihood",
    "likelihood": "fdm_log_likelihood",
    "zero_shot": "zero_shot_log_likelihood",
    "idm_same_labels": "idm_same_labels_log_likelihood",
}


def verifiers_of(candidates: pd.DataFrame) -> dict[str, str]:
    """Return those of `VERIFIERS` that said something of the candidates: verifier -> column."""
    return {name: column for name, column in VERIFIERS.items()
            if column in candidates and candidates[column].notna().any()}  # fmt: skip


def candidate_folder(folder: Path, arm: str, chain: int, draw: int, candidate: int) -> Path:
    """Return the folder of one candidate of every item."""
    return folder / run_name(arm, chain) / f"draw_{draw}" / f"candidate_{candidate}"


def keep_candidates(
    folder: Path, arm: str, chain: int, draw: int, items: Sequence[Trajectory], images: np.ndarray
) -> None:
    """Write the candidates of N items as PNG.

    Args:
        images: uint8 (N, K, H, W, 3), or an object array (N, K) of uint8 arrays (H, W, 3).
    """
    for item, candidates in zip(items, images, strict=True):
        for candidate, image in enumerate(candidates):
            path = candidate_folder(folder, arm, chain, draw, candidate) / item.subset / f"{item.id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, compress_level=1)
