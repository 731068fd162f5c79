"""The one door for weights: what is missing, unknown, misshapen, no number, cut or a trap is refused in words."""

from __future__ import annotations

import ast
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_tokens import save_adapter
from tiny_vlms import save_tiny

from visdyn.models import load_model
from visdyn.models.strict_load import load_state, read_pickle, require_finite
from visdyn.models.vqgan import VQGAN
from visdyn.models.weight_files import CheckpointError, check_weight_file, find_fault, find_weight_files, read_settings
from visdyn.paths import repository_root

SOURCE = repository_root() / "src/visdyn"
DOOR = "models/strict_load.py"
LIBRARY_LOADS = {"from_pretrained", "load_state_dict", "load_file", "safe_open", "load_adapter", "load_lora_weights",
                 "from_single_file", "load_checkpoint_and_dispatch", "load_model_weights"}  # fmt: skip
# Classes of the kit with a `from_pretrained` of their own, which goes through the door.
OWN = {"cls", "Bagel", "BagelEditor", "ChatFormat", "DiffusersEditor", "DynamicsPair", "ImageEncoder",
       "ImageTextEncoder", "UnderstandingModel", "editor", "getattr(import_module(module), name)"}  # fmt: skip
# What may load past the door, and why.
PAST = {
    ("training/engine/trainer.py", "load_state_dict"): "a run's own resume state, checked by `trained_only`",
    ("models/strict_load.py", None): "the door",
}


def loads_past_the_door() -> list[str]:
    """List every call of a library's load in the package that does not stand in the door."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name, tree = path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text())
        door = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("visdyn.")
            for alias in node.names
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            call, owner = node.func, None
            if isinstance(call, ast.Attribute):
                called, owner = call.attr, ast.unparse(call.value)
            elif isinstance(call, ast.Name):
                called = call.id
            else:
                continue
            pickled = called == "load" and owner in ("torch", "torch.serialization", "pickle", "joblib")
            own = owner in OWN if owner else called in door
            if (called in LIBRARY_LOADS or pickled) and not own and (name, called) not in PAST and name != DOOR:
                found.append(f"{name}:{node.lineno} {ast.unparse(call)}")
    return found


def test_every_load_of_weights_goes_through_the_door():
    assert loads_past_the_door() == []


def test_no_code_of_a_checkpoint_is_trusted():
    safe = {"trust_remote_code": "False", "weights_only": "True", "allow_pickle": "False"}
    said = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword):
                said.append((node.arg, node.value, f"{path.name}:{node.value.lineno}"))
            elif isinstance(node, ast.Dict):  # arguments that are handed on
                pairs = zip(node.keys, node.values, strict=True)
                said += [(ast.literal_eval(key), value, f"{path.name}:{value.lineno}")
                         for key, value in pairs if isinstance(key, ast.Constant)]  # fmt: skip
    places = [(name, ast.unparse(value), place) for name, value, place in said if name in safe]
    assert {name for name, _, _ in places} == set(safe)
    assert [place for name, value, place in places if value != safe[name]] == []


@pytest.fixture
def copied(tiny_folder, tmp_path):
    """A copy of the tiny Chameleon that a test may spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def change(folder: Path, edit, file: str = "model.safetensors") -> None:
    weights = load_file(folder / file)
    weights = edit(weights) or weights
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / file, {"format": "pt"})


def configure(folder: Path, file: str = "config.json", **changes) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rename(before: str, after: str):
    return lambda weights: {name.replace(before, after): value for name, value in weights.items()}


def spoil(name: str, value: float):
    def edit(weights):
        weights[name].view(-1)[3] = value

    return edit


