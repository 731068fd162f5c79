"""Every metric of the forward-dynamics tables, for any set of predicted images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from visdyn.evaluation.metrics.region_verdicts import NAMES, region_verdicts
from visdyn.evaluation.metrics.registry import AURORA, metrics, register_file
from visdyn.evaluation.metrics.similarity import ImageEncoder, ImageTextEncoder, row_cosines
from visdyn.images import ImageRef, load
from visdyn.trajectory import Trajectory

AT_ONCE = 256  # images in memory together


@dataclass
class ForwardEvaluation:
    """The test items with all that is computed once for every system.

    Attributes:
        trajectories: N test items, images of any sizes; `target` None where it was never published.
        captions: a caption of each target, for CLIP-T; None where there is none.
        candidates: for each item, images of the end states that can be reached, for `success` and `copied`; None where
            nobody knows them (real data).
        clip, dino: encoders; the results say which. None leaves their metrics empty.
        region: whether the region judge judges.
        edited_captions: writes a caption of each edited image, for CLIP-T's other reading (`clip_t_edited`); None
            leaves that metric out.
        metric_files: files with further metrics (`evaluation.metrics.registry.register_file`).
    """

    trajectories: Sequence[Trajectory]
    captions: Sequence[str | None]
    candidates: Sequence[Sequence[np.ndarray]] | None
    clip: ImageTextEncoder | None
    dino: ImageEncoder | None
    region: bool = True
    edited_captions: Callable[[Sequence[ImageRef]], list[str]] | None = None
    metric_files: tuple[str, ...] = ()
    sources: list[ImageRef] = field(init=False)
    targets: list[ImageRef | None] = field(init=False)

    def __post_init__(self) -> None:
        self.sources = [item.source for item in self.trajectories]
        self.targets = [item.target for item in self.trajectories]
        self._clip_targets = embedded(self.clip, self.targets)
        self._dino_targets = embedded(self.dino, self.targets)
        self._texts = embedded(self.clip, self.captions, texts=True)

    def judge(self, predictions: Sequence[ImageRef]) -> pd.DataFrame:
        """Return subset, id and the region judge's verdicts of one prediction for each item."""
        rows = range(len(self.trajectories))
        return self._keys(rows).assign(**self._verdicts(rows, predictions))

    def score(self, predictions: Sequence[ImageRef | None]) -> pd.DataFrame:
        """Return columns subset, id, metric, value.

        Args:
            predictions: one for each item, in their order; an item whose prediction is None gets no row. The value is
                NaN where a metric cannot be had: no target, no caption, unknown end states.
        """
        rows = [row for row, image in enumerate(predictions) if image is not None]
        parts = [self._scored(rows[i : i + AT_ONCE], predictions) for i in range(0, len(rows), AT_ONCE)]
        table = pd.concat(parts, ignore_index=True) if parts else self._keys([])
        return table.melt(["subset", "id"], var_name="metric", value_name="value")

    def _scored(self, rows: Sequence[int], predictions: Sequence[ImageRef | None]) -> pd.DataFrame:
        images = [np.asarray(load(predictions[row])) for row in rows]
        targets = [self.targets[row] for row in rows]
        clip = features(self.clip, images)
        verdicts = self._verdicts(rows, images) if self.region else {name: np.full(len(rows), np.nan) for name in NAMES}
        table = self._keys(rows).assign(
            **verdicts,
            **compared(AURORA, images, targets, self.metric_files),
            clip_i=cosines(clip, self._clip_targets, rows),
            clip_t=cosines(clip, self._texts, rows),
            dino=cosines(features(self.dino, images), self._dino_targets, rows),
        )
        if self.edited_captions is not None and self.clip is not None:
            texts = self.clip.embed_texts(self.edited_captions([predictions[row] for row in rows]))
            table["clip_t_edited"] = row_cosines(clip, texts)
        return table

    def _verdicts(self, rows: Sequence[int], predictions: Sequence[ImageRef]) -> dict[str, np.ndarray]:
        candidates = None if self.candidates is None else [self.candidates[row] for row in rows]
        return region_verdicts(
            [self.sources[row] for row in rows], predictions, [self.targets[row] for row in rows], candidates
        )

    def _keys(self, rows: Sequence[int]) -> pd.DataFrame:
        items = [self.trajectories[row] for row in rows]
        return pd.DataFrame({"subset": [item.subset for item in items], "id": [item.id for item in items]})


Embedded = dict[int, np.ndarray]  # row of an item -> float32 (D,); items without an image or text are left out


def embedded(encoder, things: Sequence, texts: bool = False) -> Embedded:
    """Embed what is there: images, or texts; None for an item without. Without an encoder nothing is."""
    rows = [row for row, thing in enumerate(things) if thing is not None]
    if encoder is None or not rows:
        return {}
    embed = encoder.embed_texts if texts else encoder.embed_images
    return dict(zip(rows, embed([things[row] for row in rows]), strict=True))


def features(encoder: ImageEncoder | None, images: Sequence[ImageRef]) -> np.ndarray | None:
    """Embed images as float32 (n, D); None without an encoder."""
    return None if encoder is None else encoder.embed_images(images)


def cosines(found: np.ndarray | None, truths: Embedded, rows: Sequence[int]) -> np.ndarray:
    """Return the cosine of each row of features (n, D) with its item's, float64 (n,); NaN where there is none."""
    known = [place for place, row in enumerate(rows) if row in truths]
    values = np.full(len(rows), np.nan)
    if known and found is not None:
        values[known] = row_cosines(found[known], np.stack([truths[rows[place]] for place in known]))
    return values


def compared(
    bench: str, images: Sequence[ImageRef], targets: Sequence[ImageRef | None], files: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Return every metric of a benchmark that compares an image with its target; NaN without a target.

    Args:
        files: with metrics of the user's own, which a pool's process has not registered yet.
    """
    for file in files:
        register_file(file, bench)
    pairs = list(zip(images, targets, strict=True))
    return {
        entry.name: [float("nan") if target is None else entry.compute(image, target) for image, target in pairs]
        for entry in metrics(bench)
        if entry.compute is not None
    }
