"""Real data in the place of the kitchen: roots, inventory, named checkpoints."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import yaml
from toy import make_repository

from visdyn.datasets.inventory import ANNOTATIONS, take_inventory, write_inventory
from visdyn.paths import UnsetVariableError
from visdyn.pipeline import open_stage
from visdyn.pipeline.errors import StageError
from visdyn.stages.base_models import base_jobs, link_references, training_curves, write_reference
from visdyn.stages.world import make_world


@pytest.fixture
def external(tmp_path, monkeypatch):
    """A toy repository whose parameters name real data."""
    root = make_repository(tmp_path / "toy")
    monkeypatch.setenv("VISDYN_ROOT", str(root))
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["world"]["kind"] = "external"
    values["data"] |= {"aurora": "$TOY_DATA/aurora", "epic": None, "clips": "clips", "doundo": None}
    values["base_models"]["references"] = dict.fromkeys(values["base_models"]["references"], "org/model")
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    return root


def aurora(root):
    (root / "aurora/data/ag/images").mkdir(parents=True)
    (root / "aurora/test.json").write_text("[]")
    (root / "aurora/data/ag/images/a.png").write_bytes(b"png")
    return root


def test_roots_may_be_anywhere_and_name_what_is_missing(external, tmp_path, monkeypatch):
    stage = open_stage("world")
    assert stage.data("clips") == external / "clips"
    with pytest.raises(UnsetVariableError, match=r"data\.aurora is '\$TOY_DATA/aurora', but the environment variable"):
        stage.data("aurora")
    with pytest.raises(UnsetVariableError, match=r"spatial\.embspatial is '\$TOY_DATA/x'"):
        stage.located("$TOY_DATA/x", "spatial.embspatial")
    monkeypatch.setenv("TOY_DATA", str(tmp_path / "elsewhere"))
    assert stage.data("aurora") == tmp_path / "elsewhere/aurora"
    with pytest.raises(StageError, match=r"needs data\.epic; name its folder"):
        stage.data("epic")


def test_the_inventory_follows_the_data_and_not_their_place(external, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_DATA", str(aurora(tmp_path / "one")))
    stage = open_stage("world")
    assert stage.kitchen is None
    table = make_world(stage).set_index("part")
    assert list(table.columns) == ["count", "found", "sha256"]
    assert table.loc["aurora: test.json", "found"]
    assert not table.loc["aurora: data/kubric/train.json", "found"]
    assert table.loc["aurora: data/**", "count"] == 1
    assert table.loc["epic: frames/**", "count"] == 0
    before = (external / "data/kitchen/inventory.json").read_bytes()
    monkeypatch.setenv("TOY_DATA", str(aurora(tmp_path / "two")))
    make_world(stage)
    assert (external / "data/kitchen/inventory.json").read_bytes() == before
    (tmp_path / "two/aurora/test.json").write_text("[1]")
    make_world(stage)
    assert (external / "data/kitchen/inventory.json").read_bytes() != before


def test_every_data_set_of_the_parameters_is_in_the_inventory(external):
    assert set(ANNOTATIONS) <= set(vars(open_stage("world").settings.data))
    listed = take_inventory(dict.fromkeys(ANNOTATIONS))
    assert {part.dataset for part in listed} == set(ANNOTATIONS)
    assert not any(part.found for part in listed)


def test_a_rendered_kitchen_is_not_replaced_by_an_inventory(tmp_path):
    (tmp_path / "aurora").mkdir()
    with pytest.raises(FileExistsError, match="holds aurora, not an inventory"):
        write_inventory(tmp_path, dict.fromkeys(ANNOTATIONS))


def test_named_checkpoints_are_linked_and_nothing_is_trained(external):
    stage = open_stage("base_models")
    assert set(link_references(stage)) == {"base", "autoencoder", "generator", "clip", "dino"}
    assert stage.reference("models/base") == "org/model"
    assert base_jobs(stage) == []
    assert training_curves(stage).empty


def test_a_checkpoint_inside_the_profile_is_found_from_any_working_directory(external):
    values = yaml.safe_load((external / "params.yaml").read_text())
    values["base_models"]["references"]["base"] = "weights/mine"
    (external / "params.yaml").write_text(yaml.safe_dump(values))
    (external / "weights/mine").mkdir(parents=True)
    (external / "weights/mine/config.json").write_text("{}")
    stage = open_stage("base_models")
    link_references(stage)
    assert stage.reference("models/base") == str(external / "weights/mine")
    assert "config_sha256" in (external / "models/base/reference.json").read_text()


def test_a_model_that_is_neither_named_nor_trainable_is_refused(external):
    values = yaml.safe_load((external / "params.yaml").read_text())
    values["base_models"]["references"]["dino"] = None
    (external / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match="names no dino, and without the kitchen"):
        base_jobs(open_stage("base_models"))


def test_a_local_checkpoint_is_known_by_its_shape(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text('{"hidden_size": 8}')
    first = write_reference(tmp_path / "models/base", str(checkpoint))
    (checkpoint / "config.json").write_text('{"hidden_size": 16}')
    second = write_reference(tmp_path / "models/base", str(checkpoint))
    assert first["name_or_path"] == second["name_or_path"] == str(checkpoint)
    assert first["config_sha256"] != second["config_sha256"]
    assert json.loads((tmp_path / "models/base/reference.json").read_text()) == second
    with pytest.raises(FileNotFoundError, match="does not exist; fetch it first"):
        write_reference(tmp_path / "models/x", str(tmp_path / "none"))


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda"), (False, "cpu")])
def test_the_device_is_the_accelerator_where_there_is_one(external, monkeypatch, available, expected):
    import torch

    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: available))
    assert open_stage("world").device == expected


def test_a_named_folder_of_the_profile_is_found_there(external):
    write_reference(external / "models/base", "weights/liquid")
    assert open_stage("idm").reference("models/base") == "weights/liquid"
    (external / "weights/liquid").mkdir(parents=True)
    assert open_stage("idm").reference("models/base") == str(external / "weights/liquid")
