"""Ray as executor: two nodes, one killed in the middle, give the rows of one process; skipped where Ray is absent."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import slow_clips
from PIL import Image
from test_clip_mining import _moving
from test_clips import write_video

from visdyn.compute.rows import Execution
from visdyn.compute.store import Store
from visdyn.inference.annotation import Decoding, Labeller, annotate_pairs
from visdyn.mining.mined_files import ImagePair
from visdyn.quarantine import Quarantine

CLIPS = 32


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

    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers find what is installed; the tests' own modules they find so.
        places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
        patch.setattr(ray._private.services, "get_node", _patient(ray._private.services.get_node))
        head = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    # Ray takes a loopback address for the machine's own, on which this cluster does not listen.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray._private.services, "resolve_ip_for_localhost", lambda host: host)
        ray.init(address=cluster.address, _node_ip_address="127.0.0.1", logging_level="ERROR", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def _patient(get_node):
    """Ray gives a node 30 seconds to register, which a busy machine exceeds: ask for three minutes."""

    def get(*arguments):
        for _ in range(18):
            try:
                return get_node(*arguments)
            except RuntimeError:
                time.sleep(1)
        return get_node(*arguments)

    return get


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
    (kept,) = (tmp_path / "ray/shards").glob("*.sqlite")
    assert len(Store(kept).keys()) == CLIPS + 1
    images = [_images(tmp_path / name) for name in ("plain", "ray")]
    assert images[0] == images[1]


def test_labels_on_ray_are_those_of_one_process(cluster, tiny_folder, scenes, tmp_path):
    """Runs on what the kill has left of the cluster."""
    pairs = []
    for index in range(6):
        source, target = tmp_path / f"{index}a.png", tmp_path / f"{index}b.png"
        Image.fromarray(scenes[index]).save(source)
        Image.fromarray(scenes[index + 1]).save(target)
        pairs.append(ImagePair(str(source), str(target), "d", "c", f"v{index}", 0, 9))
    (tmp_path / "3b.png").write_bytes(b"no image")
    labeller = Labeller(str(tiny_folder), decoding=Decoding("sample", max_new_tokens=4))
    bad = Quarantine(), Quarantine()
    alone = annotate_pairs(labeller, pairs, tmp_path / "one", 2, quarantine=bad[0])
    spread = annotate_pairs(labeller, pairs, tmp_path / "ray", 2, Execution("ray"), quarantine=bad[1])
    assert spread == alone
    assert len(alone) == 5
    assert list(bad[0]) == list(bad[1])


def _kill_after(cluster, node, notes: Path, count: int) -> None:
    while not notes.is_file() or len(notes.read_text().split()) < count:
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)


def _images(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "images").rglob("*.png"))}
