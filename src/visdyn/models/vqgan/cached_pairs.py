"""Triplets whose codes stay in the shared cache: a folder names their places there, and rows are read one by one.

    <folder>/manifest.json     the cache's shards, what a record holds, how many triplets
    <folder>/places.npy        key, shard and record number of each triplet
    <folder>/actions.json      their actions

165,000 triplets of 1,024 codes are 1 GB in the cache and 6 MB here; as images they would be 330,000 files.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visdyn.models.vqgan.code_cache import CodeCache
from visdyn.models.vqgan.code_shards import CHECKSUM_BYTES, KEY_BYTES
from visdyn.quarantine import Quarantine
from visdyn.readers import read_json
from visdyn.trajectory import Trajectory

_PLACE = np.dtype([("key", f"V{KEY_BYTES}"), ("shard", "S2"), ("row", "<i8")])


def write_triplets(
    folder: str | Path, cache: CodeCache, trajectories: Sequence[Trajectory], quarantine: Quarantine
) -> list[Trajectory]:
    """Encode what the cache lacks and write the folder; return the triplets that could be read.

    Killed, the same call goes on where it was: a folder that is there is complete.

    Args:
        quarantine: takes pairs with an image that cannot be read.

    Raises:
        ValueError: there are triplets and not one could be read.
    """
    sources, targets = ([getattr(item, end) for item in trajectories] for end in ("source", "target"))
    before = len(quarantine)
    places, _ = cache.locate_pairs(sources, targets, quarantine)
    usable = [row for row, place in enumerate(places) if place is not None]
    if len(trajectories) and not usable:
        raise ValueError(f"not one of {len(trajectories)} triplets could be read; {quarantine.summary()}")
    quarantine.refuse_most("triplets", len(usable), before)
    shards, record = cache.pair_record
    draft = Path(folder).with_name(f"{Path(folder).name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    np.save(draft / "places.npy", np.array([places[row] for row in usable], _PLACE))
    (draft / "actions.json").write_text(json.dumps([trajectories[row].action for row in usable]))
    fields = [[name, record[name].base.str, list(record[name].shape)] for name in record.names]
    manifest = {"shards": str(shards.resolve()), "record": fields, "count": len(usable)}
    (draft / "manifest.json").write_text(json.dumps(manifest, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return [trajectories[row] for row in usable]


class CachedTriplets:
    """The triplets of a folder, read from the cache as they are asked for.

    An item is (source codes uint16 (h, w), target codes uint16 (h, w), distances float32 (h * w,), action); a record
    that is not the one that was written is an `OSError`.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        manifest = read_json(folder / "manifest.json", dict)
        self.shards = Path(manifest["shards"])
        self.record = np.dtype([(name, kind, tuple(shape)) for name, kind, shape in manifest["record"]])
        self.places = np.load(folder / "places.npy")
        self.actions: list[str] = read_json(folder / "actions.json", list)
        self.size = KEY_BYTES + self.record.itemsize + CHECKSUM_BYTES

    def __len__(self) -> int:
        return len(self.actions)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        place = self.places[index]
        # Opened anew each time: data-loading processes are forks and must not share a file's position.
        path = self.shards / f"{place['shard'].decode()}.bin"
        with open(path, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), self.size, int(place["row"]) * self.size)
        checksum = zlib.crc32(content[:-CHECKSUM_BYTES]).to_bytes(CHECKSUM_BYTES, "little")
        if content[:KEY_BYTES] != place["key"].tobytes() or content[-CHECKSUM_BYTES:] != checksum:
            raise OSError(f"{path} was changed or damaged since its places were noted; run the stage again")
        row = np.frombuffer(content[KEY_BYTES:-CHECKSUM_BYTES], self.record)[0]
        distances = row["distances"].astype(np.float32) * row["scale"]
        return row["source"], row["target"], distances, self.actions[index]
