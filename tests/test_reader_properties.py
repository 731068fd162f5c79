"""Whatever stands in a file, its reader gives what it promises, or the kit's own error that names the file.

One test a reader of structures: settings, annotations, narrations, results, weights. Those of bytes that are pixels,
frames, JSON and CSV as such stand with their readers (test_image_files, test_video_files, test_readers). Nothing here
is drawn anew: the same examples in every run.
"""

from __future__ import annotations

import json
from contextlib import suppress

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from visdyn.datasets import doundo_bench
from visdyn.datasets.aurora import load_bench
from visdyn.datasets.bad_items import DatasetError
from visdyn.datasets.epic_kitchens import load_segments
from visdyn.datasets.spatial_questions import load_spatialmqa
from visdyn.mining.inverse_text import inverse_narration
from visdyn.mining.reversible import inverse_verbs
from visdyn.models.strict_load import _check_adapter_settings, read_tensors
from visdyn.models.weight_files import CheckpointError, check_counts, find_weight_files, read_header, read_settings
from visdyn.params import Params
from visdyn.params.reading import ParamsError, from_mapping
from visdyn.paths import repository_root
from visdyn.quarantine import Quarantine
from visdyn.result_tables import TABLES, ResultTableError, read_columns
from visdyn.yaml_files import YamlError, read_yaml

SAME = settings(max_examples=60, deadline=None, derandomize=True,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
HARD = st.sampled_from(["", " ", "\0", "\u2028", "é", "[1]", "[", f"[{'-' * 20_000}1]", "[" * 300 + "]" * 300, "../x",
                        "/etc/passwd", "x" * 300, "NaN", "-1", "1e999", "012", "1_0", "٣", "on", "2020-01-01", "0x1F",
                        "a\nb"])  # fmt: skip
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS | HARD
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))


def read(call, kind: type[Exception], name: str):
    """Return what a reader gives; None where it refuses with its own error, which names the file. Others fail."""
    try:
        return call()
    except kind as error:
        said = str(error)
    assert name in said
    return None


def is_plain(value) -> bool:
    """Tell whether a value is made of text, numbers, true, false, null, lists and mappings by text."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(inner) for key, inner in value.items())
    return all(map(is_plain, value)) if isinstance(value, list) else isinstance(value, str | int | float | None)


# ---------------------------------------------------------------- settings
SIGNS = st.text(st.sampled_from(":-,[]{}&*!|>'\"%@`#?~.\n\t \\abx01e+_é\u2028\ufeff"), max_size=40)


@SAME
@given(SIGNS | st.text(max_size=30) | VALUES.map(lambda value: json.dumps({"a": value})), st.binary(max_size=3))
def test_any_yaml_is_plain_values_or_an_error_that_names_the_file(tmp_path, text, tail):
    path = tmp_path / "settings.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") + tail * (len(text) % 2))
    assert is_plain(read(lambda: read_yaml(path), YamlError, "settings.yaml"))


@pytest.fixture(scope="module")
def values():
    """What params.yaml says, as plain values, and the places of its leaves."""
    found = read_yaml(repository_root() / "params.yaml")
    found.pop("root", None)

    def list_leaves(value, place=()):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*place, key)
            if isinstance(inner, dict | list):
                yield from list_leaves(inner, (*place, key))

    return json.dumps(found), list(list_leaves(found))


@SAME
@given(st.integers(0, 10**6), VALUES | st.floats() | st.sampled_from([10**400, -(10**400), True]))
def test_any_value_of_params_is_taken_as_it_stands_or_refused_by_file_and_key(values, number, value):
    text, places = values
    changed, place = json.loads(text), places[number % len(places)]
    owner = changed
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = value
    found = read(lambda: from_mapping(Params, changed, "params.yaml"), ParamsError, "params.yaml")
    if found is None:
        return
    for key in place:
        found = found[key] if isinstance(found, dict | tuple) else getattr(found, key)
    if isinstance(value, str | int | float | None) and not isinstance(found, dict):
        assert found == value  # a NaN would differ from itself
        assert isinstance(found, bool) == isinstance(value, bool)


# ---------------------------------------------------------------- annotations
@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with one image, where annotations are written."""
    folder = tmp_path_factory.mktemp("data")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    return folder


