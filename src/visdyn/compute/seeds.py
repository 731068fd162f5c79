"""Seeds: of a chain's trainings and samples, and of single items.

A *chain* is one whole draw of the experiment: base, IDM, labels, FDMs, candidates; generator, Do-Undo. Every draw of a
chain has a seed of its own. What is drawn for an item depends on that seed and the item's name, never on its place.
The formats of these strings and their hashes decide results: a change of one changes every sample drawn with it.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def training_seed(seed: int, run: str, chain: int | None = None) -> int:
    """Return the seed of a training: initialisation, order of the data, dropout, noise. It is even.

    Args:
        seed: the profile's.
        run: kind of training, such as `base` or `fdm`; the arms of one chain share their seed, so that they differ by
            data and weights alone.
        chain: None for a model that all chains share.
    """
    return 2 * _hash_chain(seed, f"training/{run}", chain)


def sampling_seed(seed: int, what: str, chain: int) -> int:
    """Return the seed of a chain's `images`, `candidates` or `labels`. It is odd, so that no training has it."""
    return 2 * _hash_chain(seed, f"sampling/{what}", chain) + 1


def _hash_chain(seed: int, name: str, chain: int | None) -> int:
    """Return 30 bits of a SHA-256: NumPy and transformers take no seed of more than 32."""
    digest = hashlib.sha256(f"{seed}/{name}/{'shared' if chain is None else chain}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 2


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
