"""Every metric of the Do-Undo tables, for a forward and a reverse image of each pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from visdyn.evaluation.benches.bench_aurora import compared, cosines, embedded, features
from visdyn.evaluation.metrics.action_accuracy import ActionClassifier, action_accuracy
from visdyn.evaluation.metrics.optical_flow import Flow, FlowBackend, epe_forward, epe_reverse, epe_v1, estimate, of_f
from visdyn.evaluation.metrics.region_verdicts import NAMES, region_verdicts
from visdyn.evaluation.metrics.registry import DOUNDO
from visdyn.evaluation.metrics.similarity import ImageEncoder, ImageTextEncoder, row_cosines
from visdyn.images import ImageRef, load
from visdyn.trajectory import ReversiblePair

Candidates = Sequence[Sequence[np.ndarray]]
AT_ONCE = 64  # pairs in memory together, with all their images and flows
# In the newer version's code CLIP compares the forward image with the forward prompt, cut to 77 tokens.
PROMPT_METRIC = "clip_prompt"


@dataclass
class EditingEvaluation:
    """Do-Undo's test pairs with all that is computed once for every system.

    Attributes:
        pairs: N reversible pairs, images of any sizes.
        captions: captions of the start and of the end image of each pair, for CLIP-T; None where there is none.
        candidates: reachable end states of each pair's start, and of its end, for `success`; None where nobody knows
            them (real data).
        clip, dino: encoders; None leaves their metrics empty.
        flow_size: side to which images are squashed before optical flow; None is their own size (512 in the paper).
            With a size, the first version's two flow errors are also given as a share of it.
        flow_backend: optical flow; the results say which.
        region: whether the region judge judges.
        prompts: whether CLIP also compares the forward image with the forward prompt (`clip_prompt`).
        edited_captions: writes a caption of each edited image (`clip_t_edited`); None leaves that metric out.
        familiarity: how much of each pair the fine-tuned models saw (`mining.balanced_test.familiarity`); None where
            nobody knows.
        classifier: recognises verb and noun of each image (`action_accuracy`, `noun_accuracy`); None leaves them out.
        classes: verb and noun class of each pair, by its id, for the classifier.
        metric_files: files with further metrics (`evaluation.metrics.registry.register_file`).
    """

    pairs: Sequence[ReversiblePair]
    captions: tuple[Sequence[str | None], Sequence[str | None]]
    candidates: tuple[Candidates, Candidates] | None
    clip: ImageTextEncoder | None
    dino: ImageEncoder | None
    flow_size: int | None = None
    flow_backend: str | FlowBackend = "farneback"
    region: bool = True
    prompts: bool = False
    edited_captions: Callable[[Sequence[ImageRef]], list[str]] | None = None
    familiarity: Sequence[str] | None = None
    classifier: ActionClassifier | None = None
    classes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    metric_files: tuple[str, ...] = ()
    starts: list[ImageRef] = field(init=False)
    ends: list[ImageRef] = field(init=False)

    def __post_init__(self) -> None:
        self.starts = [pair.start for pair in self.pairs]
        self.ends = [pair.end for pair in self.pairs]
        self._texts = [embedded(self.clip, captions, texts=True) for captions in self.captions]
        self._dino_targets = [embedded(self.dino, images) for images in (self.starts, self.ends)]
        self._true_flows: dict[int, np.ndarray] = {}

    def score(
        self,
        forward: Sequence[ImageRef | None],
        reverse: dict[str, Sequence[ImageRef | None]],
        prompt: str = "long",
    ) -> pd.DataFrame:
        """Score forward images (against the end) and reverse images (against the start); one each for each pair.

        `returned`: the reverse image shows the start state; `joint`: the forward image was right and it returned. A
        model that copies returns for free, so `joint` is the number to read. Optical flow, in pixels: `epe_f` and
        `epe_r` as the newer version's code defines them, `epe` and `of_f` as the first version's prose may be read
        (`visdyn.evaluation.metrics.optical_flow` has the definitions), `epe_norm` and `of_f_norm` as shares of the
        longer side.

        Args:
            forward: images, None for a pair without one; such a pair has no row.
            reverse: reverse images by what they were made from: `gt` (the true end) or `generated` (the forward image).
            prompt: length of the prompts that were given, for `clip_prompt`.

        Returns:
            columns direction, reverse_from, verb, familiarity, id, metric, value (NaN where a metric cannot be had).
        """
        parts = [
            self._score_rows(range(start, min(start + AT_ONCE, len(self.pairs))), forward, reverse, prompt)
            for start in range(0, len(self.pairs), AT_ONCE)
        ]
        return pd.concat(parts, ignore_index=True)

    def _score_rows(self, rows: range, forward: Sequence, reverse: dict[str, Sequence], prompt: str) -> pd.DataFrame:
        ahead = _arrays(rows, forward)
        done = self._direction(ahead, forward, "forward")
        if self.prompts and self.clip is not None:
            done[PROMPT_METRIC] = self._prompt_cosines(ahead, prompt)
        flow = self._shared_flow(ahead)
        done["epe_f"] = [epe_forward(self.starts[r], self.ends[r], image, flow).pixels for r, image in ahead.items()]
        done["of_f"] = [of_f(self.ends[row], image, flow).pixels for row, image in ahead.items()]
        tables = [self._long(done, "forward", "")]
        for reverse_from, refs in reverse.items():
            images = _arrays(rows, refs)
            undone = self._direction(images, refs, "reverse")
            undone["epe_r"] = [epe_reverse(self.starts[row], image, flow).pixels for row, image in images.items()]
            undone["epe"] = [
                epe_v1(self.starts[row], ahead[row], image, flow).pixels if row in ahead else float("nan")
                for row, image in images.items()
            ]
            undone["returned"] = undone["success"]
            undone["joint"] = done["success"].reindex(undone.index) * undone["success"]
            tables.append(self._long(undone, "reverse", reverse_from))
        return pd.concat(tables, ignore_index=True)

    def _shared_flow(self, ahead: dict[int, np.ndarray]) -> Flow:
        """Return the optical flow between two references; what several errors of a pair share is estimated once.

        True flows are kept for all systems, those from the start to the forward image for one batch. Images are told
        apart by identity: these live as long as their flows.
        """
        true = {(id(self.starts[row]), id(self.ends[row])): row for row in ahead}
        generated = {(id(self.starts[row]), id(image)): row for row, image in ahead.items()}
        flows: dict[int, np.ndarray] = {}  # row -> flow from the start to the forward image

        def flow(start: ImageRef, end: ImageRef) -> np.ndarray:
            images = id(start), id(end)
            for rows, kept in ((true, self._true_flows), (generated, flows)):
                if images in rows:
                    if rows[images] not in kept:
                        kept[rows[images]] = self.flow_between(start, end)
                    return kept[rows[images]]
            return self.flow_between(start, end)

        return flow

    def flow_between(self, start: ImageRef, end: ImageRef) -> np.ndarray:
        """Return the flow between two images, as it is scored: float32 (H, W, 2) in pixels of the compared size."""
        if self.flow_size is not None:
            return estimate(start, end, self.flow_backend, self.flow_size)
        first, second = load(start), load(end)
        if first.size != second.size:  # a generator's own size: compared at the first image's
            second = second.resize(first.size)
        return estimate(first, second, self.flow_backend, None)

    def _direction(self, images: dict[int, np.ndarray], refs: Sequence, direction: str) -> pd.DataFrame:
        """Return a row for each pair with an image, indexed by the pair's place."""
        ahead = direction == "forward"
        rows, arrays = list(images), list(images.values())
        if not rows:
            return pd.DataFrame(
                columns=[*NAMES, "dino", "clip_t", *compared(DOUNDO, [], [], self.metric_files)], index=[], dtype=float
            )
        side = 1 if ahead else 0
        targets = [(self.ends if ahead else self.starts)[row] for row in rows]
        clip = features(self.clip, arrays)
        table = {
            **self._verdicts(rows, arrays, ahead),
            "dino": cosines(features(self.dino, arrays), self._dino_targets[side], rows),
            "clip_t": cosines(clip, self._texts[side], rows),
            **compared(DOUNDO, arrays, targets, self.metric_files),
        }
        if self.edited_captions is not None and clip is not None:
            texts = self.clip.embed_texts(self.edited_captions([refs[row] for row in rows]))
            table["clip_t_edited"] = row_cosines(clip, texts)
        if self.classifier is not None:
            before = [(self.starts if ahead else self.ends)[row] for row in rows]
            ids = [self.pairs[row].id for row in rows]
            table |= action_accuracy(self.classifier, before, arrays, ids, self.classes, undone=not ahead)
        return pd.DataFrame(table, index=rows)

    def _verdicts(self, rows: list[int], images: list[np.ndarray], ahead: bool) -> dict[str, np.ndarray]:
        if not self.region:
            return {name: np.full(len(rows), np.nan) for name in NAMES}
        sources, targets = (self.starts, self.ends) if ahead else (self.ends, self.starts)
        known = self.candidates and self.candidates[0 if ahead else 1]
        candidates = [known[row] for row in rows] if known else None
        return region_verdicts([sources[row] for row in rows], images, [targets[row] for row in rows], candidates)

    def _prompt_cosines(self, images: dict[int, np.ndarray], prompt: str) -> np.ndarray:
        if not images:
            return np.zeros(0)
        texts = self.clip.embed_texts([self.pairs[row].forward(prompt).action for row in images])
        return row_cosines(self.clip.embed_images(list(images.values())), texts)

    def _long(self, table: pd.DataFrame, direction: str, reverse_from: str) -> pd.DataFrame:
        sides = [self.flow_size or max(load(self.starts[row]).size) for row in table.index]
        shares = {f"{name}_norm": table[name] / sides for name in ("of_f", "epe") if name in table}
        table = table.assign(**shares)
        pairs = [self.pairs[row] for row in table.index]
        keys = {"direction": direction, "reverse_from": reverse_from}
        seen = "" if self.familiarity is None else [self.familiarity[row] for row in table.index]
        keys |= {"verb": [pair.verb for pair in pairs], "familiarity": seen, "id": [pair.id for pair in pairs]}
        return table.assign(**keys).melt(list(keys), var_name="metric", value_name="value")


def _arrays(rows: range, refs: Sequence[ImageRef | None]) -> dict[int, np.ndarray]:
    return {row: np.asarray(load(refs[row])) for row in rows if refs[row] is not None}
