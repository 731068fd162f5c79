"""What the IDM and FDM learn from: limits, the shared cache, what is set aside, steps from epochs."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from visdyn.models import load_model
from visdyn.models.vqgan.cached_pairs import CachedTriplets, write_triplets
from visdyn.models.vqgan.code_cache import CodeCache, ModelEncoder
from visdyn.params import load_params
from visdyn.quarantine import Quarantine
from visdyn.stages.dynamics_settings import open_data
from visdyn.stages.fdm import read_synthetic
from visdyn.training.arms import ChainInputs, arms_table
from visdyn.training.dynamics_data import sample
from visdyn.training.engine.fit import count_steps
from visdyn.training.losses import recognition_weights
from visdyn.training.triplets import dynamics_dataset, load_triplets, save_triplets
from visdyn.trajectory import Trajectory

ACTIONS = ["open the red cup", "close the cup", "take lamp", "put the blue drawer on"]

DISTANCES = partial(recognition_weights, normalization="none")


@pytest.fixture
def trajectories(scenes, tmp_path):
    """Four triplets on disk, of other sizes than the model's."""
    (root := tmp_path / "aurora").mkdir()
    for row, scene in enumerate(scenes[:8]):
        Image.fromarray(scene).resize((20 + row, 18)).save(root / f"{row}.png")
    return [Trajectory(root / f"{row}.png", ACTIONS[row], root / f"{row + 4}.png", "ag", str(row)) for row in range(4)]


def _cache(model, folder) -> CodeCache:
    return CodeCache(folder, ModelEncoder(model, DISTANCES), "stat", batch_size=2, threads=2)


def test_cached_triplets_give_the_sequences_of_the_file(tiny, trajectories, tmp_path):
    """The same tokens as from a triplet file; the weights within the cache's 0.05 %."""
    ends = ([item.source for item in trajectories], [item.target for item in trajectories])
    save_triplets(tmp_path / "file.npz", tiny, *ends, ACTIONS)
    kept = write_triplets(tmp_path / "folder", _cache(tiny, tmp_path / "codes"), trajectories, Quarantine())
    assert kept == trajectories
    for task, weighting in (("idm", "uniform"), ("fdm", "uniform"), ("fdm", "recognition"), ("fdm", "permuted")):
        paths = ([tmp_path / "file.npz"], [tmp_path / "folder"])
        left, right = (dynamics_dataset(path, tiny.builder, task, weighting, 0.25) for path in paths)
        assert len(left) == len(right) == 4
        for row in range(4):
            assert np.array_equal(left[row].prompt, right[row].prompt)
            assert np.array_equal(left[row].completion, right[row].completion)
            np.testing.assert_allclose(left[row].weights, right[row].weights, rtol=1e-3)
    mixed = dynamics_dataset([tmp_path / "file.npz", tmp_path / "folder"], tiny.builder, "idm")
    assert len(mixed) == 8
    assert np.array_equal(mixed[5].prompt, left[1].prompt) is False
    assert np.array_equal(mixed[5].prompt, mixed[1].prompt)


def test_images_are_read_once_whatever_asks_for_them(tiny, trajectories, tmp_path, monkeypatch):
    write_triplets(tmp_path / "idm", _cache(tiny, tmp_path / "codes"), trajectories, Quarantine())
    monkeypatch.setattr(ModelEncoder, "load", lambda self, ref: pytest.fail(f"{ref} was read again"))
    write_triplets(tmp_path / "fdm", _cache(tiny, tmp_path / "codes"), trajectories[::-1], Quarantine())
    assert CachedTriplets(tmp_path / "fdm")[0][3] == ACTIONS[3]
    expected = CachedTriplets(tmp_path / "idm")[3]
    for left, right in zip(CachedTriplets(tmp_path / "fdm")[0], expected, strict=True):
        assert np.array_equal(left, right)


