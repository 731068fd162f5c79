"""Liquid: a Gemma whose vocabulary continues with image codes, its sequences, its padding and its two roles."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from plain_forwards import plain_tokens
from tiny_tokens import NUM_CODES, tiny_liquid
from transformers import AutoTokenizer, GemmaForCausalLM

from visdyn.models.protocols import ForwardDynamics, InverseDynamics
from visdyn.models.token.decoding import uniforms
from visdyn.models.token.liquid import LiquidModel, LiquidSequenceBuilder, liquid_layout, load_lm, tiny_config
from visdyn.models.token.unified import TokenForwardDynamics
from visdyn.models.vqgan.preprocess import pad, to_pixels

EDITING = "editing the given image according to the following prompt :"
INFER = "infer the action between the two consecutive images ."
ACTIONS = ["open the cup", "close the red cup", "take lamp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved tiny Liquid: 2 layers of width 32, 16 codes, 16 x 16 pixels to 4 x 4 codes."""
    path = tmp_path_factory.mktemp("models") / "liquid"
    tiny_liquid().save(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return LiquidModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def images():
    """Six images of different shapes."""
    draw, sizes = np.random.default_rng(0), [(16, 16), (20, 12), (10, 30), (32, 32), (9, 8), (16, 24)]
    return [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_the_layout_is_the_public_one(model):
    tokenizer, layout = model.builder.tokenizer, model.layout
    assert [layout.pad, layout.eos, layout.bos] == [0, 1, 2]
    assert tokenizer.convert_tokens_to_ids(["<boi>", "<eoi>", "<unconditional>"]) == [7, 8, 9]
    assert (layout.begin_of_image, layout.end_of_image) == (7, 8)
    assert (layout.image_offset, layout.num_image_codes) == (len(tokenizer), NUM_CODES)
    assert model.lm.lm_head.weight.shape[0] == len(tokenizer) + NUM_CODES
    assert model.lm.lm_head.weight is model.lm.model.embed_tokens.weight


def test_forward_sequence_token_by_token(model, grids):
    layout, builder = model.layout, model.builder
    weights = np.arange(16, dtype=np.float32) / 8
    item = builder.forward(grids[0], "open the cup", grids[1], weights)
    source, target = (len(builder.tokenizer) + grids[row].reshape(-1) for row in (0, 1))
    words = ["\n", *EDITING.split(), "open", "the", "cup"]
    text = builder.tokenizer.convert_tokens_to_ids(words)
    assert item.prompt.tolist() == [layout.bos, 7, *source, 8, *text]
    assert item.completion.tolist() == [7, *target, 8, layout.eos]
    assert item.weights.tolist() == [0, *weights.tolist(), 1, 1]
    assert builder.forward(grids[0], "open {the} {action}", grids[1]).weights.tolist() == [0] + [1] * 18


def test_inverse_sequence_token_by_token(model, grids):
    layout, builder = model.layout, model.builder
    item = builder.inverse(grids[0], grids[1], "close the cup")
    source, target = (layout.image_offset + grids[row].reshape(-1) for row in (0, 1))
    ids = builder.tokenizer.convert_tokens_to_ids
    question = ["\n", *INFER.split(), "<end_of_turn>", "\n"]
    opening, closing = ["<start_of_turn>", "user", "\n"], [*question, "<start_of_turn>", "model", "\n"]
    expected = [layout.bos, *ids(opening), 7, *source, 8, 7, *target, 8, *ids(closing)]
    assert item.prompt.tolist() == expected
    assert item.completion.tolist() == [*ids(["close", "the", "cup"]), layout.eos]


def test_images_are_padded_not_stretched(model, images):
    codes = model.encode(images, batch_size=4)
    assert codes.shape == (6, 4, 4)
    squares = [pad(image, 16) for image in images]
    assert np.array_equal(codes, model.vqgan.encode(to_pixels(squares)).numpy())
    assert np.array_equal(model.encode(images[1:2])[0], codes[1])


def test_action_scores_equal_plain_forwards(model, images):
    scores = model.inverse_dynamics.score(images[:3], images[3:], ACTIONS)
    assert scores.num_tokens.tolist() == [3, 4, 2]
    codes = model.encode(images)
    for row, action in enumerate(ACTIONS):
        values = plain_tokens(model, model.builder.inverse(codes[row], codes[row + 3], action), slice(0, -1))
        torch.testing.assert_close(scores.mean[row], values.mean(), atol=1e-4, rtol=0)
    swapped = model.inverse_dynamics.log_likelihood(images[3:], images[:3], ACTIONS)
    assert ((swapped - scores.mean).abs() > 1e-3).all()


def test_image_scores_are_definition_d1(model, images):
    """Mean over the target's codes alone, renormalised over the image vocabulary."""
    scores = model.forward_dynamics.score(images[:3], ACTIONS, images[3:])
    assert scores.num_tokens.tolist() == [16] * 3
    codes, layout = model.encode(images), model.layout
    block = slice(layout.image_offset, layout.image_offset + NUM_CODES)
    for row, action in enumerate(ACTIONS):
        values = plain_tokens(model, model.builder.forward(codes[row], action, codes[row + 3]), slice(1, -2), block)
        torch.testing.assert_close(scores.mean[row], values.mean(), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_greedy_samples_equal_decoding_without_a_cache(model, grids):
    role = TokenForwardDynamics(model, temperature=0)
    codes = role.sample_codes(grids[:2], ACTIONS[:2], uniforms(2, 16, None)[:, None])
    offset = model.layout.image_offset
    for row in range(2):
        ids = [*model.builder.forward_prompt(grids[row], ACTIONS[row]), model.layout.begin_of_image]
        for _ in range(16):
            ids.append(int(model.lm(input_ids=torch.tensor([ids])).logits[0, -1, offset:].argmax()) + offset)
        assert codes[row, 0].reshape(-1).tolist() == [value - offset for value in ids[-16:]]


def test_samples_follow_the_generator_and_lose_their_bars(model, images):
    role = model.forward_dynamics
    first, again, other = (
        role.sample(images[1], "open the cup", 2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert [image.shape for image in first] == [(16, 8, 3)] * 2  # of 20 x 12: 9.6 columns, whole ones kept
    assert first[0].dtype == np.uint8
    assert all(np.array_equal(left, right) for left, right in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert isinstance(role, ForwardDynamics)


def test_predictions_are_words_in_any_batch(model, images):
    role = model.inverse_dynamics
    predictions = role.predict(images[:3], images[3:])
    assert isinstance(role, InverseDynamics)
    assert predictions[1:2] == role.predict(images[1:2], images[4:5])
    assert all(set(text.split()) <= set(model.builder.tokenizer.get_vocab()) for text in predictions)


def test_round_trip_keeps_prompts(model, images, tmp_path):
    builder = LiquidSequenceBuilder(model.builder.tokenizer, model.layout, "take {action}", "close")
    changed = LiquidModel(model.lm, builder, model.vqgan)
    changed.save(tmp_path / "again")
    again = LiquidModel.from_pretrained(tmp_path / "again")
    assert (again.name, again.builder.fdm_prompt, again.builder.idm_prompt) == ("again", "take {action}", "close")
    assert again.layout == model.layout
    arguments = (images[:3], ACTIONS, images[3:])
    torch.testing.assert_close(
        again.forward_dynamics.log_likelihood(*arguments), changed.forward_dynamics.log_likelihood(*arguments)
    )


def test_an_adapter_folder_loads_merged(model, folder, grids, tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(load_lm(folder), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    tuned = LiquidModel(adapted.eval(), model.builder, model.vqgan)
    tuned.save(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    loaded = LiquidModel.from_pretrained(tmp_path)
    assert type(loaded.lm) is GemmaForCausalLM
    inputs = torch.tensor([loaded.builder.inverse_prompt(grids[0], grids[1])])
    with torch.inference_mode():
        logits = loaded.lm(input_ids=inputs).logits
        torch.testing.assert_close(logits, adapted(input_ids=inputs).logits, atol=1e-4, rtol=0)
        assert (logits - model.lm(input_ids=inputs).logits).abs().max() > 0.1


def test_the_training_loss_is_the_weighted_mean(model, grids):
    from visdyn.models.token.sequences import collate
    from visdyn.training.dynamics import CompletionLoss

    weights = np.linspace(0.1, 2, 16, dtype=np.float32)
    items = [model.builder.forward(grids[row], ACTIONS[row], grids[row + 3], weights) for row in range(3)]
    with torch.inference_mode():
        loss = CompletionLoss(model.lm)(**collate(items, model.layout.pad))["loss"]
    nll = torch.stack([-plain_tokens(model, item, slice(None)) for item in items])
    every = torch.tensor(np.stack([item.weights for item in items]))
    torch.testing.assert_close(loss, (nll * every).sum() / every.sum(), atol=1e-5, rtol=0)


def test_a_missing_vqgan_is_named(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("vqgan"))
    with pytest.raises(FileNotFoundError, match=r"no VQGAN at .*bare/vqgan for the Liquid model .*name their folder"):
        LiquidModel.from_pretrained(tmp_path / "bare")
    elsewhere = LiquidModel.from_pretrained(tmp_path / "bare", vqgan=folder / "vqgan")
    assert elsewhere.vqgan.config.n_embed == NUM_CODES


def test_a_vocabulary_without_the_codes_is_refused(folder, model, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "plain")
    layout = liquid_layout(model.builder.tokenizer, 0)
    GemmaForCausalLM(tiny_config(layout, 32, 2, 2)).save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"plain has (\d+) vocabulary rows, but its tokenizer names \1 and"):
        LiquidModel.from_pretrained(tmp_path / "plain")


def test_another_tokenizer_is_refused(tiny):
    with pytest.raises(ValueError, match="lacks <bos>, <eos>, <boi>, <eoi>, <end_of_turn>: it is not that of a Liquid"):
        liquid_layout(tiny.builder.tokenizer, NUM_CODES)


def test_the_saved_tokenizer_keeps_newlines_and_turns(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode("<start_of_turn>user\nOpen  the cup<end_of_turn>\n", add_special_tokens=False)
    names = ["<start_of_turn>", "user", "\n", "open", "the", "cup", "<end_of_turn>", "\n"]
    assert tokenizer.convert_ids_to_tokens(ids) == names
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gemma"
