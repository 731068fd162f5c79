"""Batches of sequences of like length: less padding, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from visdyn.compute.seeds import epoch_generator

BATCHES_SORTED_TOGETHER = 16  # more waste less padding and mix less


class LengthGroupedSampler(Sampler[int]):
    """Random order in which every `batch_size` neighbours have like lengths.

    Items are shuffled, sorted by length within groups of 16 batches, and the batches are shuffled. An epoch's order
    does not depend on those before it, so a resumed run sees what the uninterrupted one would have seen.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = torch.as_tensor(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = epoch_generator(self.seed, self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        groups = order.split(self.batch_size * BATCHES_SORTED_TOGETHER)
        batches = [
            batch
            for group in groups
            for batch in group[self.lengths[group].argsort(stable=True)].split(self.batch_size)
        ]
        # The one short batch stays last: it would shift the others if it came earlier.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]
        shuffled = [full[index] for index in torch.randperm(len(full), generator=generator)]
        return iter(torch.cat(shuffled + rest).tolist())
