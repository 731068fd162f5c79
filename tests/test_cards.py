"""Cards of models and data: generated from results, with the fields that Croissant and the hub ask for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from visdyn.commands.write_cards import CROISSANT, describe_data, describe_model
from visdyn.params import load_params

REQUIRED = {"@context", "@type", "conformsTo", "name", "description", "license", "url", "creator", "version",
            "distribution", "recordSet"}  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return load_params(".")


@pytest.fixture
def profile(tmp_path):
    for path, text in {
        "data/mined/keyframe_pairs.jsonl": '{"dataset": "ucf", "video": "a", "frame_a": 0, "quality": 0.5}\n{}\n',
        "data/mined/doundo_train.json": '[{"narration": "open drawer", "prompts": ["a", "b"]}]',
        "data/mined/split.csv": "verb,count\nopen,3\n",
        "data/mined/frames/a.png": "",
        "models/fdm/supervised-s0/config.json": '{"model_type": "chameleon"}',
        "models/fdm/supervised-s0/model.safetensors": "x" * 1000,
        "models/fdm/synthetic-s1/config.json": '{"model_type": "chameleon"}',
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    results = tmp_path / "reports/results"
    for folder in ("fdm", "evaluation"):
        (results / folder).mkdir(parents=True)
    pd.DataFrame({"arm": ["supervised", "synthetic"], "chain": [0, 1], "num_supervised": [600, 0], "steps": [900, 901]}
                 ).to_csv(results / "fdm/arms.csv", index=False)  # fmt: skip
    pd.DataFrame({"arm": "supervised", "chain": 0, "step": [10, 20], "loss": [2.0, 1.25]}
                 ).to_csv(results / "fdm/training.csv", index=False)  # fmt: skip
    pd.DataFrame({"system": ["supervised", "copy"], "metric": "score", "mean": [3.67, 0.0], "low": [3.0, 0.0],
                  "high": [4.3, 0.0], "n": 200, "num_chains": 3}
                 ).to_csv(results / "evaluation/leaderboard.csv", index=False)  # fmt: skip
    return tmp_path


def test_croissant_has_its_required_fields_and_the_hashes_of_the_files(profile, params):
    found = describe_data("mined", profile, params)
    assert set(found) >= REQUIRED
    assert found["@type"] == "sc:Dataset"
    assert found["conformsTo"] == CROISSANT == "http://mlcommons.org/croissant/1.0"
    assert found["@context"]["cr"] == "http://mlcommons.org/croissant/"
    objects = {one["@id"]: one for one in found["distribution"]}
    assert len(objects) == len(found["distribution"]) == 4
    for name, one in objects.items():
        assert one["@type"] == ("cr:FileSet" if name.startswith("pictures") else "cr:FileObject")
        assert {"name", "encodingFormat"} <= set(one)
        if one["@type"] == "cr:FileObject":
            content = (profile / "data/mined" / one["contentUrl"]).read_bytes()
            assert one["sha256"] == hashlib.sha256(content).hexdigest()
        else:
            assert one["includes"] == "**/*.png"
    assert json.loads(json.dumps(found)) == found


def test_record_sets_name_fields_with_types_and_where_each_is_read(profile, params):
    sets = {one["name"]: one["field"] for one in describe_data("mined", profile, params)["recordSet"]}
    assert set(sets) == {"keyframe_pairs.jsonl", "doundo_train.json", "split.csv"}
    pairs = {field["name"]: field for field in sets["keyframe_pairs.jsonl"]}
    assert {name: field["dataType"] for name, field in pairs.items()} == {
        "dataset": "sc:Text", "video": "sc:Text", "frame_a": "sc:Integer", "quality": "sc:Float"
    }  # fmt: skip
    for name, fields in sets.items():
        for field in fields:
            assert field["@type"] == "cr:Field"
            assert field["@id"].startswith(f"records/{name}/")
            assert field["source"]["fileObject"] == {"@id": name}
            assert set(field["source"]["extract"]) == {"column" if name.endswith(".csv") else "jsonPath"}
    assert next(field for field in sets["doundo_train.json"] if field["name"] == "prompts")["repeated"] is True


def test_data_of_others_carry_their_licences(profile, params):
    assert describe_data("mined", profile, params)["license"] == ["Apache-2.0"]
    real = replace(params, world=replace(params.world, kind="external"),
                   data=replace(params.data, epic="/data/epic", clips=""))  # fmt: skip
    licences = describe_data("mined", profile, real)["license"]
    assert any("EPIC" in licence and "CC BY-NC 4.0" in licence for licence in licences)
    assert not any("UCF" in licence for licence in licences)


def test_a_model_s_card_has_its_own_training_and_scores(profile, params):
    card = describe_model(profile / "models/fdm/supervised-s0", profile, params)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert "architecture `chameleon`" in body
    assert "- num_supervised: 600" in body
    assert "901" not in body  # of the other arm
    assert "loss that was written: 1.25 at step 20" in body
    assert "| score | 3.67, 95 % 3 to 4.3 | 200 | 3 |" in body
    other = describe_model(profile / "models/fdm/synthetic-s1", profile, params)
    assert "No score of it stands in a leaderboard." in other
