"""Triplets as training data: files of codes held in memory, or rows of the shared cache read as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset

from visdyn.models.token.sequences import SequenceBuilder, TokenSequence
from visdyn.models.token.unified import UnifiedModel
from visdyn.models.vqgan.cached_pairs import CachedTriplets
from visdyn.params.reading import Share
from visdyn.training.losses import normalise_weights, permute_places, recognition_weights


@dataclass(frozen=True)
class DynamicsTriplets:
    """What an IDM or FDM learns from: the arguments of `dynamics_dataset`.

    Attributes:
        paths: of triplet files or folders, concatenated.
        task: `idm` (images to action) or `fdm` (image and action to image).
        weighting: `uniform`, `recognition` (Bootstrapping, Eq. 2) with `floor`, or its control `permuted`, which has
            the same weights on other places; FDM only.
        seed: of the places under `permuted`.
    """

    paths: tuple[str, ...]
    task: Literal["idm", "fdm"]
    weighting: Literal["uniform", "recognition", "permuted"] = "uniform"
    floor: Share = 0.5
    seed: int = 0


class SequenceDataset(Dataset):
    """A list of sequences.

    With `grouped`, batches hold sequences of like length. That is for mixtures of tasks only: the length of an action
    gives the action away, and an IDM trained on batches of one length learns the last length it saw.
    """

    def __init__(self, sequences: Sequence[TokenSequence], grouped: bool = False) -> None:
        self.sequences = list(sequences)
        if grouped:
            self.lengths = [len(item.prompt) + len(item.completion) for item in self.sequences]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> TokenSequence:
        return self.sequences[index]


def load_triplets(path: str | Path, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """Read a triplet file: `sources`, `targets` int (N, h, w), `weights` float (N, h * w), `actions` text (N,)."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in ("sources", "targets", "weights", "actions")}
    return arrays if rows is None else {name: values[list(rows)] for name, values in arrays.items()}


def save_triplets(
    path: str | Path, model: UnifiedModel, sources: Sequence, targets: Sequence, actions: Sequence[str]
) -> None:
    """Encode image pairs once and write a triplet file; the weights are those of Eq. 2 as printed, without a scale.

    For data that fit in memory; `visdyn.models.vqgan.cached_pairs` is for others.
    """
    features, codes = {}, {}
    with torch.inference_mode():
        for name, images in (("sources", sources), ("targets", targets)):
            batches = [model.vqgan.features(model.pixels(images[i : i + 128])) for i in range(0, len(images), 128)]
            features[name] = torch.cat(batches)
            codes[name] = model.vqgan.quantize(features[name]).cpu().numpy()
    weights = recognition_weights(features["sources"], features["targets"], normalization="none").cpu().numpy()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **codes, weights=weights, actions=np.asarray(actions))


def dynamics_dataset(
    paths: Sequence[str | Path],
    builder: SequenceBuilder,
    task: str,
    weighting: str = "uniform",
    floor: float = 0.5,
    seed: int = 0,
) -> Dataset:
    """Return the sequences of a task, of all files: triplet files (.npz), or folders of `cached_pairs`.

    Args:
        task: `idm` or `fdm`.
        weighting: of an FDM's image tokens, `uniform`, or with `floor` `recognition` (Eq. 2) or its control `permuted`.
        seed: of `permuted`.

    Raises:
        ValueError: an unknown task or weighting, weights for an IDM, or a floor outside [0, 1].
    """
    _check_task(task, weighting, floor)
    weigh = partial(_loss_weights, weighting=weighting, floor=floor, seed=seed)
    parts = [_load_part(Path(path), builder, task, weigh) for path in paths]
    if all(isinstance(part, SequenceDataset) for part in parts):
        return SequenceDataset([item for part in parts for item in part.sequences])
    return ConcatDataset(parts)


def _load_part(path: Path, builder: SequenceBuilder, task: str, weigh: Callable[..., list]) -> Dataset:
    if path.suffix != ".npz":
        return LazySequences(CachedTriplets(path), builder, task, weigh)
    data = load_triplets(path)
    rows = zip(data["sources"], data["targets"], data["actions"], weigh(data["weights"]), strict=True)
    return SequenceDataset([_make_sequence(builder, task, *row) for row in rows])


class LazySequences(Dataset):
    """Sequences built one by one from cached codes: only actions and places in the cache are held in memory."""

    def __init__(
        self, triplets: CachedTriplets, builder: SequenceBuilder, task: str, weigh: Callable[..., list]
    ) -> None:
        self.triplets, self.builder, self.task, self.weigh = triplets, builder, task, weigh

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, index: int) -> TokenSequence:
        source, target, distances, action = self.triplets[index]
        weights = self.weigh(distances[None], first=index)[0]
        return _make_sequence(self.builder, self.task, source, target, action, weights)


def _make_sequence(builder: SequenceBuilder, task: str, source, target, action, weights) -> TokenSequence:
    if task == "idm":
        return builder.inverse(source, target, str(action))
    return builder.forward(source, str(action), target, weights)


def _check_task(task: str, weighting: str, floor: float) -> None:
    if task not in ("idm", "fdm"):
        raise ValueError(f"unknown task {task!r}; one of idm, fdm")
    if weighting not in ("uniform", "recognition", "permuted"):
        raise ValueError(f"unknown weighting {weighting!r}; one of uniform, recognition, permuted")
    if task == "idm" and weighting != "uniform":
        raise ValueError(f"weighting {weighting!r} is for image tokens; an IDM's actions are weighted uniformly")
    normalise_weights(torch.zeros(1, 1), floor)


def _loss_weights(distances: np.ndarray, weighting: str, floor: float, seed: int = 0, first: int = 0) -> list:
    """Return the loss weights (L,) of images of those distances (N, L), the first of which is number `first`."""
    if weighting == "uniform":
        return [None] * len(distances)
    weights = normalise_weights(torch.from_numpy(distances), floor)
    return list((permute_places(weights, seed, first) if weighting == "permuted" else weights).numpy())
