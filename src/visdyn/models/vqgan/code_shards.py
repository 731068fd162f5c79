"""Files of records of one size, by key: what the cache of image codes is made of.

The store of all else (`visdyn.compute.store`) writes codes about as fast and reads them nearly four times as slowly
(`benchmarks/kept_codes.py`): training opens a cache by reading all of it.
"""

from __future__ import annotations

import fcntl
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from visdyn.paths import write_atomically

KEY_BYTES, CHECKSUM_BYTES = 16, 4


@dataclass(frozen=True)
class Damage:
    """Records of a shard that could not be read and were computed again."""

    shard: str
    records: int
    reason: str


class Shards:
    """Files of records of one size, by key; the first byte of a key names its shard."""

    def __init__(self, folder: Path, payload_bytes: int, damages: list[Damage]) -> None:
        self.folder, self.size, self.damages = folder, KEY_BYTES + payload_bytes + CHECKSUM_BYTES, damages
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, shard: str) -> dict[bytes, bytes]:
        """Return the valid records. Needs no lock: what is half written or damaged counts as missing."""
        return self._parse_records(shard)[0]

    def mend(self, shard: str) -> dict[bytes, bytes]:
        """Return the valid records and take the invalid ones out of the file; the caller holds the lock."""
        records, bad, cut = self._parse_records(shard)
        if bad or cut:
            reasons = [f"{bad} with a wrong checksum"] * bool(bad) + ["the last one cut short"] * bool(cut)
            damage = Damage(str(self.path(shard)), bad + bool(cut), " and ".join(reasons))
            self.damages.append(damage)
            warnings.warn(f"{damage.shard} had damaged records, {damage.reason}; they are computed again", stacklevel=6)
            write_atomically(self.path(shard), b"".join(pack_record(*item) for item in records.items()))
        return records

    def places(self, shard: str) -> dict[bytes, int]:
        """Return the record number of each valid key."""
        return {row[:KEY_BYTES]: at for at, row in enumerate(self._read_rows(shard)[0]) if self._is_valid(row)}

    def append(self, shard: str, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Write records through to the disk; the caller holds the lock and has mended the shard."""
        with open(self.path(shard), "ab") as file:
            file.write(b"".join(pack_record(*item) for item in records))
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def lock(self, shard: str, wait: bool) -> Iterator[bool]:
        """Hold a shard; gives False at once where another process holds it and `wait` is off."""
        # The kernel releases the lock of a killed process, so none is ever stale.
        with open(self.folder / f"{shard}.lock", "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def path(self, shard: str) -> Path:
        return self.folder / f"{shard}.bin"

    def _parse_records(self, shard: str) -> tuple[dict[bytes, bytes], int, int]:
        """Return the valid records, the number of invalid ones, and the bytes left over at the end."""
        rows, rest = self._read_rows(shard)
        valid = [row for row in rows if self._is_valid(row)]
        records = {row[:KEY_BYTES]: row[KEY_BYTES:-CHECKSUM_BYTES] for row in valid}
        return records, len(rows) - len(valid), rest

    def _read_rows(self, shard: str) -> tuple[list[bytes], int]:
        content = self.path(shard).read_bytes() if self.path(shard).is_file() else b""
        whole, rest = divmod(len(content), self.size)
        return [content[at * self.size : (at + 1) * self.size] for at in range(whole)], rest

    @staticmethod
    def _is_valid(row: bytes) -> bool:
        return pack_record(row[:KEY_BYTES], row[KEY_BYTES:-CHECKSUM_BYTES]) == row


def pack_record(key: bytes, payload: bytes) -> bytes:
    return key + payload + zlib.crc32(key + payload).to_bytes(CHECKSUM_BYTES, "little")
