"""Every metric of the Do-Undo tables, for a forward and a reverse image of each pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from visdyn.evaluation.flow import estimate, mean_length
from visdyn.evaluation.region_judge import judge_batch
from visdyn.evaluation.similarity import ImageEncoder, ImageTextEncoder, l1, row_cosines
from visdyn.images import to_array
from visdyn.trajectory import ReversiblePair


@dataclass
class EditingEvaluation:
    """Do-Undo's test pairs with all that is computed once for every system.

    Attributes:
        pairs: N reversible pairs whose images have one size.
        captions: captions of the start and of the end image of each pair, for CLIP-T.
        candidates: reachable end states of each pair's start, and of its end, for `success`.
        clip, dino: encoders.
        flow_size: side to which images are squashed before optical flow; None is their own size (512 in the paper).
    """

    pairs: Sequence[ReversiblePair]
    captions: tuple[Sequence[str], Sequence[str]]
    candidates: tuple[Sequence[Sequence[np.ndarray]], Sequence[Sequence[np.ndarray]]]
    clip: ImageTextEncoder
    dino: ImageEncoder
    flow_size: int | None = None
    starts: np.ndarray = field(init=False)
    ends: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.starts = to_array([pair.start for pair in self.pairs])
        self.ends = to_array([pair.end for pair in self.pairs])
        self._texts = [self.clip.embed_texts(list(captions)) for captions in self.captions]
        self._dino_targets = [self.dino.embed_images(list(images)) for images in (self.starts, self.ends)]
        self._true_flows = [self._flow(start, end) for start, end in zip(self.starts, self.ends, strict=True)]

    def score(self, forward: np.ndarray, reverse: dict[str, np.ndarray]) -> pd.DataFrame:
        """Score forward images (against the end) and reverse images (against the start), uint8 (N, H, W, 3) each.

        `returned`: the reverse image shows the start state; `joint`: the forward image was right and it returned. A
        model that copies returns for free, so `joint` is the number to read. Optical flow, in pixels: `epe_f` and
        `epe_r` as the newer version's code defines them, `epe` and `of_f` as the first version's prose may be read
        (`visdyn.evaluation.flow` has the definitions).

        Args:
            reverse: reverse images by what they were made from: `gt` (the true end) or `generated` (the forward image).

        Returns:
            columns direction, reverse_from, verb, id, metric, value.
        """
        done = self._direction(self.starts, forward, self.ends, 1, self.candidates[0])
        flows = [self._flow(start, image) for start, image in zip(self.starts, forward, strict=True)]
        done["epe_f"] = [mean_length(true - ours).pixels for true, ours in zip(self._true_flows, flows, strict=True)]
        done["of_f"] = [
            mean_length(self._flow(end, image)).pixels for end, image in zip(self.ends, forward, strict=True)
        ]
        tables = [self._long(done, "forward", "")]
        for reverse_from, images in reverse.items():
            undone = self._direction(self.ends, images, self.starts, 0, self.candidates[1])
            back = [self._flow(start, image) for start, image in zip(self.starts, images, strict=True)]
            undone["epe_r"] = [mean_length(flow).pixels for flow in back]
            again = [self._flow(image, edited) for image, edited in zip(images, forward, strict=True)]
            undone["epe"] = [mean_length(ours - other).pixels for ours, other in zip(flows, again, strict=True)]
            undone["returned"] = undone["success"]
            undone["joint"] = done["success"] * undone["success"]
            tables.append(self._long(undone, "reverse", reverse_from))
        return pd.concat(tables, ignore_index=True)

    def _flow(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        return estimate(start, end, size=self.flow_size)

    def _direction(self, sources, predictions, targets, side: int, candidates) -> pd.DataFrame:
        verdict = judge_batch(sources, predictions, targets, candidates)
        names = ("editing_success", "minimal_editing", "score", "success", "copied")
        clip = self.clip.embed_images(list(predictions))
        return pd.DataFrame(
            {
                **{name: np.asarray(getattr(verdict, name), float) for name in names},
                "dino": row_cosines(self.dino.embed_images(list(predictions)), self._dino_targets[side]),
                "clip_t": row_cosines(clip, self._texts[side]),
                "l1": [l1(image, target, "paper") for image, target in zip(predictions, targets, strict=True)],
            }
        )

    def _long(self, table: pd.DataFrame, direction: str, reverse_from: str) -> pd.DataFrame:
        keys = {"direction": direction, "reverse_from": reverse_from}
        keys |= {"verb": [pair.verb for pair in self.pairs], "id": [pair.id for pair in self.pairs]}
        return table.assign(**keys).melt(list(keys), var_name="metric", value_name="value")
