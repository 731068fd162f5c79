"""The Chameleon decoder: unmasked image logits, checkpoints with and without the library's tokenizer, adapters."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ChameleonForConditionalGeneration

from visdyn.models.token.chameleon import ChameleonLM, load_lm
from visdyn.models.token.tokens import image_token_name


@pytest.fixture(scope="module")
def library(tiny):
    """The library's own class with the tiny model's weights and the full vocabulary map of a public checkpoint."""
    config = type(tiny.lm.config).from_dict(tiny.lm.config.to_dict())
    codes = range(tiny.layout.num_image_codes)
    config.vocabulary_map = {image_token_name(code): tiny.layout.image_offset + code for code in codes}
    torch.manual_seed(0)
    model = ChameleonForConditionalGeneration(config).eval()
    missing = model.load_state_dict(tiny.lm.state_dict(), strict=False).missing_keys
    assert all(key.startswith("model.vqmodel.") for key in missing)
    return model


@pytest.fixture(scope="module")
def inputs(tiny, grids):
    return torch.tensor([tiny.builder.inverse_prompt(grids[0], grids[1])])


@torch.inference_mode()
def test_image_logits_are_masked_by_the_library_and_left_alone_here(tiny, library, inputs):
    block = slice(tiny.layout.image_offset, tiny.layout.image_offset + tiny.layout.num_image_codes)
    theirs, ours = library(input_ids=inputs).logits, tiny.lm(input_ids=inputs).logits
    assert (theirs[..., block] == torch.finfo(theirs.dtype).min).all()
    assert ours[..., block].abs().max() < 1e3
    text = slice(block.stop, None)
    torch.testing.assert_close(ours[..., text], theirs[..., text], atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("keep", [1, 5, torch.tensor([0, 3])])
def test_kept_logits_are_those_of_the_full_forward(tiny, inputs, keep):
    full = tiny.lm(input_ids=inputs).logits
    expected = full[:, -keep:] if isinstance(keep, int) else full[:, keep]
    torch.testing.assert_close(tiny.lm(input_ids=inputs, logits_to_keep=keep).logits, expected)


@torch.inference_mode()
def test_the_cache_does_not_change_logits(tiny, inputs):
    first = tiny.lm(input_ids=inputs[:, :7], use_cache=True)
    second = tiny.lm(input_ids=inputs[:, 7:], past_key_values=first.past_key_values, use_cache=True)
    full = tiny.lm(input_ids=inputs).logits
    torch.testing.assert_close(second.logits, full[:, 7:], atol=1e-5, rtol=0)


def test_round_trip(tiny, tmp_path):
    tiny.lm.save_pretrained(tmp_path)
    again = load_lm(tmp_path).state_dict()
    assert again.keys() == tiny.lm.state_dict().keys()
    assert all(torch.equal(value, again[name]) for name, value in tiny.lm.state_dict().items())
    assert not any("vqmodel" in name for name in again)


def test_a_checkpoint_with_the_image_tokenizer_loads(tiny, library, tmp_path):
    library.save_pretrained(tmp_path)
    assert any(key.startswith("model.vqmodel.") for key in load_file(tmp_path / "model.safetensors"))
    model, report = ChameleonLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in tiny.lm.state_dict().items())


@torch.inference_mode()
def test_eager_and_sdpa_attention_agree(tiny, tiny_folder, inputs):
    eager = load_lm(tiny_folder, attention="eager")
    assert eager.config._attn_implementation == "eager"
    torch.testing.assert_close(eager(input_ids=inputs).logits, tiny.lm(input_ids=inputs).logits, atol=1e-4, rtol=0)


def test_an_adapter_folder_loads_merged(tiny, tiny_folder, tmp_path, inputs):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = ["q_proj", "down_proj"]
    adapted = get_peft_model(load_lm(tiny_folder), LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    adapted.eval().save_pretrained(str(tmp_path))
    assert not (tmp_path / "model.safetensors").exists()
    loaded = load_lm(tmp_path).eval()
    assert type(loaded) is ChameleonLM
    with torch.inference_mode():
        logits = loaded(input_ids=inputs).logits
        torch.testing.assert_close(logits, adapted(input_ids=inputs).logits, atol=1e-4, rtol=0)
        assert (logits - tiny.lm(input_ids=inputs).logits).abs().max() > 0.1


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_norms_of_one_vector_for_all_heads_load(tiny, tiny_folder, tmp_path, inputs, dtype):
    """Folders from before the library's version 4.44."""
    import shutil

    shutil.copytree(tiny_folder, tmp_path / "old")
    weights = load_file(tmp_path / "old/model.safetensors")
    names = [key for key in weights if "_norm." in key and "self_attn" in key]
    assert len(names) == 8  # of two layers: weight and bias of queries and of keys
    torch.manual_seed(0)
    for key in names:
        weights[key] = torch.rand(weights[key].shape[1]) + 0.5
    save_file(weights, tmp_path / "old/model.safetensors", {"format": "pt"})
    loaded = load_lm(tmp_path / "old", dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {getattr(torch, dtype.replace("auto", "float32"))}
    state = loaded.state_dict()
    for key in names:
        heads = torch.stack([weights[key]] * 2).to(state[key].dtype)
        assert torch.equal(state[key], heads)
    others = [key for key in state if key not in names]
    assert all(torch.equal(state[key], tiny.lm.state_dict()[key].to(state[key].dtype)) for key in others)
    assert (loaded(input_ids=inputs).logits - tiny.lm(input_ids=inputs).logits).abs().max() > 0.01
