"""Seeds of single items: what is drawn for an item depends on the run's seed and the item's name, never on its place.

The formats of these strings and their hashes decide results: a change of one changes every sample drawn with it.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def item_seed(seed: int, *parts: str) -> int:
    """Return the seed of the item that `parts` name (subset and id, or a half of a pair): 56 bits of a SHA-256."""
    digest = hashlib.sha256("/".join((str(seed), *parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def sampling_generator(seed: int, subset: str, item: str) -> torch.Generator:
    """Return the generator of the next images sampled for one trajectory."""
    return _seed_generator(item_seed(seed, subset, item))


def training_generator(seed: int, index: int) -> torch.Generator:
    """Return the generator of what BAGEL's training draws (noise, time) for example `index` of its mixture."""
    digest = hashlib.sha256(f"bagel/{seed}/{index}".encode()).digest()
    return _seed_generator(int.from_bytes(digest[:7], "big"))


def label_generator(seed: int, pair: str) -> torch.Generator:
    """Return the generator of the label that an IDM samples for the pair of that id."""
    return _seed_generator(zlib.crc32(f"{seed} {pair}".encode()))


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the generator of the order in which an epoch of training takes its rows."""
    return _seed_generator(seed * 100_003 + epoch)


def named_seeds(seed: int, name: str) -> list[int]:
    """Return what seeds NumPy's `default_rng` for the thing of that name, such as a subset."""
    return [seed, zlib.crc32(name.encode())]


def _seed_generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)
