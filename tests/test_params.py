"""params.yaml is read strictly: what does not fit is refused by name."""

from __future__ import annotations

import shutil
from dataclasses import is_dataclass
from functools import reduce
from operator import getitem
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from visdyn.compute.executor import EXECUTORS
from visdyn.endpoint.settings import EndpointSettings
from visdyn.evaluation.judges.run import KINDS
from visdyn.inference.probing import AUTO, IMAGE_CODES
from visdyn.mining.balanced_test import SPLITS
from visdyn.mining.clip_motion import FLOWS
from visdyn.mining.keyframes import MODES
from visdyn.mining.reversible import VOCABULARIES
from visdyn.models.editors.diffusers_editors import PRESETS, SIZES
from visdyn.models.encoder_preprocess import CLIP_PRESETS, DINO_PRESETS
from visdyn.models.token.unified import DECODINGS
from visdyn.models.understanding.understanding_model import DEFINITIONS
from visdyn.params import Params, ParamsError, from_mapping, load_params
from visdyn.params.choices import Declared
from visdyn.params.doundo import BagelFineTuning, Consistency, Scheduler
from visdyn.params.dynamics import Fdm
from visdyn.params.evaluation import EditorEntry, EncoderSet, JudgeEntry
from visdyn.params.mining import Mining
from visdyn.params.probing import Probing
from visdyn.params.reading import Free, Like, Within
from visdyn.params.runtime import Runtime
from visdyn.params.training import Training
from visdyn.params.verification import Verification
from visdyn.paths import repository_root
from visdyn.training.arms import ARMS
from visdyn.training.bagel.recipe import ADAPTERS
from visdyn.training.engine.launch import Hardware, TrainerOptions
from visdyn.training.losses import SPACES, WEIGHT_FUNCTIONS
from visdyn.yaml_files import read_yaml

ROOT = repository_root()
PROFILES = [".", *sorted(str(path.parent.relative_to(ROOT)) for path in ROOT.glob("profiles/*/params.yaml"))]


