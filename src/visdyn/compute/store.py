"""One store for what is kept between runs: values by key in one SQLite file.

    store = Store("answers.sqlite")
    store.put("key", b"value")  # on the disk when this returns
    store.get("key")            # the value; None where it is absent or damaged

A value is there wholly or not at all, whatever moment the process is killed at, and any number of threads and
processes of a machine may read and write together. A value carries a digest: one that was damaged on the disk is never
returned, counts as absent and so is made again. A file of which SQLite cannot follow the structure is refused; what can
be read of it comes back with `visdyn store DAMAGED NEW`.

On a local disk the file is in WAL mode, in which readers never wait. WAL needs memory that all its processes share;
where the file lies on a network file system, it is therefore kept with a rollback journal instead. That is safe from
several machines as far as the file system's locks are (NFS 4, Lustre with `flock`, GPFS; not NFS 3 without `lockd`),
readers wait for a writer there, and nothing makes up for a server that loses what it said it had written.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

BUSY_SECONDS = 60  # that a writer waits for the others
_NETWORK = (
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "ceph",
    "cifs",
    "smb3",
    "beegfs",
    "glusterfs",
    "wekafs",
    "9p",
    "virtiofs",
    "fuse",
)
_SCHEMA = "CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL)"
_PUT = """
INSERT INTO kept VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, digest = excluded.digest
"""


class StoreError(OSError):
    """The file cannot be read or written (a full disk, no store, a damaged one); the message says which."""


class Store:
    """Values (bytes) by key (text) in the file `path`, which the first value makes; see the module.

    It can be pickled, and used after a fork: each process opens the file for itself.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.damaged: set[str] = set()  # keys of values that were found damaged
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()

    def get(self, key: str) -> bytes | None:
        """Return the value of a key, None where it is absent or damaged."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those keys that have one."""
        if not self._has_file():
            return {}
        with self._open_connection() as connection:
            query = "SELECT key, value, digest FROM kept WHERE key = ?"
            rows = [row for key in keys for row in connection.execute(query, (key,))]
        return dict(self._skip_damaged(rows))

    def items(self) -> Iterator[tuple[str, bytes]]:
        """Yield all whole values with their keys, in the order in which the keys came."""
        if not self._has_file():
            return
        with self._open_connection() as connection:
            numbers = [number for (number,) in connection.execute("SELECT rowid FROM kept ORDER BY rowid")]
        for number in numbers:  # one by one: all of them together may not fit the memory
            with self._open_connection() as connection:
                rows = connection.execute("SELECT key, value, digest FROM kept WHERE rowid = ?", (number,)).fetchall()
            yield from self._skip_damaged(rows)

    def keys(self) -> set[str]:
        """Return all keys, those of values that turn out damaged too."""
        if not self._has_file():
            return set()
        with self._open_connection() as connection:
            return {key for (key,) in connection.execute("SELECT key FROM kept")}

    def put(self, key: str, value: bytes) -> None:
        """Keep a value; it is on the disk when this returns, and of several writers of one key the last stands."""
        self.put_many({key: value})

    def put_many(self, values: Mapping[str, bytes]) -> None:
        """Keep several values, all or none, for the price of one write.

        Raises:
            StoreError: the disk is full, or the file cannot be written; nothing of what was there is lost.
        """
        rows = [(key, value, _hash_entry(key, value)) for key, value in values.items()]
        with self._open_connection() as connection:
            # Taking the lock at once makes writers wait; a reader that turns writer would be refused instead.
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(_PUT, rows)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        self.damaged -= values.keys()

    def close(self) -> None:
        """Close this process's connection; the next call opens it again."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
                self._connection = None

    def __del__(self) -> None:
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["path"])

    def _has_file(self) -> bool:
        return self._connection is not None or self.path.is_file()

    @contextmanager
    def _open_connection(self) -> Iterator[sqlite3.Connection]:
        if self._process != os.getpid():
            # A connection that came over a fork must be neither used nor closed: both would harm the parent's.
            _inherited.append(self._connection)
            self._connection, self._process, self._lock = None, os.getpid(), threading.Lock()
        with self._lock:
            try:
                yield self._get_connection()
            except sqlite3.Error as error:
                raise StoreError(f"{self.path} {_explain_error(error, self.path)}") from error

    def _get_connection(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                connection.execute(f"PRAGMA journal_mode = {'DELETE' if is_on_network(self.path) else 'WAL'}")
                # What cost money or GPU hours must outlast a power cut; WAL alone promises only a crash.
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(_SCHEMA)
                break
            except sqlite3.Error as error:
                # SQLite does not wait for those who open a new file at the same moment.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    connection.close()
                    raise
                time.sleep(0.05)
        self._connection = connection
        return connection

    def _skip_damaged(self, rows: Iterable[tuple[str, bytes, bytes]]) -> Iterator[tuple[str, bytes]]:
        for key, value, checksum in rows:
            if _hash_entry(key, value) == checksum:
                yield key, value
            elif key not in self.damaged:
                self.damaged.add(key)
                warnings.warn(f"{self.path} holds a damaged value of {key}; it is made again", stacklevel=4)


_inherited: list[sqlite3.Connection | None] = []


def is_on_network(path: Path) -> bool:
    """Say whether a file lies on a network file system, as Linux lists its mounts; False where there is no list."""
    mounts = Path("/proc/self/mounts")
    if not mounts.is_file():
        return False
    lines = [line.split() for line in mounts.read_text(errors="replace").splitlines()]
    places = [(Path(line[1].replace("\\040", " ")), line[2]) for line in lines if len(line) > 2]
    holding = [(len(place.parts), kind) for place, kind in places if path.resolve().is_relative_to(place)]
    return bool(holding) and max(holding)[1].split(".")[0] in _NETWORK


def import_lines(store: Store, path: Path, read: Callable[[Any], tuple[str, bytes] | None]) -> int:
    """Take over a file of JSON lines that an earlier version of the kit kept, and return how many values were new.

    The file is then renamed to `<name>.imported`, never deleted: lines that cannot be read stay in it, and a warning
    counts them.

    Args:
        read: gives key and value of a parsed line; None for a line to leave out. What it raises is a damaged line.
    """
    if not path.is_file():
        return 0
    values, damaged = {}, 0
    for line in path.read_bytes().split(b"\n"):
        if not line.strip():
            continue
        try:
            found = read(json.loads(line))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            damaged += 1
            continue
        if found is not None:
            values.setdefault(*found)
    known = store.keys()
    new = {key: value for key, value in values.items() if key not in known}
    if new:
        store.put_many(new)
    aside = path.with_name(f"{path.name}.imported")
    path.rename(aside)
    if damaged:
        warnings.warn(f"{damaged} damaged lines of {path} were left in {aside.name}; what they held is made again",
                      stacklevel=2)  # fmt: skip
    return len(new)


def to_json(value: Any) -> bytes:
    """Encode a JSON-able value, in ASCII: what models write can hold half a surrogate pair, which has no UTF-8."""
    return json.dumps(value).encode("ascii")


def to_arrays(**arrays: np.ndarray) -> bytes:
    """Encode named arrays, compressed, bit for bit."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def from_arrays(value: bytes) -> dict[str, np.ndarray]:
    """Decode what `to_arrays` encoded."""
    with np.load(io.BytesIO(value)) as arrays:
        return dict(arrays)