def test_a_bad_image_is_set_aside_and_the_rest_keeps_its_actions(tiny, trajectories, tmp_path):
    trajectories[1].target.write_bytes(trajectories[1].target.read_bytes()[:60])
    broken = replace(trajectories[2], source=tmp_path / "nowhere.png")
    quarantine = Quarantine()
    items = [*trajectories[:2], broken, trajectories[3]]
    kept = write_triplets(tmp_path / "folder", _cache(tiny, tmp_path / "codes"), items, quarantine)
    assert [item.action for item in kept] == [ACTIONS[0], ACTIONS[3]]
    triplets = CachedTriplets(tmp_path / "folder")
    assert [triplets[row][3] for row in range(len(triplets))] == [ACTIONS[0], ACTIONS[3]]
    assert np.array_equal(triplets[1][1], tiny.encode([trajectories[3].target])[0])
    reasons = sorted(entry.reason for entry in quarantine)
    assert "nowhere.png cannot be read" in reasons[1]
    assert "cannot be decoded" in reasons[0]
    with pytest.raises(ValueError, match=r"not one of 1 triplets could be read; 1 quarantined, first: .*nowhere\.png"):
        write_triplets(tmp_path / "none", _cache(tiny, tmp_path / "codes"), [broken], Quarantine())


def test_a_record_that_moved_or_rotted_is_refused(tiny, trajectories, tmp_path):
    write_triplets(tmp_path / "folder", _cache(tiny, tmp_path / "codes"), trajectories, Quarantine())
    triplets = CachedTriplets(tmp_path / "folder")
    for path in triplets.shards.glob("*.bin"):
        content = bytearray(path.read_bytes())
        content[40] ^= 1
        path.write_bytes(content)
    with pytest.raises(OSError, match=r"\.bin was changed or damaged since its places were noted; run the stage again"):
        [triplets[row] for row in range(4)]


def test_a_sample_is_seeded_by_its_subset_and_keeps_the_order():
    items = list(range(100))
    chosen = sample(items, 10, 0, "kubric")
    assert chosen == sorted(chosen) == sample(items, 10, 0, "kubric")
    assert len(set(chosen)) == 10
    assert chosen != sample(items, 10, 0, "ag") != sample(items, 10, 1, "ag")
    assert sample(items, None, 0, "ag") == sample(items, 200, 0, "ag") == items


@pytest.fixture
def stage(tiny_folder, trajectories, tmp_path):
    """What of a stage the data need: AURORA in its public layout, with three triplets in each subset."""
    settings = load_params(".")
    for subset in ("magicbrush", "ag", "something", "kubric"):
        rows = [
            {"input": item.source.name, "output": item.target.name, "instruction": item.action} for item in trajectories
        ]
        (tmp_path / "aurora/data" / subset).mkdir(parents=True)
        (tmp_path / "aurora/data" / subset / "train.json").write_text(json.dumps(rows))
    results = tmp_path / "results"
    results.mkdir()
    limits = replace(settings.idm.limits, kubric=2, magicbrush=0)
    return SimpleNamespace(
        data=lambda name: tmp_path / name,
        device="cpu",
        located=lambda path, name: tmp_path / path,
        params=replace(settings.idm, base=str(tiny_folder), limits=limits),
        path=lambda rel: tmp_path / rel,
        reference=lambda name, chain=0: name,
        chains=(0, 1),
        results=lambda: results,
        root=tmp_path,
        quarantine=lambda: Quarantine(folders=(tmp_path,)),
        scratch=lambda key: tmp_path / "scratch" / key,
        seed=0,
        settings=replace(settings, runtime=replace(settings.runtime, codes="codes")),
    )


