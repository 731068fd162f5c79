"""Every metric of the forward-dynamics tables, for any set of predicted images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from visdyn.evaluation.region_judge import judge_batch
from visdyn.evaluation.similarity import ImageEncoder, ImageTextEncoder, l1, row_cosines
from visdyn.images import to_array
from visdyn.trajectory import Trajectory


@dataclass
class ForwardEvaluation:
    """The test items with all that is computed once for every system.

    Attributes:
        trajectories: N test items whose images have one size.
        captions: a caption of each target, for CLIP-T.
        candidates: for each item, images of the end states that can be reached, for `success` and `copied`.
        clip, dino: encoders; the results say which.
    """

    trajectories: Sequence[Trajectory]
    captions: Sequence[str]
    candidates: Sequence[Sequence[np.ndarray]]
    clip: ImageTextEncoder
    dino: ImageEncoder
    sources: np.ndarray = field(init=False)
    targets: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.sources = to_array([item.source for item in self.trajectories])
        self.targets = to_array([item.target for item in self.trajectories])
        self._clip_targets = self.clip.embed_images(list(self.targets))
        self._dino_targets = self.dino.embed_images(list(self.targets))
        self._texts = self.clip.embed_texts(list(self.captions))

    def judge(self, predictions: np.ndarray) -> pd.DataFrame:
        """Return subset, id and the region judge's verdicts for predictions uint8 (N, H, W, 3)."""
        verdict = judge_batch(self.sources, predictions, self.targets, self.candidates)
        names = ("editing_success", "minimal_editing", "score", "success", "copied")
        return self._keys().assign(**{name: np.asarray(getattr(verdict, name), float) for name in names})

    def score(self, predictions: np.ndarray) -> pd.DataFrame:
        """Return columns subset, id, metric, value for predictions uint8 (N, H, W, 3), in the order of the items."""
        images = list(predictions)
        clip = self.clip.embed_images(images)
        table = self.judge(predictions).assign(
            l1_paper=[l1(image, target, "paper") for image, target in zip(images, self.targets, strict=True)],
            l1_matched=[l1(image, target, "matched") for image, target in zip(images, self.targets, strict=True)],
            clip_i=row_cosines(clip, self._clip_targets),
            clip_t=row_cosines(clip, self._texts),
            dino=row_cosines(self.dino.embed_images(images), self._dino_targets),
        )
        return table.melt(["subset", "id"], var_name="metric", value_name="value")

    def _keys(self) -> pd.DataFrame:
        items = self.trajectories
        return pd.DataFrame({"subset": [item.subset for item in items], "id": [item.id for item in items]})
