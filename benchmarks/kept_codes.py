"""The code cache's shards and a file an entry against the store, at what they keep: codes, and posteriors.

`python benchmarks/kept_codes.py`: some seconds. Codes are 1,024 of 16 bits an image, written as the cache fills itself
(64 images at once into one shard, through to the disk) and read as training opens it (a whole shard). Posteriors are of
912 x 512 pixels (.93 MB), one file or one value each, read one by one.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from visdyn.compute.store import Store
from visdyn.models.vqgan.code_shards import Shards
from visdyn.paths import write_atomically

CODES, BATCH, POSTERIORS = 2048, 64, 930_000


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def code_times(folder: Path, count: int) -> dict[str, list[float]]:
    """Return seconds to write and to read `count` images' codes, by way."""
    draw = np.random.default_rng(0)
    keys = [hashlib.sha256(str(number).encode()).digest()[:16] for number in range(count)]
    batches = [[(key, draw.bytes(CODES)) for key in keys[start : start + BATCH]] for start in range(0, count, BATCH)]
    shards, store = Shards(folder / "shards", CODES, []), Store(folder / "codes.sqlite")

    def write_shards() -> None:
        for number, batch in enumerate(batches):
            shards.mend(f"{number % 16:02x}")
            shards.append(f"{number % 16:02x}", batch)

    return {
        "shards": [seconds(write_shards), seconds(lambda: [shards.read(f"{number:02x}") for number in range(16)])],
        "store": [
            seconds(lambda: [store.put_many({key.hex(): value for key, value in batch}) for batch in batches]),
            seconds(lambda: store.get_many(key.hex() for key in keys)),
        ],
    }


def posterior_times(folder: Path, count: int) -> dict[str, list[float]]:
    """Return seconds to write and to read `count` posteriors, by way."""
    draw, store = np.random.default_rng(0), Store(folder / "posteriors.sqlite")
    entries = {str(number): draw.bytes(POSTERIORS) for number in range(count)}
    return {
        "files": [
            seconds(lambda: [write_atomically(folder / key, value) for key, value in entries.items()]),
            seconds(lambda: [(folder / key).read_bytes() for key in entries]),
        ],
        "store": [
            seconds(lambda: [store.put(key, value) for key, value in entries.items()]),
            seconds(lambda: [store.get(key) for key in entries]),
        ],
    }


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16384)
    parser.add_argument("--posteriors", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        tables = {
            f"codes of {options.images} images": code_times(Path(root), options.images),
            f"{options.posteriors} posteriors of .93 MB": posterior_times(Path(root), options.posteriors),
        }
    for title, times in tables.items():
        (name, ours), (_, store) = times.items()
        for what, one, other in zip(("write", "read"), ours, store, strict=True):
            print(f"{title}, {what:5}   {name} {one:6.2f} s   store {other:6.2f} s ({other / one:.2f} times {name})")


if __name__ == "__main__":
    main()
