"""The labelled data of an IDM or FDM: read, limited, encoded once, and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.compute.pool import cores
from visdyn.compute.progress import Interval, say
from visdyn.compute.seeds import named_seeds
from visdyn.datasets.aurora import load_train
from visdyn.datasets.epic_kitchens import load_trajectories
from visdyn.models import load_model
from visdyn.models.vqgan.cached_pairs import write_triplets
from visdyn.models.vqgan.code_cache import CodeCache, ModelEncoder
from visdyn.params.dynamics import IdmLimits, Limits
from visdyn.quarantine import Quarantine
from visdyn.training.losses import recognition_weights
from visdyn.training.triplets import save_triplets
from visdyn.trajectory import Trajectory

# The paper trains on these four; WhatsUp is test only.
TRAIN_SUBSETS = ("magicbrush", "ag", "something", "kubric")


@dataclass(frozen=True)
class Part:
    """Triplets that were encoded: a path for `training.triplets`, and what could be used of each subset."""

    path: str
    used: dict[str, int]

    def __len__(self) -> int:
        return sum(self.used.values())


@dataclass
class DynamicsData:
    """Reads and encodes triplets; what cannot be used is counted and stands in `quarantine`.

    Attributes:
        base: folder or hub id of the model whose image tokenizer encodes.
        limits: of each subset.
        seed: of the samples that the limits take.
        folder: of the encoded triplets.
        codes: root of the code caches that stages share, resumed image by image; None encodes into one file.
        device: that the image tokenizer runs on.
        log_seconds: between two lines of progress.
    """

    base: str
    limits: Limits | IdmLimits
    seed: int
    folder: Path
    codes: Path | None = None
    device: str = "cpu"
    log_seconds: float = 5.0
    quarantine: Quarantine = field(default_factory=Quarantine)
    available: dict[str, int] = field(default_factory=dict)
    _model: object = None

    def read_aurora(self, root: Path) -> list[Trajectory]:
        """Read AURORA's training subsets, each to its limit; a limit of 0 leaves a subset out."""
        return [
            item
            for subset in TRAIN_SUBSETS
            if getattr(self.limits, subset) != 0
            for item in self._limited(subset, load_train(root, subset, self.quarantine))
        ]

    def read_epic(self, root: Path) -> list[Trajectory]:
        """Read EPIC-KITCHENS segments as (first frame, narration, last frame), to their limit."""
        return self._limited("epic", load_trajectories(root / "EPIC_100_train.csv", root / "frames", self.quarantine))

    def _limited(self, subset: str, items: list[Trajectory]) -> list[Trajectory]:
        self.available[subset] = len(items)
        return sample(items, getattr(self.limits, subset), self.seed, subset)

    def encode(self, items: Sequence[Trajectory], name: str) -> Part:
        """Encode triplets once for all runs of a stage.

        Raises:
            ValueError: there are none, or not one could be read.
        """
        if not items:
            raise ValueError(
                f"{name}: not one triplet to learn from; see the stage's limits, and the stage that writes them"
            )
        if self.codes is not None:
            items = write_triplets(self.folder / name, self._cache(), items, self.quarantine)
            return Part(str(self.folder / name), _counts(items))
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            unfinished = path.with_suffix(".part.npz")
            ends = zip(*((item.source, item.target, item.action) for item in items), strict=True)
            save_triplets(unfinished, self._tokenizer(), *ends)
            unfinished.rename(path)
        return Part(str(path), _counts(items))

    def table(self, models: dict[tuple[str, int], Sequence[Part]]) -> pd.DataFrame:
        """Return what each model learns from: columns model, chain, subset, available, used (data.csv).

        Args:
            models: the parts of each model or arm and chain.
        """
        rows = []
        for (model, chain), parts in models.items():
            for subset, used in sorted((subset, used) for part in parts for subset, used in part.used.items()):
                rows.append([model, chain, subset, self.available.get(subset, used), used])
        return pd.DataFrame(rows, columns=["model", "chain", "subset", "available", "used"])

    def _cache(self) -> CodeCache:
        # By path, size and time: reading 300,000 files to learn that they are known takes hours on a shared disk.
        options = {"identity": "stat", "batch_size": 32, "threads": cores(), "report": self._make_reporter()}
        distances = partial(recognition_weights, normalization="none")  # a floor and a scale come with training
        return CodeCache(self.codes, ModelEncoder(self._tokenizer(), distances), **options)

    def _make_reporter(self) -> Callable[[int, int], None]:
        """Return a function that writes a line to the log every few seconds."""
        interval = Interval(self.log_seconds)

        def report(done: int, total: int) -> None:
            if interval.is_due():
                say(f"encoding images: {done} of {total} shards")

        return report

    def _tokenizer(self):
        """Load the base for its image tokenizer; the decoder is given up again."""
        if self._model is None:
            self._model = load_model(self.base)
            self._model.lm = None
            self._model.vqgan.to(self.device)
        return self._model


def sample(items: Sequence[Trajectory], limit: int | None, seed: int, name: str) -> list[Trajectory]:
    """Return at most `limit` items (None: all) in their order, the same ones for the same seed and name."""
    if limit is None or limit >= len(items):
        return list(items)
    random = np.random.default_rng(named_seeds(seed, name))
    return [items[row] for row in sorted(random.choice(len(items), limit, replace=False))]


def _counts(items: Sequence[Trajectory]) -> dict[str, int]:
    return {subset: sum(item.subset == subset for item in items) for subset in sorted({item.subset for item in items})}
