"""BAGEL's checkpoints: the public layout, shards, absent tables, key names, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_bagel_model import small_config, small_model

from visdyn.models.bagel import (
    Autoencoder,
    Bagel,
    BagelConfig,
    CheckpointError,
    ConfigError,
    SamplerSettings,
    SpecialTokens,
    generate_text,
)
from visdyn.models.bagel.vae import bfl_name, diffusers_name


def test_save_and_load_public_layout(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "vit_config.json").read_text())["num_hidden_layers"] == 3
    again = Bagel.from_pretrained(tmp_path)
    assert again.config == model.config
    assert list(again.state_dict()) == list(model.state_dict())
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    latents = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(again.vae.decode(latents), model.vae.decode(latents))
    half = Bagel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.vae.dtype == torch.float32


def test_without_vit_and_sharded(tmp_path):
    model = small_model(vision=False)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "vit_config.json").exists()
    state = load_file(tmp_path / "ema.safetensors")
    (tmp_path / "ema.safetensors").unlink()
    names = sorted(state)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: state[name] for name in names if files[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    again = Bagel.from_pretrained(tmp_path)
    assert again.config.vision is None
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_absent_position_tables_are_computed(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "ema.safetensors")
    kept = {name: tensor for name, tensor in state.items() if "pos_embed" not in name}
    save_file(kept, tmp_path / "ema.safetensors")
    again = Bagel.from_pretrained(tmp_path)
    for name in set(state) - set(kept):
        assert torch.equal(again.state_dict()[name], state[name])
        assert not again.get_parameter(name).requires_grad


def test_weights_decide_the_table_size(tmp_path):
    small_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_latent_size": 4}))
    with pytest.warns(UserWarning, match="max_latent_size is 4 in the configuration, 8 in the weights"):
        assert Bagel.from_pretrained(tmp_path).config.max_latent_size == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("llm2vae.bias"), "1 tensors missing: llm2vae.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 tensors unknown: extra"),
        (lambda state: state.update({"llm2vae.bias": torch.zeros(3)}), "of another shape: llm2vae.bias"),
    ],
)
def test_names_and_shapes_are_strict(tmp_path, change, message):
    small_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "ema.safetensors")
    change(state)
    save_file(state, tmp_path / "ema.safetensors")
    with pytest.raises(CheckpointError, match=message):
        Bagel.from_pretrained(tmp_path)


@pytest.mark.parametrize("file", ["ema", "ae"])
@pytest.mark.parametrize("fault", ["nan", "pointer", "cut"])
def test_numbers_and_files_are_whole(tmp_path, file, fault):
    small_model().save_pretrained(tmp_path)
    path = tmp_path / f"{file}.safetensors"
    state = load_file(path)
    name = sorted(state)[0]
    save_file({**state, name: state[name] * torch.nan}, path)
    if fault != "nan":
        content = path.read_bytes()
        path.write_bytes(
            content[: len(content) // 2] if fault == "cut" else b"version https://git-lfs.github.com/spec/v1"
        )
    with pytest.raises(CheckpointError, match={"nan": "NaN or infinity", "pointer": "git-lfs"}.get(fault, "is cut")):
        Bagel.from_pretrained(tmp_path)


def test_names_of_a_training_wrapper_are_translated(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    for file in ("ema", "ae"):
        state = load_file(tmp_path / f"{file}.safetensors")
        save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / f"{file}.safetensors")
    with pytest.warns(UserWarning, match="were translated"):
        again = Bagel.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("file", ["llm_config", "vit_config"])
def test_a_configuration_of_a_million_layers_is_refused_at_once(tmp_path, file):
    small_model().save_pretrained(tmp_path)
    path = tmp_path / f"{file}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 10**7}))
    with pytest.raises(CheckpointError, match="num_hidden_layers asks for"):
        Bagel.from_pretrained(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": "three"}))
    with pytest.raises(CheckpointError):
        Bagel.from_pretrained(tmp_path)


def test_weights_of_several_types_need_one_to_be_named(tmp_path):
    """They would fail in the first product, deep in the model."""
    small_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "ema.safetensors")
    name = next(name for name in state if name.endswith("q_proj.weight"))
    save_file({**state, name: state[name].to(torch.float8_e4m3fn)}, tmp_path / "ema.safetensors")
    with pytest.raises(CheckpointError, match="holds weights of type F32, F8_E4M3; load it with one type"):
        Bagel.from_pretrained(tmp_path)
    assert Bagel.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_tokenizer_travels_with_the_checkpoint(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    markers = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    words = {word: i for i, word in enumerate(["?", *markers, "open", "the", "drawer"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = small_model()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("special_tokens")
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = Bagel.from_pretrained(tmp_path)
    assert again.config.special_tokens == SpecialTokens(1, 2, 3, 4)
    assert again.encode_text("open the drawer") == [5, 6, 7]
    assert isinstance(generate_text(again, ["open the drawer"], max_length=3).text, str)


def test_incomplete_folders_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="is no folder"):
        Bagel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="has none of"):
        Bagel.from_pretrained(tmp_path)
    small_model().save_pretrained(tmp_path)
    (tmp_path / "llm_config.json").unlink()
    with pytest.raises(CheckpointError, match="llm_config"):
        Bagel.from_pretrained(tmp_path)


def test_unknown_options_are_refused():
    with pytest.raises(ConfigError, match=r"vit_config\.rope"):
        BagelConfig.from_dict({"llm_config": {}, "vit_config": {"rope": True}})
    with pytest.raises(ConfigError, match="interpolate_pos"):
        BagelConfig.from_dict({"llm_config": {}, "bagel_config": {"interpolate_pos": True}})
    with pytest.raises(ValueError, match="cfg_renorm_type"):
        SamplerSettings(cfg_renorm_type="text")


def test_flux_key_names_translate_both_ways():
    names = list(Autoencoder(small_config().autoencoder).model.state_dict())
    theirs = [bfl_name(name, 2) for name in names]
    assert len(set(theirs)) == len(names)
    assert [diffusers_name(name, 2) for name in theirs] == names
    assert "decoder.up.0.block.0.nin_shortcut.weight" in theirs
    assert "encoder.mid.attn_1.proj_out.bias" in theirs
