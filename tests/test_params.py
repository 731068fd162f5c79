"""params.yaml is read strictly: what does not fit is refused by name."""

from __future__ import annotations

import shutil

import pytest
import yaml

from visdyn.params import Params, ParamsError, Training, from_mapping, load_params
from visdyn.paths import repository_root

ROOT = repository_root()
PROFILES = [".", *sorted(str(path.parent.relative_to(ROOT)) for path in ROOT.glob("profiles/*/params.yaml"))]


@pytest.fixture
def values():
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid_and_leads_to_the_repository(profile):
    params = load_params(profile)
    assert (ROOT / profile / params.root).resolve() == ROOT


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_are_written_so_that_dvc_reads_the_same_values(profile):
    ruamel = pytest.importorskip("ruamel.yaml")  # DVC's reader, YAML 1.2
    text = (ROOT / profile / "params.yaml").read_text()
    assert ruamel.YAML(typ="safe", pure=True).load(text) == yaml.safe_load(text)


def test_every_line_of_the_root_has_a_comment():
    lines = (ROOT / "params.yaml").read_text().splitlines()
    bare = [line for line in lines if line.startswith("  ") and not line.endswith(":") and "#" not in line]
    assert bare == []


def test_lists_become_tuples_and_whole_numbers_floats(values):
    values["fdm"]["seeds"] = [0, 1]
    values["world"]["jitter"] = 1
    params = from_mapping(Params, values, "params.yaml")
    assert params.fdm.seeds == (0, 1)
    assert params.world.jitter == 1.0
    assert isinstance(params.world.jitter, float)


def test_an_unknown_key_names_file_section_key_and_the_nearest(values):
    values["fdm"]["training"]["step"] = values["fdm"]["training"].pop("steps")
    with pytest.raises(ParamsError, match=r"params\.yaml: section 'fdm\.training' .* 'step'; did you mean 'steps'\?"):
        from_mapping(Params, values, "params.yaml")


def test_an_unknown_section_is_refused(values):
    values["probe"] = {}
    with pytest.raises(ParamsError, match="unknown key 'probe'; did you mean 'probing'"):
        from_mapping(Params, values, "params.yaml")


def test_a_missing_key_is_named(values):
    del values["idm"]["base"]
    with pytest.raises(ParamsError, match="section 'idm' lacks the key 'base'"):
        from_mapping(Params, values, "params.yaml")


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("world", "captions", "600", "'world.captions' must be an int, not '600' (str)"),
        ("world", "captions", True, "'world.captions' must be an int, not True (bool)"),
        ("world", "captions", 6.5, "'world.captions' must be an int, not 6.5 (float)"),
        ("fdm", "seeds", 0, "'fdm.seeds' must be a list of int, not 0 (int)"),
        ("fdm", "arms", ["supervised", 1], "'fdm.arms[1]' must be text, not 1 (int)"),
        ("fdm", "floor", "5e-1", "(write 0.002 or 2.0e-3)"),
        ("runtime", "offline", "yes please", "must be true or false"),
        ("fdm", "training", 3, "section 'fdm.training' must be a mapping"),
    ],
)
def test_a_wrong_type_is_named(values, section, key, value, said):
    values[section][key] = value
    with pytest.raises(ParamsError) as caught:
        from_mapping(Params, values, "params.yaml")
    assert said in str(caught.value)


def test_a_broken_file_is_named(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text("seed: [1\n")
    monkeypatch.setenv("VISDYN_ROOT", str(tmp_path))
    with pytest.raises(ParamsError, match=r"params\.yaml is no valid YAML"):
        load_params()


def test_sections_cannot_be_changed():
    training = Training(steps=1, batch_size=1, learning_rate=0.1, weight_decay=0.0, warmup_steps=0)
    with pytest.raises(AttributeError):
        training.steps = 2


def test_null_says_none_where_it_may(values):
    assert from_mapping(Params, values, "params.yaml").doundo.consistency.t_gate is None
    values["doundo"]["consistency"]["t_gate"] = 1
    assert from_mapping(Params, values, "params.yaml").doundo.consistency.t_gate == 1.0
    values["doundo"]["consistency"] = None
    assert from_mapping(Params, values, "params.yaml").doundo.consistency is None
    values["doundo"]["training"] = None
    with pytest.raises(ParamsError, match=r"section 'doundo\.training' must be a mapping"):
        from_mapping(Params, values, "params.yaml")


def test_what_a_recipe_refuses_names_its_section(values):
    values["doundo"]["consistency"]["space"] = "colour"
    with pytest.raises(ParamsError, match=r"section 'doundo\.consistency': unknown consistency space 'colour'"):
        from_mapping(Params, values, "params.yaml")