def items(known: dict, *further: str):
    """Lists of items that are nearly right: known values, strange ones, lost and added fields; or no items at all."""
    strange = st.sampled_from([*known, *further]).flatmap(lambda key: st.tuples(st.just(key), VALUES))
    one = st.lists(strange, max_size=2).map(lambda changes: {**known, **dict(changes)})
    one |= st.sampled_from(list(known)).map(lambda key: {name: value for name, value in known.items() if name != key})
    return st.lists(one | VALUES, min_size=1, max_size=4)


@SAME
@given(items({"instruction": "open it", "input": "a.png", "output": "a.png", "task": "ag"}))
def test_any_item_of_aurora_is_whole_or_set_aside(root, listed):
    (root / "test.json").write_text(json.dumps(listed))
    quarantine = Quarantine()
    found = read(lambda: load_bench(root, quarantine=quarantine), DatasetError, "test.json")
    assert found is None or len(found) + len(quarantine) >= len(listed)
    for one in found or ():
        assert isinstance(one.action, str)
        assert one.action.strip()
        assert one.source.resolve().is_relative_to(root.resolve())


PAIR = {"narration_id": "P01_01_0", "narration": "turn oven on", "participant_id": "P01", "video_id": "P01_01",
        "start_frame": 10, "stop_frame": 20, "forward_prompt": "turn it on",
        "reverse_prompt": "turn it off"}  # fmt: skip


@SAME
@given(items(PAIR, "start_img", "reverse_short", "verb"))
def test_any_pair_of_do_undo_is_whole_or_set_aside(root, listed):
    (root / "pairs.json").write_text(json.dumps(listed))
    quarantine = Quarantine()
    path = root / "pairs.json"
    found = read(lambda: doundo_bench.load(path, root, quarantine, require_images=False), DatasetError, "pairs.json")
    assert found is None or len(found) + len(quarantine) == len(listed)
    for one in found or ():
        texts = (one.forward_prompt, one.reverse_prompt, one.narration, one.verb, one.noun, one.id)
        assert all(isinstance(text, str) for text in texts)


@pytest.mark.parametrize("frame", [10.5, True, "10.5", [10], None])
def test_a_frame_that_is_no_whole_number_is_set_aside(root, frame):
    (root / "pairs.json").write_text(json.dumps([PAIR, {**PAIR, "narration_id": "x", "start_frame": frame}]))
    quarantine = Quarantine()
    found = doundo_bench.load(root / "pairs.json", root, quarantine, require_images=False)
    assert [pair.id for pair in found] == ["P01_01_0"]
    assert len(quarantine) == 1


@pytest.mark.parametrize("text", [f"[{'-' * 20_000}1]", "[" * 300 + "]" * 300, "[open it"])
def test_a_prompt_that_only_looks_like_a_list_is_text(root, text):
    (root / "pairs.json").write_text(json.dumps([{**PAIR, "forward_prompt": text}]))
    (found,) = doundo_bench.load(root / "pairs.json", root, require_images=False)
    assert found.forward_prompt == text


@SAME
@given(items({"id": 1, "image": "a.png", "question": "where?", "options": ["left", "right"], "answer": "left"}))
def test_any_spatial_question_is_whole_or_set_aside(root, listed):
    (root / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in listed))
    found = read(lambda: load_spatialmqa(root / "test.jsonl", root, Quarantine()), DatasetError, "test.jsonl")
    for one in found or ():
        assert len(set(one.options)) == len(one.options) >= 2


ROW = {"narration_id": "P01_01_0", "participant_id": "P01", "video_id": "P01_01", "narration_timestamp": "00:00:01.00",
       "start_timestamp": "00:00:01.00", "stop_timestamp": "00:00:02.00", "start_frame": "60", "stop_frame": "120",
       "narration": "open door", "verb": "open", "verb_class": "3", "noun": "door", "noun_class": "8",
       "all_nouns": "['door']", "all_noun_classes": "[8]"}  # fmt: skip


