"""The pack: small, close to the models that it was made of, refused when damaged, and enough for the explorer."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file
from toy_profile import FDMS, make_profile

from visdyn.explorer import asks, open_profile, pack
from visdyn.pipeline import open_stage


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = make_profile(tmp_path_factory.mktemp("pack") / "whole")
    shutil.rmtree(root / "models/doundo")  # a toy editor has no weights
    folder = root / "data/generated/evaluation"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    np.savez_compressed(folder / "a.npz", source=images, captions=np.array(["x", "y", "z", "u"]))
    np.savez_compressed(folder / "b.npz", target=images[::-1], weights=np.ones((4, 3, 3), np.float32))
    return root


@pytest.fixture
def packed(whole, tmp_path):
    """A clone without models: parameters, results and the pack."""
    root = tmp_path / "clone"
    root.mkdir()
    shutil.copy(whole / "params.yaml", root)
    shutil.copytree(whole / "reports", root / "reports")
    pack.write_pack(open_stage("explore", str(whole)), root / "data/pack")
    return root


def test_a_clone_with_a_pack_is_explored_and_says_so(whole, packed):
    full, small = open_profile(str(whole)), open_profile(str(packed))
    assert full.note == ""
    assert "packed checkpoints of data/pack (chain 0" in small.note
    assert list(small.arms) == list(full.arms)
    for one, other in zip(small.items, full.items, strict=True):
        assert (one.action, one.subset, one.id) == (other.action, other.subset, other.id)
        assert one.source.read_bytes() == other.source.read_bytes()
        assert one.target.read_bytes() == other.target.read_bytes()
    assert small.reachable(small.items[0]).keys() == full.reachable(full.items[0]).keys()
    item = small.items[0]
    assert asks.draw_arms(small, ["supervised"], item, item.action)["supervised"].judgement is not None


def test_a_model_of_ones_own_stands_beside_the_packed_ones(whole, packed):
    own = open_profile(str(packed), models={"mine": str(whole / "models/fdm/supervised-s0")})
    assert list(own.arms) == ["mine", *open_profile(str(packed)).arms]
    item = own.items[0]
    assert asks.draw_arms(own, ["mine"], item, item.action)["mine"].judgement is not None


def test_weights_come_back_within_the_rounding_of_their_format(whole, packed):
    small = open_profile(str(packed))
    for name in ("base/s0", "idm/s0", *(f"fdm/{arm}-s0" for arm in FDMS)):
        before = load_file(whole / "models" / name / "model.safetensors")
        after = load_file(small.place.path("models") / name / "model.safetensors")
        base = load_file(whole / "models/base/s0/model.safetensors")
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            change = (tensor - base[key]).abs().max() if name != "base/s0" else 0
            allowed = tensor.abs().max() / 1024 + change / 100
            assert (tensor - after[key]).abs().max() <= allowed, (name, key)
        assert (whole / "models" / name / "config.json").read_text() == (
            small.place.path("models") / name / "config.json").read_text()  # fmt: skip


def test_a_model_s_loss_is_measured_and_a_pack_without_loss_has_none(whole, packed):
    full, small = open_profile(str(whole)), open_profile(str(packed))
    loss = pack.measure_loss(full, small)
    assert set(loss) == {"zero_shot", *FDMS, "idm"}
    assert 0 < loss["supervised"]["log_likelihood"] < 0.1
    assert all(value == 0 for values in pack.measure_loss(full, full).values() for value in values.values())


def test_unpacking_is_done_once_and_anew_for_another_pack(packed):
    first, _ = pack.unpack(packed / "data/pack", packed / ".visdyn/pack")
    marker = first / "models/base/s0/config.json"
    stamp = marker.stat().st_mtime_ns
    again, _ = pack.unpack(packed / "data/pack", packed / ".visdyn/pack")
    assert again == first
    assert marker.stat().st_mtime_ns == stamp
    index = packed / "data/pack/pack.json"
    index.write_text(index.read_text() + "\n")
    other, _ = pack.unpack(packed / "data/pack", packed / ".visdyn/pack")
    assert other != first


def test_a_damaged_pack_is_refused_by_the_file_s_name(packed):
    weights = packed / "data/pack/weights.xz"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"weights\.xz is not the file that pack\.json names"):
        open_profile(str(packed))


def test_the_figures_images_come_back_and_nothing_is_overwritten(whole, packed):
    written = pack.unpack_galleries(packed / "data/pack", packed)
    assert [path.name for path in written] == ["a.npz", "b.npz"]
    for path in written:
        with np.load(path) as one, np.load(whole / "data/generated/evaluation" / path.name) as other:
            assert set(one.files) == set(other.files)
            for name in one.files:
                assert one[name].dtype == other[name].dtype
                assert np.array_equal(one[name], other[name])
    assert pack.unpack_galleries(packed / "data/pack", packed) == []


def test_a_pack_that_git_cannot_carry_is_refused(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="leave a model out"):
        pack.write_pack(open_stage("explore", str(whole)), tmp_path / "pack")


def test_the_command_writes_a_pack_with_its_loss_and_gives_images_back(whole, packed, tmp_path, capsys):
    assert pack.main(["--profile", str(whole), "--out", str(tmp_path / "made")]) == 0
    assert "MiB of at most 16" in capsys.readouterr().out
    assert '"loss"' in (tmp_path / "made/pack.json").read_text()
    assert pack.main(["--profile", str(packed), "--unpack"]) == 0
    assert "2 files of images" in capsys.readouterr().out
