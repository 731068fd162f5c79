"""Ray as executor: two nodes, one killed in the middle, give the rows of one process; skipped where Ray is absent."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import slow_clips
from PIL import Image
from test_clip_mining import _moving
from test_clips import write_video
from tiny_tokens import save_adapted
from toy_jobs import BatchVLM, square, take_time

from visdyn.compute import ray as on_ray
from visdyn.compute.executor import VARIABLE, chosen_executor
from visdyn.compute.gpus import count_places, map_gpus
from visdyn.compute.rows import Execution
from visdyn.compute.store import Store
from visdyn.compute.workers import WorkerError
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.systems import forward_systems
from visdyn.evaluation.systems.outputs import FORWARD, Checkpoint
from visdyn.images import load
from visdyn.inference.annotation import Decoding, Labeller, annotate_pairs
from visdyn.mining.mined_files import ImagePair
from visdyn.models.understanding.spread import SpreadVLM
from visdyn.params import load_params
from visdyn.params.prompts import SENTENCES
from visdyn.params.sampling import Sampling
from visdyn.pipeline import arithmetic
from visdyn.quarantine import Quarantine
from visdyn.stages import verification
from visdyn.trajectory import Trajectory

CLIPS = 32
CORES = 2  # of each node, so that four processes compute
ACTIONS = ["open the cup", "close the red cup", "take lamp"]


def test_without_ray_one_sentence_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    write_video(tmp_path / "root/d/c/v.avi", _moving(0))
    with pytest.raises(RuntimeError, match=r"pip install 'ray\[data\]'"):
        slow_clips.rows(tmp_path / "root", tmp_path, 1, executor="ray")


def test_the_executor_is_one_that_there_is(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert chosen_executor() == "local"
    monkeypatch.setenv(VARIABLE, "dask")
    with pytest.raises(ValueError, match="VISDYN_EXECUTOR: unknown executor 'dask'; one of local, ray"):
        map_gpus(square, [1, 2], 0)


def test_workers_choose_their_kernels_as_this_process_does_and_spread_nothing_again(monkeypatch):
    named = (*arithmetic.THREADS, *arithmetic.CHOOSE_KERNELS, *arithmetic.RECORDED, *arithmetic.PORTABLE)
    for name in named:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv(VARIABLE, "ray")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    shared = on_ray._shared_environment()
    assert set(named) <= set(shared)
    assert shared[VARIABLE] == "local"
    assert not {"CUDA_VISIBLE_DEVICES", "HOME", "PATH"} & set(shared)  # these are a node's own


@pytest.fixture(scope="module")
def cluster():
    """Ray's own test cluster on the loopback address: a head with two cores; `_losing_a_node` adds another node."""
    pytest.importorskip("ray", reason="Ray is not installed (optional extra `scale`)")
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers find what is installed; the tests' own modules they find so.
        places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
        patch.setattr(ray._private.services, "get_node", _patient(ray._private.services.get_node))
        head = {"num_cpus": CORES, "node_ip_address": "127.0.0.1", "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        shared = {"env_vars": on_ray._shared_environment()}
    # Ray takes a loopback address for the machine's own, on which this cluster does not listen.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray._private.services, "resolve_ip_for_localhost", lambda host: host)
        options = {"logging_level": "ERROR", "log_to_driver": False, "runtime_env": shared}
        ray.init(address=cluster.address, _node_ip_address="127.0.0.1", **options)
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


@contextmanager
def _losing_a_node(cluster, notes: Path, count: int | None = None):
    """Add a node, and kill it once `notes` has `count` lines, or (without) names it: it is at a call then."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray._private.services, "get_node", _patient(ray._private.services.get_node))
        node = cluster.add_node(num_cpus=CORES, node_ip_address="127.0.0.1")
    cluster.wait_for_nodes(120)

    def kill() -> None:
        while not (text := notes.read_text() if notes.is_file() else "") or (
            len(text.split()) < count if count else node.node_id not in text
        ):
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    yield
    killer.join()
    cluster.wait_for_nodes(120)
    assert cluster.list_all_nodes() == [cluster.head_node]


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
    with _losing_a_node(cluster, tmp_path / "ray/notes", CLIPS // 4):
        found = slow_clips.rows(root, tmp_path / "ray", 0, pause=0.2, executor="ray")
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


@pytest.fixture
def items(scenes):
    return [Trajectory(scenes[row], ACTIONS[row], scenes[row + 4], "ag", str(row)) for row in range(3)]


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory):
    """Folders of a base, of an FDM and of an IDM (adapters)."""
    return save_adapted(tmp_path_factory.mktemp("ray_models"), "chameleon", tiny_folder)


def _slowly(monkeypatch, module, notes: Path) -> None:
    """Let a module's `map_gpus` note each call, which takes a second at least."""
    monkeypatch.setattr(
        module, "map_gpus", lambda function, jobs, shared: map_gpus(take_time, jobs, (function, shared, notes, 1.0))
    )


def test_verification_loses_nothing_with_a_node(cluster, trained, items, tmp_path, monkeypatch):
    settings = replace(load_params().verification, candidates=(1, 2), batch_size=1)

    def jobs(folder: Path) -> list:
        return [
            verification._Job(
                f"arm{arm}", 0, trained / "fdm", draw, trained / "idm", 10 * arm + draw, folder / f"{arm}{draw}",
                folder / "kept", settings, "cpu", 9.0, {"zero_shot": str(trained / "base")},
            )
            for arm in range(4) for draw in range(2)
        ]  # fmt: skip

    for name in ("one", "ray"):
        for job in jobs(tmp_path / name):
            job.scratch.mkdir(parents=True)
    wanted = [verification._candidate_table(items, job) for job in jobs(tmp_path / "one")]
    notes = tmp_path / "notes"
    monkeypatch.setenv(VARIABLE, "ray")
    _slowly(monkeypatch, verification, notes)
    with _losing_a_node(cluster, notes):
        found = verification.map_gpus(verification._candidate_table, jobs(tmp_path / "ray"), items)
    for one, ours in zip(wanted, found, strict=True):
        pd.testing.assert_frame_equal(ours, one, check_exact=True)
    _check_spread(notes, 8)
    kept = [_images(tmp_path / name, "kept") for name in ("one", "ray")]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 8 * 2 * len(items)


def test_evaluation_loses_nothing_with_a_node(cluster, trained, items, tmp_path, monkeypatch):
    checkpoints = [
        Checkpoint(f"model{number}", 0, str(trained / name), name, number)
        for number, name in enumerate(("base", "fdm") * 4)
    ]
    evaluation = ForwardEvaluation(items, [None] * 3, None, None, None)
    tables, images = [], []
    for executor in ("local", "ray"):
        monkeypatch.setenv(VARIABLE, executor)
        made = forward_systems.sample_models(
            items, checkpoints, tmp_path / executor, "cpu", Sampling(), SENTENCES
        )  # in processes of this machine, or of Ray
        assert not any(one.note for one in made)
        images.append([np.stack([np.asarray(load(image)) for image in one.images[FORWARD]]) for one in made])
        if executor == "local":
            tables.append(forward_systems.score_forward(evaluation, made))
            continue
        _slowly(monkeypatch, forward_systems, tmp_path / "notes")
        with _losing_a_node(cluster, tmp_path / "notes"):
            tables.append(forward_systems.score_forward(evaluation, made))
    assert np.array_equal(*images)
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert tables[0].groupby("system").size().nunique() == 1
    _check_spread(tmp_path / "notes", 8)


def _check_spread(notes: Path, calls: int) -> None:
    """More calls were begun than there were, by more than one process and never this one."""
    begun = [line.split("@") for line in notes.read_text().split()]
    assert len(begun) > calls, "no call was made again: the node that was killed was idle"
    assert len({node for _, node in begun}) == 2
    assert len({process for process, _ in begun}) > CORES
    assert str(os.getpid()) not in {process for process, _ in begun}


def test_a_call_that_fails_says_why(cluster, monkeypatch):
    monkeypatch.setenv(VARIABLE, "ray")
    assert [value for value, _ in map_gpus(square, [3, 1, 2], 10)] == [19, 11, 14]
    with pytest.raises(WorkerError, match="item -1 is negative"):
        map_gpus(square, [1, -1], 0)
    assert map_gpus(square, [], 0) == []


def test_a_model_that_answers_is_asked_the_batches_of_one_process(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "ray")
    assert count_places("cpu") == CORES
    picture = (np.zeros((2, 2, 3), np.uint8),)
    questions = [(picture, text) for text in ("a", "b", "c", "die", "e")]
    model = SpreadVLM(BatchVLM(str(tmp_path)), CORES)
    for _ in range(2):  # one actor is killed the first time; released ones are started again
        assert model.answer_many(questions) == ["a in a b", "b in a b", "c in c die", "die in c die", "e in e"]
        model.release()


def _images(folder: Path, inside: str = "images") -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / inside).rglob("*.png"))}