LAST = "model.layers.1."
FAULTS = {
    "one missing": (lambda w: w.pop(LAST + "self_attn.q_proj.weight") is None, r"1 tensors missing: .*q_proj"),
    "no head": (lambda w: w.pop("lm_head.weight") is None, "1 tensors missing: lm_head.weight"),
    "no embedding": (lambda w: w.pop("model.embed_tokens.weight") is None, "missing: model.embed_tokens.weight"),
    "all names wrong": (lambda w: {f"x.{name}": value for name, value in w.items()}, "missing.*and .* more; .*unknown"),
    "a stranger": (lambda w: w.update({"model.extra.weight": torch.ones(2)}), "1 tensors unknown: model.extra.weight"),
    "another shape": (
        lambda w: w.update({"model.norm.weight": torch.ones(7)}),
        r"1 tensors of another shape: model.norm.weight \(7,\), expected \(32,\)",
    ),
    "the last layer gone": (
        lambda w: {name: value for name, value in w.items() if not name.startswith(LAST)},
        r"missing.*another number of layers\?",
    ),
    "a layer too many": (
        lambda w: w.update({n.replace(LAST, "model.layers.2."): v.clone() for n, v in w.items() if LAST in n}),
        r"unknown.*another number of layers\?",
    ),
    "not a number": (spoil("model.norm.weight", float("nan")), "NaN or infinity: model.norm.weight"),
    "infinite": (spoil("lm_head.weight", float("-inf")), "NaN or infinity: lm_head.weight"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_exactly_the_models_are_refused(copied, fault):
    edit, message = FAULTS[fault]

    def edited(weights):
        result = edit(weights)
        return result if isinstance(result, dict) and len(result) else weights

    change(copied, edited)
    with pytest.raises(CheckpointError, match=message) as refused:
        load_model(copied)
    assert str(copied) in str(refused.value)


@pytest.mark.parametrize("layers", [1, 4])
def test_a_configuration_of_another_depth_is_refused(copied, layers):
    configure(copied, num_hidden_layers=layers)
    with pytest.raises(CheckpointError, match=r"another number of layers\?"):
        load_model(copied)


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module.module.", "_orig_mod.module.", "module._orig_mod."]
)
def test_names_of_a_training_wrapper_are_translated_and_said(copied, tiny, prefix):
    change(copied, lambda weights: {prefix + name: value for name, value in weights.items()})
    with pytest.warns(UserWarning, match=rf"names of weights were translated, such as {prefix}"):
        model = load_model(copied)
    assert all(torch.equal(value, model.lm.state_dict()[name]) for name, value in tiny.lm.state_dict().items())


def test_a_wrapper_in_the_middle_of_a_name_is_translated(copied, tiny):
    change(copied, rename("model.layers", "model._orig_mod.layers"))
    with pytest.warns(UserWarning, match="were translated"):
        model = load_model(copied)
    assert all(torch.equal(value, model.lm.state_dict()[name]) for name, value in tiny.lm.state_dict().items())


TRAPS = {
    "num_hidden_layers": 10**6,
    "vocab_size": 10**13,
    "hidden_size": 10**7,
    "intermediate_size": 10**12,
}


@pytest.mark.parametrize("key", TRAPS)
def test_a_configuration_that_would_take_hours_is_refused_at_once(copied, key):
    configure(copied, **{key: TRAPS[key]})
    with pytest.raises(
        CheckpointError, match=f"{'num_hidden_layers asks' if 'layers' in key else 'asks for a model of'}"
    ):
        load_model(copied)


@pytest.mark.parametrize("text", ["[]", "3", "{", '{"a": NaN}', '{"rope_theta": 1e999}', "[" * 5000, b"\xff\xfe{"])
def test_settings_that_are_none_are_named(copied, text):
    (copied / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(copied)


def cut(path: Path, bytes_left: int | float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(bytes_left if bytes_left >= 1 else len(content) * bytes_left)])


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
FILES = {
    "pointer": (lambda path: path.write_bytes(POINTER), "git-lfs pointer.*git lfs pull"),
    "annex": (lambda path: path.write_bytes(b"/annex/objects/MD5-s1--0\n"), "git-annex"),
    "page": (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>"), "web page"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "cut header": (lambda path: cut(path, 20), "cut within its header"),
    "cut": (lambda path: cut(path, 0.5), r"is cut: \d+ of \d+ bytes"),
    "one byte": (lambda path: cut(path, path.stat().st_size - 1), "is cut"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "longer than its header"),
    "noise": (lambda path: path.write_bytes(os.urandom(4096)), "is no safetensors file"),
    "dangling": (lambda path: (path.unlink(), path.symlink_to("nowhere")), "leads nowhere"),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_file_that_holds_no_weights_is_named_as_what_it_is(copied, fault):
    spoiled, message = FILES[fault]
    path = copied / "model.safetensors"
    spoiled(path)
    with pytest.raises(CheckpointError, match=message):
        load_model(copied)
    assert str(path) in find_fault(copied)
    (copied / "vqgan/weights.safetensors").unlink()
    shutil.move(path, copied / "vqgan/weights.safetensors") if fault != "dangling" else None
    with pytest.raises((CheckpointError, FileNotFoundError)):
        VQGAN.from_checkpoint(copied / "vqgan")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "gone.safetensors", "", 7])
def test_an_index_names_files_beside_it(copied, name):
    (copied / "model.safetensors").rename(copied / "part.safetensors")
    shutil.copy(copied / "part.safetensors", copied.parent / "model.safetensors")
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        load_model(copied)
    assert "index.json" in find_fault(copied)


@pytest.mark.parametrize("content", ["pointer", "cut", "code", "list"])
def test_pickled_weights_are_read_without_their_code(tmp_path, content):
    path = tmp_path / "weights.ckpt"
    torch.save({"code": {"state_dict": {}, "trap": os.system}, "list": [1]}.get(content, {"a": torch.ones(999)}), path)
    if content == "pointer":
        path.write_bytes(POINTER)
    elif content == "cut":
        cut(path, 0.7)
    with pytest.raises(CheckpointError, match=r"weights\.ckpt"):
        read_pickle(path)
    assert (find_fault(tmp_path) is not None) == (content in ("pointer", "cut"))


def test_a_module_is_filled_strictly():
    layer = torch.nn.Linear(2, 2)
    good = {name: value + 1 for name, value in layer.state_dict().items()}
    wrapped = {f"module.{name}": value for name, value in good.items()}
    with pytest.warns(UserWarning, match="were translated"):
        assert torch.equal(load_state(layer, wrapped, "file").weight, good["weight"])
    for weights, message in [
        ({"weight": good["weight"]}, "missing: bias"),
        ({**good, "more": good["bias"]}, "unknown: more"),
        ({**good, "bias": torch.ones(3)}, r"bias \(3,\), expected \(2,\)"),
        ({**good, "bias": torch.full((2,), torch.inf)}, "NaN or infinity: bias"),
        ({**good, "bias": 3}, "bias are no tensors"),
        ({**good, "module.bias": good["bias"]}, "one name"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            load_state(layer, weights, "file")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64, torch.complex64])
def test_numbers_of_every_type_are_looked_at(dtype):
    require_finite({"a": torch.ones(3).to(dtype), "b": torch.ones(3, dtype=torch.int8), "c": torch.empty(0)}, "here")
    with pytest.raises(CheckpointError, match="here: 1 tensors hold NaN or infinity: a;"):
        require_finite({"a": torch.tensor([1.0, torch.nan]).to(dtype)}, "here")


def test_settings_hold_numbers(tmp_path):
    (tmp_path / "a.json").write_text('{"a": {"b": [1, -Infinity]}}')
    with pytest.raises(CheckpointError, match=r"a\.b is -inf"):
        read_settings(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match=r"b\.json is missing"):
        read_settings(tmp_path / "b.json")
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        find_weight_files(tmp_path)
    with pytest.raises(CheckpointError, match="is missing"):
        check_weight_file(tmp_path / "none.bin")


# Adapters.


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A tiny Qwen2-VL and a LoRA of it, as peft writes it."""
    root = tmp_path_factory.mktemp("qwen")
    (root / "base").mkdir()
    save_tiny("qwen2_vl", root / "base")
    targets = {"target_modules": r".*language_model.*\.(q_proj|down_proj)"}
    save_adapter(load_model(root / "base").lm, root / "adapter", **targets)
    configure(root / "adapter", "adapter_config.json", base_model_name_or_path=str(root / "base"))
    return root


@pytest.fixture
def adapter(qwen, tmp_path):
    return Path(shutil.copytree(qwen / "adapter", tmp_path / "adapter"))


def merged(folder) -> dict[str, torch.Tensor]:
    return load_model(folder).lm.state_dict()


ADAPTER = "adapter_model.safetensors"
LAYOUTS = {
    "before transformers 4.52": rename("model.model.language_model.", "model.model."),
    "of the decoder alone": rename("model.model.language_model.", "model."),
    "of torch.compile": rename("base_model.model.", "base_model.model._orig_mod."),
    "of torch.compile outside": rename("base_model.", "_orig_mod.base_model."),
    "of DDP": rename("base_model.", "module.base_model."),
    "of DDP inside": rename("base_model.model.", "base_model.model.module."),
    "without a prefix": rename("base_model.model.", ""),
    "with the adapter's name": rename(".weight", ".default.weight"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_known_names_of_an_adapter_are_translated_and_said(qwen, adapter, layout):
    change(adapter, LAYOUTS[layout], ADAPTER)
    with pytest.warns(UserWarning, match="names of weights were translated"):
        found = merged(adapter)
    wanted, base = merged(qwen / "adapter"), merged(qwen / "base")
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert any(not torch.equal(found[name], value) for name, value in base.items())


HALVES = {
    "half of its layers": lambda w: {name: value for name, value in w.items() if "layers.1." not in name},
    "no A": lambda w: {name: value for name, value in w.items() if "lora_A" not in name},
    "one B gone": lambda w: w.pop(sorted(name for name in w if "lora_B" in name)[0]) is None or w,
    "another model's names": rename("self_attn", "attention"),
    "a layer too many": lambda w: {**w, **rename("layers.1.", "layers.9.")({k: v.clone() for k, v in w.items()})},
    "another rank": lambda w: {n: torch.cat([v, v], 1 if "lora_B" in n else 0) for n, v in w.items()},
    "not a number": lambda w: {n: v * torch.nan for n, v in w.items()},
    "nothing": lambda w: {"none": torch.ones(1)},
}


@pytest.mark.parametrize("half", HALVES)
def test_an_adapter_fits_wholly_or_is_refused(adapter, half):
    change(adapter, HALVES[half], ADAPTER)
    # Two adapters of one base stay unmerged: what is no number must be found in the file, not after the merge.
    message = r"safetensors: \d+ tensors hold NaN" if half == "not a number" else "adapter"
    with pytest.raises(CheckpointError, match=message):
        load_model(adapter)


NO_FIT = "does not fit its base"
SETTINGS = {
    "a pattern without end": ({"target_modules": r"(([a-z_.0-9]+)+)+\.X"}, "takes over 1 seconds"),
    "a pattern of a rank": ({"rank_pattern": {r"(([a-z_.0-9]+)+)+\.X": 2}}, "takes over 1 seconds"),
    "no pattern": ({"target_modules": "(q_proj"}, "is no regular expression"),
    "an immense rank": ({"r": 10**9}, "asks for rank 1000000000, but its weights have 2"),
    "another rank": ({"r": 1}, NO_FIT),
    "a rank in words": ({"r": "two"}, "asks for rank two"),
    "another depth": ({"layer_replication": [[0, 10**6]]}, "layer_replication makes a model of another depth"),
    "another kind": ({"peft_type": "PREFIX_TUNING"}, "peft_type is 'PREFIX_TUNING'"),
    "no kind": ({"peft_type": None}, "peft_type is 'None'"),
    "no module": ({"target_modules": ["nothing"]}, NO_FIT),
    "infinite": ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
    "a rate in words": ({"lora_alpha": "many"}, NO_FIT),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_an_adapter_are_checked(adapter, setting, monkeypatch):
    monkeypatch.setattr("visdyn.models.strict_load._PATTERN_SECONDS", 1)
    changes, message = SETTINGS[setting]
    configure(adapter, "adapter_config.json", **changes)
    with pytest.raises(CheckpointError, match=message) as refused:
        load_model(adapter)
    assert str(adapter) in str(refused.value)


def test_an_adapter_without_weights_is_named(adapter):
    (adapter / ADAPTER).unlink()
    with pytest.raises(FileNotFoundError, match="adapter holds no weights"):
        load_model(adapter)
    (adapter / ADAPTER).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match="git-lfs pointer"):
        load_model(adapter)


def test_an_overflow_in_the_merge_is_refused(adapter):
    configure(adapter, "adapter_config.json", lora_alpha=1e39)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        load_model(adapter)


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "qwen3_vl_moe", "qwen2_5_omni"])
@pytest.mark.parametrize("fault", ["missing", "unknown", "nan", "wrapped"])
def test_every_family_of_understanding_models_is_loaded_strictly(tmp_path, family, fault):
    save_tiny(family, tmp_path)
    name = sorted(name for name in load_file(tmp_path / "model.safetensors") if "v_proj" in name or "qkv" in name)[0]
    edits = {
        "missing": lambda w: w.pop(name) is None or w,
        "unknown": lambda w: {**w, "thinker.model.odd.weight": torch.ones(1)},
        "nan": lambda w: {**w, name: w[name] * torch.nan},
        "wrapped": lambda w: {f"module.{key}": value for key, value in w.items()},
    }
    before = load_model(tmp_path).lm.state_dict()
    change(tmp_path, edits[fault])
    if fault == "wrapped":
        with pytest.warns(UserWarning, match="were translated"):
            loaded = load_model(tmp_path)
        assert all(torch.equal(value, loaded.lm.state_dict()[key]) for key, value in before.items())
        assert loaded.lm.generation_config.repetition_penalty == 3.0
        return
    with pytest.raises(CheckpointError, match={"missing": "missing", "unknown": "odd"}.get(fault, "NaN")):
        load_model(tmp_path)


def test_the_doctor_names_files_that_are_no_weights(copied):
    assert find_fault(copied) is None
    (copied / "pytorch_model.bin").write_bytes(POINTER)  # as `git lfs pull --include "*.safetensors"` leaves it
    assert find_fault(copied) is None
    (copied / "pytorch_model.bin").unlink()
    (copied / "vqgan/weights.safetensors").write_bytes(POINTER)
    assert "vqgan/weights.safetensors is a git-lfs pointer" in find_fault(copied)
    (copied / "vqgan/weights.safetensors").unlink()
    (copied / "model.safetensors").unlink()
    assert "holds no weights" in find_fault(copied)