@pytest.fixture
def values():
    return read_yaml(ROOT / "params.yaml")


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid_and_leads_to_the_repository(profile):
    params = load_params(profile)
    assert (ROOT / profile / params.root).resolve() == ROOT


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
        ("fdm", "floor", "5e-1", "(write 0.002 or 2e-3, without quotes)"),
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
        ("fdm.training.learning_rate", 0, "must be above 0 and at most 1, not 0 (int)"),
        ("fdm.training.learning_rate", 1000, "must be above 0 and at most 1, not 1000 (int)"),
        ("fdm.training.learning_rate", 10**400, "must be a float, not 1000"),
        ("fdm.training.weight_decay", float("inf"), "must be a finite number"),
        ("fdm.training.steps", 2**31, "must be at most 2147483647, not 2147483648 (int)"),
        ("fdm.training.log_every", 7, "save_every (100) must be a multiple of log_every (7)"),
        ("fdm.arms", ["synthetic", "synthetic"], "must be a list in which nothing stands twice, as 'synthetic' does"),
        ("fdm.first_chain_arms", ["synthetic"], "synthetic stands under arms and under first_chain_arms"),
        ("doundo.average_decay", 1.0, "must be at least 0 and below 1, not 1.0 (float); null says none"),
        ("doundo.training.scheduler", "cosin", "must be one of cosine, linear"),
        ("doundo.mixture", dict.fromkeys(("edit", "undo", "text_to_image", "understanding"), 0), "weights are all 0"),
        ("annotation.temperature", 1e-300, "must be from 0.01 to 100"),
        ("verification.sampling.temperature", 1e-300, "must be 0, or from 0.01 to 100"),
        ("verification.candidates", [2, 2], "nothing stands twice, as 2 does"),
        ("mining.modes", ["greedy_spaced"], "mode quiet_around_peak is to be annotated, but modes has only greedy"),
        ("mining.flow_size", 0, "must be from 16 to 4096, not 0 (int)"),
        ("mining.frame_rate", 0, "must be above 0 and at most 1000, not 0 (int)"),
        ("mining.clip_timeout", float("inf"), "must be a finite number"),
        ("base_models.base_model.num_heads", 5, "hidden_size (128) must be an even multiple of num_heads (5)"),
        ("base_models.generator_model.latent_patch_size", 3, "must be one of 1, 2, 4, 8, not 3 (int)"),
        ("base_models.generator_model.latent_patch_size", True, "must be one of 1, 2, 4, 8, not True (bool)"),
        ("base_models.generator_model.latent_patch_size", 2.0, "must be one of 1, 2, 4, 8, not 2.0 (float)"),
        ("runtime.hardware", "../../x", "must be the name of a file in hardware/, without .yaml, not '../../x'"),
        ("runtime.threads", 0, "must be from 1 to 1024"),
        ("runtime.codes", "a\x00b", "must be text without control characters"),
        ("data.aurora", " ", "must be not empty"),
        ("evaluation.encoders.preset", "doundoo", "must be one of embedded, magicbrush, bootstrapping, doundo, not"),
        ("evaluation.trained", ["fmd"], "did you mean 'fdm'?"),
        ("evaluation.gallery", -1, "must be from 0 to 10000"),
        ("evaluation.judges", [{"kind": "oracle"}], "'evaluation.judges[0].kind' must be one of region, endpoint"),
        ("evaluation.judges", [{"kind": "endpoint"}], "judges: one of kind endpoint lacks its model"),
        (
            "evaluation.judges",
            [{"kind": "endpoint", "model": "a/m"}, {"kind": "transformers", "model": "b/m"}],
            "two of judges are called 'm'",
        ),
        ("evaluation.editors", [{"name": "a", "model": "m"}] * 2, "are called 'a'; give one another name"),
        ("evaluation.editors", [{"name": "a", "model": "m", "dtype": "fp8"}], "must be one of '', float32, bfloat16"),
        ("evaluation.imported", [{"name": "a", "folder": "f", "prompt": "lang"}], "must be one of long, short"),
        ("evaluation.api_editors", [{"name": "a", "model": "m", "base_url": "", "timeout_s": 0}], "must be above 0"),
        ("evaluation_doundo.flow.backend", "farnebeck", "must be one of farneback, dis, raft, auto"),
        ("evaluation_doundo.reverse_from", ["g"], "must be one of gt, generated"),
        ("evaluation_doundo.pairs", -1, "must be at least 0"),
        ("recorded.resamples", 0, "must be from 1 to 10000000"),
        ("figures.examples", 0, "must be from 1 to 100"),
        ("seed", [[["x"] * 99] * 99] * 99, "'seed' must be an int, not [[[...]"),
        ("idm.training.precision", "fp16", "must be one of fp32, bf16"),
        ("idm.training.steps", 3, "steps (3) and epochs (7): write a number for one, null for the other"),
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