def _hash_entry(key: str, value: bytes) -> bytes:
    named = hashlib.blake2b(key.encode(), digest_size=16).digest()  # a value that strayed to another key is damage too
    return hashlib.blake2b(value, digest_size=16, key=named).digest()


def _explain_error(error: sqlite3.Error, path: Path) -> str:
    if "malformed" in str(error) or "not a database" in str(error):
        return f"is damaged or no store ({error}); `visdyn store {path} NEW` saves what can be read"
    return f"cannot be read or written: {error}"


def salvage(damaged: str | Path, new: str | Path) -> int:
    """Copy all values that can still be read from a damaged file to a new one, and return how many."""
    found, path = {}, Path(damaged).resolve()
    for order in ("ASC", "DESC"):  # from both ends up to the damage
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            for key, value, checksum in connection.execute(f"SELECT * FROM kept ORDER BY rowid {order}"):
                if isinstance(value, bytes) and _hash_entry(key, value) == checksum:
                    found[key] = value
        except (sqlite3.Error, UnicodeError):
            continue
        finally:
            connection.close()
    if found:
        Store(new).put_many(found)
    return len(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a store as JSON lines, or save what can be read of a damaged one."""
    parser = argparse.ArgumentParser(description="Print a store as JSON lines, or save a damaged one.")
    parser.add_argument("store", type=Path, help="the SQLite file")
    parser.add_argument("new", type=Path, nargs="?", help="file that gets what can be read of a damaged one")
    options = parser.parse_args(arguments)
    if options.new:
        print(f"{salvage(options.store, options.new)} values saved to {options.new}")
        return
    for key, value in Store(options.store).items():
        try:
            shown = json.loads(value)
        except ValueError:
            shown = f"{len(value)} bytes"
        print(json.dumps({"key": key, "value": shown}))


if __name__ == "__main__":
    main()
