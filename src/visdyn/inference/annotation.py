"""Synthetic annotation: the IDM labels key-frame pairs with actions and with its own confidence (section 3.2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import pandas as pd

from visdyn.datasets.clips import Clip
from visdyn.images import ImageRef
from visdyn.mining.output import ImagePair
from visdyn.mining.stratified import stratified_top_k
from visdyn.models.unified import TokenInverseDynamics


@dataclass(frozen=True)
class Annotation:
    """A label of the IDM: the action and its mean log-probability per generated token, in nats."""

    action: str
    score: float


def annotate(idm: TokenInverseDynamics, sources: Sequence[ImageRef], targets: Sequence[ImageRef]) -> list[Annotation]:
    """Label each pair (source, target) greedily; an empty answer scores minus infinity, so it is never selected."""
    actions, scores = idm.predict_codes(idm.model.encode(sources), idm.model.encode(targets))
    return [
        Annotation(action.strip(), float(score) if action.strip() else float("-inf"))
        for action, score in zip(actions, scores, strict=True)
    ]


@dataclass(frozen=True)
class Labelled:
    """A key-frame pair with the IDM's label; what Algorithm 1 selects from."""

    pair: ImagePair
    action: str
    score: float

    @property
    def id(self) -> str:
        return self.pair.id

    @property
    def class_name(self) -> str:
        return self.pair.class_name


def annotate_pairs(idm: TokenInverseDynamics, pairs: Sequence[ImagePair]) -> list[Labelled]:
    """Label every pair, in order."""
    labels = annotate(idm, [pair.source for pair in pairs], [pair.target for pair in pairs])
    return [Labelled(pair, label.action, label.score) for pair, label in zip(pairs, labels, strict=True)]


def select(labelled: Sequence[Labelled], k: int) -> list[Labelled]:
    """Take `k` pairs of each dataset by Algorithm 1 (class by class, best first); pairs without a label never."""
    datasets = sorted({item.pair.dataset for item in labelled})
    usable = [item for item in labelled if item.score > float("-inf")]
    return [
        item
        for dataset in datasets
        for item in stratified_top_k([item for item in usable if item.pair.dataset == dataset], k)
    ]


def write_triplets(
    labelled: Sequence[Labelled], selected: Sequence[Labelled], truth: Sequence[str], folder: str | Path
) -> pd.DataFrame:
    """Write the selected triplets as `triplets.jsonl` and return the table of all pairs (annotation/pairs.csv).

    Args:
        truth: the known action of each labelled pair, "" where it is not exactly one; for measuring only.
    """
    kept, folder = {item.id for item in selected}, Path(folder)
    rows, lines = [], []
    for item, true in zip(labelled, truth, strict=True):
        pair = item.pair
        place = {
            "dataset": pair.dataset,
            "class": pair.class_name,
            "video": pair.video,
            "pair": f"{pair.frame_a}-{pair.frame_b}",
        }
        correct = float(item.action == true) if true else float("nan")
        rows.append({**place, "action": item.action, "log_likelihood": item.score, "selected": int(item.id in kept)})
        rows[-1] |= {"true_action": true, "correct": correct}
        if item.id in kept:
            images = {"source": pair.source, "target": pair.target}
            lines.append(json.dumps({**place, **images, "action": item.action, "true_action": true}))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "triplets.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return pd.DataFrame(rows)


def mining_summary(table: pd.DataFrame, clips: Sequence[Clip], fps: float = 10.0) -> pd.DataFrame:
    """Summarise mined and labelled pairs per dataset as the paper's Table 7 does (annotation/summary.csv).

    Args:
        table: as `write_triplets` returns it.
        clips: all clips that were mined, also those without a pair.
        fps: frames per second where a file does not say.
    """
    rows = []
    for dataset, part in table.groupby("dataset"):
        seconds = [_seconds(clip, fps) for clip in clips if clip.dataset == dataset]
        videos = part.groupby(["class", "video"]).size()
        rows.append(
            {
                "dataset": dataset,
                "videos": len(videos),
                "mean_seconds": sum(seconds) / len(seconds),
                "total_hours": sum(seconds) / 3600,
                "observations_per_video": (videos + 1).mean(),
                "actions_per_video": videos.mean(),
                "words_per_action": part["action"].str.split().str.len().mean(),
                "pairs": len(part),
                "selected": int(part["selected"].sum()),
            }
        )
    return pd.DataFrame(rows)


def _seconds(clip: Clip, fps: float) -> float:
    capture = cv2.VideoCapture(str(clip.path))
    frames, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return frames / (rate or fps)