def test_counts_say_what_was_there_and_what_was_used(stage, trajectories):
    trajectories[0].target.write_bytes(b"no image")
    data = open_data(stage)
    part = data.encode(data.read_aurora(stage.data("aurora")), "aurora")
    table = data.table({("idm", 1): [part]})
    assert table.values.tolist() == [
        ["idm", 1, "ag", 4, 3],
        ["idm", 1, "kubric", 4, part.used["kubric"]],
        ["idm", 1, "something", 4, 3],
    ]
    assert part.used["kubric"] <= 2
    assert len(part) == len(CachedTriplets(part.path)) == sum(table["used"])
    reasons = [entry.reason for entry in data.quarantine]
    assert sum("cannot be decoded" in reason for reason in reasons) == 1  # one pair, in all subsets


def test_without_a_cache_the_file_holds_the_same_codes(stage, tiny):
    data = open_data(stage)
    cached = CachedTriplets(data.encode(data.read_aurora(stage.data("aurora")), "aurora").path)
    object.__setattr__(stage.settings.runtime, "codes", None)
    (stage.root / "scratch/triplets").mkdir(parents=True, exist_ok=True)
    part = open_data(stage).encode(data.read_aurora(stage.data("aurora")), "again")
    arrays = load_triplets(part.path)
    assert np.array_equal(arrays["targets"], np.stack([cached[row][1] for row in range(len(cached))]))
    assert len(part) == len(cached)


def test_steps_follow_from_epochs_and_the_arm():
    training = replace(load_params(".").fdm.training, steps=None, epochs=3, batch_size=8)
    assert [count_steps(training, examples) for examples in (8, 9, 16)] == [3, 6, 6]
    assert count_steps(replace(training, epochs=None, steps=5), 9) == 5
    for wrong in ({"epochs": None}, {"steps": 5}):
        with pytest.raises(ValueError, match="write a number for one, null for the other"):
            replace(training, **wrong)
    arms = {"arms": ("supervised", "synthetic"), "first_chain_arms": ("synthetic_weighted_true",)}
    params = replace(load_params(".").fdm, training=training, **arms)
    sizes = {0: {"supervised": 16, "idm": 9, "true": 1}, 1: {"supervised": 16, "idm": 1}}
    inputs = {chain: ChainInputs("base", 0, {}, own) for chain, own in sizes.items()}
    table = arms_table(params, inputs).set_index(["arm", "chain"])["steps"]
    assert (table["supervised", 0], table["synthetic", 0], table["synthetic_weighted_true", 0]) == (6, 12, 9)
    assert (table["synthetic", 1], ("synthetic_weighted_true", 1) in table.index) == (9, False)


def test_an_arm_without_its_labels_is_refused(stage):
    (stage.root / "data/annotated/s1").mkdir(parents=True)
    row = {
        "source": "a",
        "target": "b",
        "dataset": "ucf",
        "video": "v",
        "pair": "1-2",
        "action": "open",
        "true_action": "",
    }
    (stage.root / "data/annotated/s1/triplets.jsonl").write_text(json.dumps(row) + "\n")
    (item,) = read_synthetic(stage, 1, {"idm": "synthetic"})["idm"]
    assert read_synthetic(stage, 1, {"shuffled": "labels_shuffled"})["shuffled"] == [item]  # of one there is no other
    assert (item.source, item.action) == (str(stage.root / "data/annotated/s1/a"), "open")
    assert read_synthetic(stage, 1, {}) == {}
    with pytest.raises(ValueError, match="arm 'upper' needs known actions, which real data lack"):
        read_synthetic(stage, 1, {"idm": "synthetic", "true": "upper"})


def test_liquid_pads_what_chameleon_crops(trajectories, tmp_path):
    from tiny_tokens import tiny_liquid

    tiny_liquid(sharp=False).save(tmp_path / "liquid")
    model = load_model(tmp_path / "liquid")
    write_triplets(tmp_path / "folder", _cache(model, tmp_path / "codes"), trajectories, Quarantine())
    assert np.array_equal(CachedTriplets(tmp_path / "folder")[2][0], model.encode([trajectories[2].source])[0])
    assert "pad-16" in next((tmp_path / "codes").glob("*/settings.json")).read_text()