@SAME
@given(st.lists(st.tuples(st.sampled_from(list(ROW)), TEXTS | HARD), max_size=3))
def test_any_cell_of_a_segment_is_read_as_its_type_or_named(tmp_path, changes):
    cells = {**ROW, **dict(changes)}
    path = tmp_path / "segments.csv"
    pd.DataFrame([cells]).to_csv(path, index=False, errors="surrogatepass")
    for found in read(lambda: load_segments(path), DatasetError, "segments.csv") or ():
        assert found.start_frame >= 0
        assert all(isinstance(noun, str) for noun in found.all_nouns)


# What int() and literal_eval take, and no annotator meant.
ODD_CELLS = [("start_frame", "1_0"), ("start_frame", "٣"), ("stop_frame", "-1"), ("verb_class", "3.0"),
             ("all_nouns", '"door"'), ("all_nouns", "[8]"), ("all_noun_classes", "['8']"),
             ("all_noun_classes", "{8: 1}"), ("all_noun_classes", "[True]")]  # fmt: skip


@pytest.mark.parametrize(("column", "cell"), ODD_CELLS)
def test_a_cell_that_python_alone_would_read_is_refused(tmp_path, column, cell):
    path = tmp_path / "segments.csv"
    pd.DataFrame([{**ROW, column: cell}]).to_csv(path, index=False)
    with pytest.raises(DatasetError, match=rf"segments.csv line 2: column {column} cannot be read"):
        load_segments(path)


# ---------------------------------------------------------------- narrations
WORDS = st.sampled_from(["open", "turn", "on", "off", "the", "oven", "pan", "from", "left", "back", "up", "...", "é",
                         "-", "two", ",", "\u2028", "put", "in"])  # fmt: skip


@SAME
@given(st.lists(WORDS | st.text(max_size=6), max_size=6), st.sampled_from(sorted(inverse_verbs("v2", True))),
       st.sampled_from(["oven", "cutter:pizza", "glass of water"]), st.sampled_from(["the", ""]))  # fmt: skip
def test_any_narration_is_undone_by_a_sentence_that_begins_with_the_inverse_verb(words, verb, noun, article):
    inverse = inverse_verbs("v2", True)[verb]
    said = inverse_narration(" ".join(words), verb, inverse, noun, article)
    assert said.split()[0] == inverse.split("-")[0]
    assert len(said.split()) > 1
    assert "  " not in said


# ---------------------------------------------------------------- results
LINES = "chain,dataset,class,video,pair,action,log_likelihood,selected,true_action,correct\n" \
        "0,ucf,open,7,0-51,open the drawer,-0.5,1,,\n0,ucf,open,7,51-60,close it,-0.25,0,close it,1\n"  # fmt: skip


@SAME
@given(
    st.integers(0, len(LINES) - 1), st.integers(0, 9), TEXTS | HARD | st.sampled_from([",", "\n", '"', "\r\n", ",,"])
)
def test_any_edit_of_a_result_is_a_table_of_its_types_or_an_error_that_names_it(tmp_path, place, length, text):
    assert LINES.partition("\n")[0].split(",") == list(TABLES["annotation/pairs.csv"])
    path = tmp_path / "pairs.csv"
    path.write_bytes((LINES[:place] + text + LINES[place + length :]).encode("utf-8", "surrogatepass"))
    found = read(lambda: read_columns("annotation/pairs.csv", path), ResultTableError, "annotation/pairs.csv")
    if found is None:
        return
    assert list(found.columns) == list(TABLES["annotation/pairs.csv"])
    assert all(isinstance(cell, str) for cell in found["action"])
    assert found["log_likelihood"].dtype == float


# ---------------------------------------------------------------- weights
TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.int64)}
CONTENT = save(TENSORS)
SIDES = st.integers(-2, 5) | st.sampled_from([2**63, 10**400, 1.5, 1e308, "3", None, True]) | VALUES
ENTRIES = st.fixed_dictionaries({}, optional={
    "dtype": st.sampled_from(["F32", "F64", "I8", "F8_E4M3", "X", "", None, 3]),
    "shape": st.lists(SIDES, max_size=3) | VALUES,
    "data_offsets": st.lists(SIDES, min_size=0, max_size=3) | VALUES,
})  # fmt: skip


