"""The store of what is kept between runs: kills, damage, several writers, a full disk, files of earlier versions."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from visdyn.compute import store as store_module
from visdyn.compute.store import Store, StoreError, from_arrays, import_lines, salvage, to_arrays, to_json

_WRITER = """
import sys
from visdyn.compute.store import Store
store, name = Store(sys.argv[1]), sys.argv[2]
for number in range(100_000):
    store.put_many({f"{name}-{number}-{half}": f"{name}-{number}-{half}".encode() * 500 for half in "ab"})
    print(number, flush=True)
"""


def test_values_are_whole_or_absent_when_writers_are_killed(tmp_path):
    """SIGKILL to three processes in the middle of writing: what they were told is kept is there, in whole pairs."""
    path = tmp_path / "kept.sqlite"
    command = [sys.executable, "-c", _WRITER, str(path)]
    writers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "xyz"]
    for writer in writers:
        for _ in range(3):
            assert writer.stdout.readline()
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
    told = {name: 3 + len(writer.communicate()[0].split()) for name, writer in zip("xyz", writers, strict=True)}
    kept = dict(Store(path).items())
    for key, value in kept.items():
        assert value == key.encode() * 500
        assert key[:-1] + ("b" if key[-1] == "a" else "a") in kept
    for name, count in told.items():
        assert {f"{name}-{number}-a" for number in range(count)} <= kept.keys()
    Store(path).put("after", b"the kill")
    assert Store(path).get("after") == b"the kill"


def test_a_damaged_value_is_never_returned_and_can_be_made_again(tmp_path):
    path = tmp_path / "kept.sqlite"
    store = Store(path)
    store.put_many({"good": b"g" * 9000, "bad": b"b" * 9000})
    store.close()
    content = path.read_bytes()
    place = content.index(b"b" * 2000) + 1000
    path.write_bytes(content[:place] + b"?" + content[place + 1 :])
    with pytest.warns(UserWarning, match="damaged value of bad"):
        assert store.get("bad") is None
    assert store.damaged == {"bad"}
    assert dict(store.items()) == {"good": b"g" * 9000}
    store.put("bad", b"again")
    assert store.get_many(["bad", "good", "absent"]) == {"bad": b"again", "good": b"g" * 9000}
    assert not store.damaged


def test_a_value_under_a_wrong_key_is_damage(tmp_path):
    store = Store(tmp_path / "kept.sqlite")
    store.put("a", b"value")
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE kept SET key = 'b'")
    connection.close()
    with pytest.warns(UserWarning, match="damaged value of b"):
        assert store.get("b") is None


def test_a_damaged_file_is_refused_and_what_can_be_read_is_saved(tmp_path, capsys):
    path = tmp_path / "kept.sqlite"
    store = Store(path)
    for number in range(40):
        store.put(str(number), bytes([number]) * 3000)
    store.close()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096 * 3] = b"\xff" * 4096 * 3
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"visdyn store .* NEW"):
        dict(store.items())
    store.close()
    count = salvage(path, tmp_path / "new.sqlite")
    saved = dict(Store(tmp_path / "new.sqlite").items())
    assert 20 < count == len(saved) < 40
    assert all(value == bytes([int(key)]) * 3000 for key, value in saved.items())
    (tmp_path / "text").write_text("no database at all, but a text that is long enough")
    with pytest.raises(StoreError, match="is damaged or no store"):
        Store(tmp_path / "text").get("key")


def _put(path: str, name: str, count: int) -> None:
    store = Store(path)
    for number in range(count):
        store.put(f"shared-{number}", f"{name} {number}".encode() * 300)


def test_two_writers_of_the_same_keys_leave_whole_values(tmp_path):
    path, context = tmp_path / "kept.sqlite", multiprocessing.get_context("fork")
    writers = [context.Process(target=_put, args=(str(path), name, 20)) for name in ("left", "right")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    kept = dict(Store(path).items())
    assert len(kept) == 20
    for key, value in kept.items():
        assert value in {f"{name} {key.partition('-')[2]}".encode() * 300 for name in ("left", "right")}


def test_a_full_disk_loses_nothing_and_is_said(tmp_path):
    store = Store(tmp_path / "kept.sqlite")
    store.put("before", b"kept")
    with store._open_connection() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(OSError, match="cannot be read or written: database or disk is full"):
        store.put_many({"small": b"s", "large": b"l" * 100_000})
    assert dict(store.items()) == {"before": b"kept"}
    store.put("small", b"fits")
    store.close()
    assert dict(Store(store.path).items()) == {"before": b"kept", "small": b"fits"}


def test_threads_forks_and_pickles_share_a_store(tmp_path):
    store = Store(tmp_path / "kept.sqlite")
    threads = [threading.Thread(target=store.put, args=(str(number), b"thread")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child = os.fork()
    if child == 0:
        store.put("child", b"fork")
        os._exit(0 if store.get("3") == b"thread" else 1)
    assert os.waitpid(child, 0)[1] == 0
    store.put("parent", b"afterwards")
    again = pickle.loads(pickle.dumps(store))
    assert again.keys() == {*map(str, range(8)), "child", "parent"}


def test_looking_makes_no_file(tmp_path):
    store = Store(tmp_path / "folder/kept.sqlite")
    assert (store.get("a"), store.keys(), list(store.items())) == (None, set(), [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "network"), [("nfs4", True), ("fuse.sshfs", True), ("lustre", True), ("xfs", False)])
def test_on_a_network_file_system_the_journal_needs_no_shared_memory(tmp_path, monkeypatch, kind, network):
    text = f"/dev/vda / ext4 rw 0 0\nserver:/x {tmp_path.resolve()} {kind} rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **_: text)
    assert store_module.is_on_network(tmp_path / "a/b.sqlite") == network
    store = Store(tmp_path / "a/b.sqlite")
    store.put("key", b"value")
    with store._open_connection() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete" if network else "wal",)


def test_lines_of_an_earlier_version_are_taken_over_once(tmp_path):
    path, store = tmp_path / "old.jsonl", Store(tmp_path / "old.sqlite")
    store.put("b", b"newer")
    path.write_text('{"key": "a", "answer": "1"}\n{"key": "b", "answer": "older"}\nnonsense\n{"key": "cut by a ki')
    with pytest.warns(UserWarning, match=r"2 damaged lines .* old\.jsonl\.imported"):
        assert import_lines(store, path, lambda line: (line["key"], to_json(line["answer"]))) == 1
    assert dict(store.items()) == {"b": b"newer", "a": b'"1"'}
    assert not path.exists()
    assert (tmp_path / "old.jsonl.imported").read_text().endswith("cut by a ki")
    assert import_lines(store, path, lambda line: None) == 0


def test_codecs_give_back_what_they_got():
    arrays = {"codes": np.arange(12).reshape(3, 4), "scores": np.float32([0.1, -np.inf])}
    again = from_arrays(to_arrays(**arrays))
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        assert np.array_equal(again[name], array)
    assert json.loads(to_json("half a pair \ud800")) == "half a pair \ud800"


def test_the_command_prints_a_store(tmp_path, capsys):
    Store(tmp_path / "s.sqlite").put_many({"a": to_json({"x": 1}), "b": b"\x00\xff"})
    store_module.main([str(tmp_path / "s.sqlite")])
    assert [json.loads(line)["value"] for line in capsys.readouterr().out.splitlines()] == [{"x": 1}, "2 bytes"]