def leaves(kind, place=""):
    """Yield (dotted place, type) of every field below a dataclass that is no dataclass itself."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        yield from _leaves(hint, f"{place}.{name}" if place else name)


def _leaves(hint, place):
    if is_dataclass(hint):
        yield from leaves(hint, place)
    elif get_origin(hint) in (Union, UnionType):
        yield from _leaves(get_args(hint)[0], place)
    elif get_origin(hint) is tuple:
        yield from _leaves(get_args(hint)[0], f"{place}[]")
    elif get_origin(hint) is Annotated and get_origin(get_args(hint)[0]) is tuple:
        yield from _leaves(get_args(hint)[0], place)
    else:
        yield place, hint


@pytest.mark.parametrize("kind", [Params, Hardware, TrainerOptions, Declared])
def test_every_setting_has_a_range_or_a_choice_or_is_named_as_free(kind):
    undeclared = []
    for place, hint in leaves(kind):
        bounds = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        plain = get_args(hint)[0] if bounds else hint
        wanted = {int: Within, float: Within, str: (Free, Like), dict: Free}.get(plain)
        if hint is not bool and get_origin(hint) is not Literal and not any(isinstance(one, wanted) for one in bounds):
            undeclared.append(place)
    assert undeclared == []


def test_every_profile_and_hardware_file_fits_its_ranges():
    assert {path.stem for path in (ROOT / "hardware").glob("*.yaml")} >= {"cpu", "cpu_ranks", "zero2"}
    assert all(Hardware.load(path.stem) for path in (ROOT / "hardware").glob("*.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("threads: 0\n", "'threads' must be from 1 to 1024, not 0 (int)"),
        ("thread: 1\n", "has the unknown key 'thread'; did you mean 'threads'?"),
        ("launcher: torchrun\n", "'launcher' must be one of python, deepspeed, not 'torchrun' (str)"),
        ("parallel_jobs: 1\nparallel_jobs: 2\n", "found duplicate key"),
        ("launcher_options: [--num_gpus, 2]\n", "'launcher_options[1]' must be text, not 2 (int)"),
        ("launcher_options: [--num_gpus, two]\n", "launcher_options has --num_gpus 'two'; it takes a whole number"),
        ("trainer: {learning_rate: 5}\n", "section 'trainer' has the unknown key 'learning_rate'"),
        ("trainer: {gradient_accumulation_steps: 0}\n", "'trainer.gradient_accumulation_steps' must be from 1"),
        ("environment: {CUDA_VISIBLE_DEVICES: 0}\n", "give a name, and text in quotes"),
        ("environment: {'A B': x}\n", "give a name, and text in quotes"),
        ("- a\n", "must be a mapping of keys"),
    ],
)
def test_a_hardware_file_is_read_as_strictly(tmp_path, monkeypatch, text, said):
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware/mine.yaml").write_text(text)
    monkeypatch.setenv("VISDYN_ROOT", str(tmp_path))
    monkeypatch.setenv("VISDYN_HARDWARE", "mine")
    with pytest.raises(ParamsError) as caught:
        Hardware.load()
    assert said in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_a_hardware_file_lies_in_hardware(monkeypatch):
    monkeypatch.setenv("VISDYN_HARDWARE", "../profiles/smoke/overrides")
    with pytest.raises(ParamsError, match="VISDYN_HARDWARE must be the name of a file in hardware/"):
        Hardware.load()


def test_what_may_be_a_key_is_never_quoted(values):
    """A key pasted in the wrong place is refused where it is used, by words that do not hold it."""
    entry = {"kind": "endpoint", "model": "m", "base_url": "sk-secret\r\n", "key_variable": "sk-secret\x00"}
    values["evaluation"]["judges"] = [entry]
    assert from_mapping(Params, values, "params.yaml").evaluation.judges[0].key_variable == entry["key_variable"]
    with pytest.raises(ValueError, match="key_variable is not the name") as caught:
        EndpointSettings(entry["base_url"], "m", entry["key_variable"])
    assert "sk-secret" not in str(caught.value)


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
        (Runtime, "executor", EXECUTORS),
        (Probing, "definitions", (AUTO, IMAGE_CODES, *DEFINITIONS)),
        (Fdm, "arms", ARMS),
        (Verification, "decoding", DECODINGS),
        (BagelFineTuning, "adapter", ADAPTERS),
        (Consistency, "space", SPACES),
        (Consistency, "weight_function", WEIGHT_FUNCTIONS),
        (EncoderSet, "preset", CLIP_PRESETS),
        (EncoderSet, "preset", DINO_PRESETS),
        (EditorEntry, "preset", ("", *PRESETS)),
        (EditorEntry, "size", SIZES),
        (JudgeEntry, "kind", KINDS),
    ],
)
def test_the_choices_are_those_that_the_code_has(kind, name, known):
    assert choices(get_type_hints(kind)[name]) == tuple(known)


def test_the_schedulers_are_of_transformers():
    from transformers import SchedulerType

    assert set(get_args(Scheduler)) <= {one.value for one in SchedulerType}


def choices(hint) -> tuple[str, ...]:
    """The values of a `Literal`, or of a list of them."""
    return get_args(hint) if get_origin(hint) is Literal else choices(get_args(hint)[0])


def test_a_broken_file_is_named(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text("seed: [1\n")
    monkeypatch.setenv("VISDYN_ROOT", str(tmp_path))
    with pytest.raises(ParamsError, match=r"params\.yaml line 2, column 1 is no valid YAML"):
        load_params()
    (tmp_path / "params.yaml").write_text("- seed\n")
    with pytest.raises(ParamsError, match=r"params\.yaml must be a mapping of keys, not \['seed'\]"):
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
