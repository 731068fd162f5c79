"""params.yaml is read strictly: what does not fit is refused by name."""

from __future__ import annotations

import shutil
from functools import reduce
from operator import getitem
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import yaml

from visdyn.compute.rows import EXECUTORS
from visdyn.inference.probing import AUTO, IMAGE_CODES
from visdyn.mining.balanced_test import SPLITS
from visdyn.mining.clip_motion import FLOWS
from visdyn.mining.keyframes import MODES
from visdyn.mining.reversible import VOCABULARIES
from visdyn.models.token.unified import DECODINGS
from visdyn.models.understanding.understanding_model import DEFINITIONS
from visdyn.params import Params, ParamsError, from_mapping, load_params
from visdyn.params.annotation import Annotation
from visdyn.params.doundo import BagelFineTuning, Consistency
from visdyn.params.dynamics import Fdm
from visdyn.params.mining import Mining
from visdyn.params.probing import Probing
from visdyn.params.training import Training
from visdyn.params.verification import Verification
from visdyn.paths import repository_root
from visdyn.training.arms import ARMS
from visdyn.training.bagel.recipe import ADAPTERS
from visdyn.training.losses import SPACES, WEIGHT_FUNCTIONS

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
    values["chains"] = [0, 1]
    values["world"]["jitter"] = 1
    params = from_mapping(Params, values, "params.yaml")
    assert params.chains == (0, 1)
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
        ("fdm", "arms", 0, "'fdm.arms' must be a list of text, not 0 (int)"),
        ("spatial", "models", ["models/base", 1], "'spatial.models[1]' must be text, not 1 (int)"),
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


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "mining.flow",
            "farnebeck",
            "must be one of farneback, dis, dis_fast, not 'farnebeck' (str); did you mean 'farneback'?",
        ),
        ("mining.modes", ["top"], "'mining.modes[0]' must be one of top_then_space, greedy_spaced, quiet_around_peak"),
        ("mining.modes", [], "must be not empty, not [] (list)"),
        ("mining.test_per_verb", 0, "must be at least 1, not 0 (int)"),
        ("mining.filter_model", "", "must be not empty, not '' (str); null says none"),
        ("mining.curator", "", "must be not empty, not '' (str)"),
        ("verification.candidates", [], "must be not empty"),
        ("verification.candidates", [1, 0], "'verification.candidates[1]' must be at least 1"),
        ("fdm.arms", ["both"], "'fdm.arms[0]' must be one of supervised, supervised_weighted"),
        ("fdm.floor", 1.5, "must be from 0 to 1, not 1.5 (float)"),
        ("fdm.limits.ag", -1, "must be at least 0, not -1 (int); null says none"),
        ("fdm.training.steps", -5, "must be at least 1, not -5 (int)"),
        ("fdm.training.learning_rate", float("nan"), "must be a finite number, not nan (float)"),
        ("fdm.training.learning_rate", 0, "must be above 0, not 0 (int)"),
        ("idm.training.precision", "fp16", "must be one of fp32, bf16"),
        ("idm.training.steps", 3, "steps (3) and epochs (13): write a number for one, null for the other"),
        ("idm.training.epochs", None, "steps (None) and epochs (None)"),
        ("doundo.variants", ["doundo_d"], "must be one of doundo, doundo_c"),
        ("doundo.consistency.space", "colour", "must be one of latent, pixel, not 'colour'"),
        ("doundo.mixture.edit", float("inf"), "must be a finite number"),
        ("world.kind", "garden", "must be one of kitchen, external"),
        ("seed", -1, "must be at least 0"),
        ("chains", [], "must be not empty"),
        ("chains", [1, 0], "chains must rise and none stand twice, not [1, 0]"),
        ("chains", [0, 0], "chains must rise and none stand twice, not [0, 0]"),
        ("fdm.seeds", [0], "section 'fdm' has the unknown key 'seeds'"),
    ],
)
def test_a_value_that_may_not_stand_there_is_refused_with_what_may(values, key, value, said):
    *sections, name = key.split(".")
    reduce(getitem, sections, values)[name] = value
    with pytest.raises(ParamsError) as caught:
        from_mapping(Params, values, "params.yaml")
    assert said in str(caught.value)
    assert key.rpartition(".")[0] in str(caught.value)


def test_a_lora_is_asked_for_where_it_trains(values):
    values["doundo"] |= {"adapter": "lora", "lora": None}
    with pytest.raises(ParamsError, match="section 'doundo': adapter is lora, but lora is null"):
        from_mapping(Params, values, "params.yaml")


@pytest.mark.parametrize(
    ("kind", "name", "known"),
    [
        (Mining, "mode", MODES),
        (Mining, "flow", FLOWS),
        (Mining, "vocabulary", VOCABULARIES),
        (Mining, "test_split", SPLITS),
        (Mining, "executor", EXECUTORS),
        (Annotation, "executor", EXECUTORS),
        (Probing, "definitions", (AUTO, IMAGE_CODES, *DEFINITIONS)),
        (Fdm, "arms", ARMS),
        (Verification, "decoding", DECODINGS),
        (BagelFineTuning, "adapter", ADAPTERS),
        (Consistency, "space", SPACES),
        (Consistency, "weight_function", WEIGHT_FUNCTIONS),
    ],
)
def test_the_choices_are_those_that_the_code_has(kind, name, known):
    assert choices(get_type_hints(kind)[name]) == tuple(known)


def choices(hint) -> tuple[str, ...]:
    """The values of a `Literal`, or of a list of them."""
    return get_args(hint) if get_origin(hint) is Literal else choices(get_args(hint)[0])


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
