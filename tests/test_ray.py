"""Ray as executor: two nodes, one killed in the middle, give the rows of one process; skipped where Ray is absent."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import slow_clips
from test_clip_mining import _moving
from test_clips import write_video

from visdyn.ray_executor import BLOCK

CLIPS = 5 * BLOCK


def test_without_ray_one_sentence_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    write_video(tmp_path / "root/d/c/v.avi", _moving(0))
    with pytest.raises(RuntimeError, match=r"pip install 'ray\[data\]'"):
        slow_clips.rows(tmp_path / "root", tmp_path, 1, executor="ray")


@pytest.fixture(scope="module")
def cluster():
    """Ray's own test cluster on the loopback address: a head with one core, and a node with another."""
    pytest.importorskip("ray", reason="Ray is not installed (optional extra `scale`)")
    import ray
    from ray.cluster_utils import Cluster

    cluster = _started(Cluster)
    cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def _started(kind):
    """Ray gives a node 30 seconds to start, which a busy machine may exceed."""
    head = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    for attempt in range(3):
        try:
            return kind(initialize_head=True, head_node_args=head)
        except Exception:
            if attempt == 2:
                raise


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("ray") / "root"
    for number in range(CLIPS):
        write_video(root / f"d/c{number % 3}/v{number}.avi", _moving(number))
    (root / "d/c0/broken.avi").write_text("no video")
    return root


def test_a_node_killed_in_the_middle_loses_no_row(cluster, root, tmp_path):
    for name in ("plain", "ray"):
        (tmp_path / name).mkdir()
    plain = slow_clips.rows(root, tmp_path / "plain", processes=1)
    (node,) = [node for node in cluster.list_all_nodes() if node != cluster.head_node]
    killer = threading.Thread(target=_kill_after, args=(cluster, node, tmp_path / "ray/notes", CLIPS // 4))
    killer.start()
    found = slow_clips.rows(root, tmp_path / "ray", 0, pause=0.2, executor="ray")
    killer.join()
    assert cluster.list_all_nodes() == [cluster.head_node]
    assert found == plain
    assert len(found) == CLIPS + 1
    lines = [line for path in (tmp_path / "ray/shards").rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == CLIPS + 1
    images = [_images(tmp_path / name) for name in ("plain", "ray")]
    assert images[0] == images[1]


def _kill_after(cluster, node, notes: Path, count: int) -> None:
    while not notes.is_file() or len(notes.read_text().split()) < count:
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)


def _images(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "images").rglob("*.png"))}