@SAME
@given(st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255)), max_size=4), st.integers(0, 400))
def test_any_damage_of_weights_is_their_tensors_or_an_error_that_names_the_file(tmp_path, changes, cut):
    content = bytearray(CONTENT)
    for place, value in changes:
        content[place] = value
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(content[:cut] if cut % 2 else content))
    stored = read(lambda: read_header(path), CheckpointError, "model.safetensors")
    found = read(lambda: read_tensors(path), CheckpointError, "model.safetensors")
    if found is not None:
        shapes = {name: tensor.shape for name, tensor in stored.items()}
        assert {name: tuple(tensor.shape) for name, tensor in found.items()} == shapes


@SAME
@given(st.dictionaries(TEXTS, ENTRIES | VALUES, max_size=3) | VALUES, st.binary(max_size=24), st.booleans())
def test_any_header_of_weights_is_one_or_an_error_that_names_the_file(tmp_path, header, data, infinite):
    text = json.dumps(header).replace("1e+308", "1e999" if infinite else "1e308").encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    stored = read(lambda: read_header(path), CheckpointError, "model.safetensors")
    found = read(lambda: read_tensors(path), CheckpointError, "model.safetensors")
    assert found is None or found.keys() == stored.keys()


@SAME
@given(VALUES | st.dictionaries(st.sampled_from(["weight_map", "metadata"]), VALUES, max_size=2), SIGNS)
def test_any_index_of_shards_names_files_beside_it_or_is_refused(tmp_path, index, text):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index) if index is not None else text, errors="surrogatepass")
    (tmp_path / "x").write_bytes(CONTENT)
    with suppress(CheckpointError):
        assert all(file.parent == tmp_path for file in find_weight_files(tmp_path, ("model",)))
    with suppress(CheckpointError):
        assert isinstance(read_settings(path), dict)


ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["linear"]}
KEYS = ("r", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_pattern", "peft_type",
        "layer_replication", "layers_to_transform", "num_layers")  # fmt: skip


@SAME
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=2), st.integers(0, 2))
def test_any_settings_of_an_adapter_pass_or_are_refused_by_their_file(tmp_path, changes, dimensions):
    weights = {"base.linear.lora_A.weight": torch.zeros((2,) * dimensions)}
    given = ({**ADAPTER, **changes}, weights, torch.nn.Linear(2, 2), tmp_path)
    read(lambda: _check_adapter_settings(*given), CheckpointError, "adapter_config.json")


@SAME
@given(st.dictionaries(st.sampled_from(["num_hidden_layers", "depths", "vocab_size"]), SIDES, max_size=2))
def test_any_configuration_passes_or_is_refused_by_its_file(configuration):
    read(lambda: check_counts(configuration, "config.json", 3), CheckpointError, "config.json")


@pytest.mark.parametrize("entry", ['{"shape": [1e999]}', '{"dtype": "F32", "shape": [], "data_offsets": [0, 1e999]}'])
def test_a_side_beyond_all_numbers_is_no_header(tmp_path, entry):
    text = f'{{"a": {entry}}}'.encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has no header"):
        read_header(tmp_path / "model.safetensors")


def test_counts_beyond_all_numbers_and_names_of_any_length_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"num_hidden_layers asks for 1e\+300"):
        check_counts({"num_hidden_layers": 10**400}, "config.json", 3)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x" * 300}}))
    with pytest.raises(CheckpointError, match=r"is named in model\.safetensors\.index\.json but missing"):
        find_weight_files(tmp_path, ("model",))


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_of_an_adapter_that_is_no_mapping_is_refused(tmp_path, field):
    weights = {"base.linear.lora_A.weight": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match=f"adapter_config.json: {field} is no mapping"):
        _check_adapter_settings({**ADAPTER, field: ["linear"]}, weights, torch.nn.Linear(2, 2), tmp_path)
