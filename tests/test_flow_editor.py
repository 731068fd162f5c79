"""The small rectified-flow editor: its network, tokenizer, training objectives and recipes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from visdyn.inference.editing import LatentEditor
from visdyn.models.autoencoder import LatentAutoencoder, tiny_autoencoder
from visdyn.models.flow_checkpoints import load_flow_editor, save_flow_editor
from visdyn.models.flow_editor import FlowEditor, FlowEditorConfig
from visdyn.models.flow_text import build_tokenizer, encode_texts
from visdyn.training.flow_editor import FramesAndPairs, save_pairs, train_base_generator, train_doundo
from visdyn.training.flow_losses import predict_clean
from visdyn.training.flow_objectives import Consistency, DoUndoObjective, Noising
from visdyn.trajectory import ReversiblePair

SMALL = {"hidden_size": 32, "num_layers": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def autoencoder():
    """An untrained one is good enough: 16 x 16 pixels become 4 channels of 2 x 2."""
    torch.manual_seed(0)
    return LatentAutoencoder(tiny_autoencoder(latent_channels=4, widths=(16, 16), patch=4).requires_grad_(False).eval())


def small_editor(seed: int = 0) -> FlowEditor:
    """An editor whose every weight is drawn, so that nothing is hidden behind a zero initialisation."""
    torch.manual_seed(seed)
    editor = FlowEditor(
        FlowEditorConfig(latent_channels=3, latent_size=4, vocab_size=20, text_slots=12, **SMALL)
    ).eval()
    for parameter in editor.parameters():
        nn.init.normal_(parameter, std=0.2)
    return editor


def inputs(n: int = 2):
    torch.manual_seed(1)
    ids = torch.zeros(n, 12, dtype=torch.long)
    ids[:, :3] = torch.tensor([4, 5, 6])
    return torch.randn(n, 3, 4, 4), torch.rand(n), ids, torch.randn(n, 3, 4, 4), torch.ones(n, dtype=torch.bool)


def test_a_new_editor_predicts_zero_velocity_and_every_weight_can_learn():
    editor = FlowEditor(FlowEditorConfig(latent_channels=3, latent_size=4, vocab_size=20, **SMALL))
    velocity = editor(*inputs())
    assert velocity.dtype == torch.float32
    assert not velocity.any()
    noisy, timesteps, ids, source, _ = inputs()
    learning = small_editor().train()
    learning(noisy, timesteps, ids, source, torch.tensor([True, False])).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in learning.parameters())


def test_padding_and_the_other_texts_of_a_batch_change_nothing():
    editor = small_editor()
    noisy, timesteps, ids, source, given = inputs()
    alone = editor(noisy[:1], timesteps[:1], ids[:1, :3], source[:1], given[:1])
    ids[1] = torch.arange(3, 15)  # a text that fills all slots
    both = editor(noisy, timesteps, ids, source, given)
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=1e-5)
    ids[0, 2] = 7
    assert (editor(noisy, timesteps, ids, source, given)[0] - both[0]).abs().max() > 1e-3


def test_word_order_and_time_matter():
    editor = small_editor()
    noisy, timesteps, ids, source, given = inputs()
    velocity = editor(noisy, timesteps, ids, source, given)
    assert (editor(noisy, timesteps, ids[:, [1, 0, 2]], source, given) - velocity).abs().max() > 1e-3
    assert (editor(noisy, timesteps / 2, ids, source, given) - velocity).abs().max() > 1e-3


def test_without_a_source_its_content_is_ignored():
    editor = small_editor()
    noisy, timesteps, ids, source, given = inputs()
    without = editor(noisy, timesteps, ids, source, ~given)
    torch.testing.assert_close(without, editor(noisy, timesteps, ids, source * 5, ~given))
    assert (without - editor(noisy, timesteps, ids, source, given)).abs().max() > 1e-3
    constant = editor.null_source.expand(2, -1, 4, 4)
    torch.testing.assert_close(without, editor(noisy, timesteps, ids, constant, given))


def test_attention_equals_the_fused_kernel():
    block = small_editor().blocks[0]
    hidden, text, bias = torch.randn(2, 16, 32), torch.randn(2, 5, 32), torch.zeros(2, 1, 1, 5)
    bias[1, ..., 3:] = -1e4
    split = [part.unflatten(-1, (2, 16)).transpose(1, 2) for part in block.qkv(hidden).chunk(3, -1)]
    more = [part.unflatten(-1, (2, 16)).transpose(1, 2) for part in block.text_kv(text).chunk(2, -1)]
    mask = torch.cat([torch.zeros(2, 1, 1, 16), bias], -1)
    key, value = torch.cat([split[1], more[0]], 2), torch.cat([split[2], more[1]], 2)
    fused = nn.functional.scaled_dot_product_attention(split[0], key, value, attn_mask=mask)
    expected = block.out(fused.transpose(1, 2).flatten(2))
    torch.testing.assert_close(block._attend(hidden, text, bias), expected, atol=1e-5, rtol=1e-5)


def test_tokenizer_reads_words_and_refuses_what_does_not_fit():
    tokenizer = build_tokenizer(["Open the red drawer.", "pick-up the cup"], slots=4)
    ids = encode_texts(tokenizer, ["open RED, drawer!", None, "pick up cup"])
    assert ids.shape == (3, 4)
    assert tokenizer.convert_ids_to_tokens(ids[0].tolist()) == ["open", "red", "drawer", "[pad]"]
    assert ids[1].tolist() == FlowEditor.no_text(ids)[1].tolist()
    with pytest.raises(ValueError, match="5 words, the tokenizer 4 slots"):
        encode_texts(tokenizer, ["open the red the drawer"])
    with pytest.raises(ValueError, match="no word"):
        encode_texts(tokenizer, ["..."])
    with pytest.warns(UserWarning, match="purple"):
        assert encode_texts(tokenizer, ["open purple"])[0, 1] == tokenizer.unk_token_id


def test_a_saved_editor_comes_back_whole(tmp_path, autoencoder):
    editor = small_editor()
    editor.set_statistics(torch.randn(50, 3, 4, 4) * 3 + 2)
    tokenizer = build_tokenizer(["open the red drawer"], slots=12)
    save_flow_editor(tmp_path, editor, tokenizer, autoencoder)
    again, words, _ = load_flow_editor(tmp_path)
    torch.testing.assert_close(again(*inputs()), editor(*inputs()))
    assert torch.equal(encode_texts(words, ["red drawer", None]), encode_texts(tokenizer, ["red drawer", None]))
    latents = torch.randn(4, 3, 4, 4)
    torch.testing.assert_close(again.normalise(latents), editor.normalise(latents))
    torch.testing.assert_close(again.denormalise(again.normalise(latents)), latents)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_flow_editor(tmp_path)


class Recording(nn.Module):
    """Stands for the network: answers a constant velocity times a weight, and remembers its inputs."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.calls = []

    def forward(self, noisy, timesteps, text_ids, source, has_source):
        self.calls.append((noisy, timesteps, text_ids, source, has_source))
        return self.scale * torch.ones_like(noisy) + 0.1 * source


def doundo_step(noising=Noising(), long_share=0.5, **consistency):  # noqa: B008
    torch.manual_seed(5)
    editor = Recording()
    start, end = torch.randn(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    text_ids = torch.arange(3 * 2 * 2 * 6).view(3, 2, 2, 6) + 3
    objective = DoUndoObjective(editor, noising, Consistency(**consistency), long_share, decode=lambda z: 3 * z)
    torch.manual_seed(6)
    return objective(start, end, text_ids), editor, start, end, text_ids


@pytest.mark.parametrize(("long_share", "length"), [(0.0, 0), (1.0, 1)])
def test_each_pair_gives_a_forward_and_a_reverse_sample(long_share, length):
    _, editor, start, end, text_ids = doundo_step(long_share=long_share)
    _, _, prompts, source, has_source = editor.calls[0]
    torch.testing.assert_close(source, torch.cat([start, end]))
    assert torch.equal(prompts, torch.cat([text_ids[:, length, 0], text_ids[:, length, 1]]))
    assert has_source.all()


def test_lambda_adds_a_multiple_of_the_same_measure_and_changes_no_draw():
    measured, *_ = doundo_step(weight=0.0)
    weighted, *_ = doundo_step(weight=0.5)
    pixel, *_ = doundo_step(weight=0.5, space="pixel")
    torch.testing.assert_close(measured["loss"], measured["flow"])
    torch.testing.assert_close(weighted["flow"], measured["flow"])
    torch.testing.assert_close(weighted["consistency"], measured["consistency"])
    torch.testing.assert_close(weighted["loss"], weighted["flow"] + 0.5 * weighted["consistency"])
    torch.testing.assert_close(pixel["consistency"], 3 * measured["consistency"])
    assert not measured["consistency"].requires_grad


@pytest.mark.parametrize("detach", [True, False])
def test_generated_condition_chains_the_forward_prediction(detach):
    outputs, editor, start, _, _ = doundo_step(weight=1.0, condition="generated", detach=detach)
    (noisy, timesteps, prompts, source, _), (again, times, again_prompts, chained, given) = editor.calls
    velocity = editor.scale + 0.1 * source
    torch.testing.assert_close(chained, predict_clean(noisy, velocity, timesteps)[:3])
    for whole, half in ((noisy, again), (timesteps, times), (prompts, again_prompts)):
        assert torch.equal(whole[3:], half)
    assert given.all()
    assert chained.requires_grad is not detach
    expected = (predict_clean(again, editor.scale + 0.1 * chained, times) - start).abs().mean()
    torch.testing.assert_close(outputs["consistency"], expected)


def test_dropped_conditions_are_null():
    _, editor, *_ = doundo_step(Noising(text_dropout=1.0, source_dropout=1.0))
    _, _, prompts, _, has_source = editor.calls[0]
    assert torch.equal(prompts, FlowEditor.no_text(prompts))
    assert not has_source.any()


def test_options_are_checked():
    for wrong in ({"condition": "true"}, {"space": "rgb"}, {"weight": -1.0}):
        with pytest.raises(ValueError, match=str(*wrong.values())):
            Consistency(**wrong)


def test_base_data_alternate_captioned_frames_and_unlabelled_pairs():
    captions = torch.randint(3, 9, (3, 5))
    frames, before, after = (torch.randn(n, 3, 4, 4) for n in (3, 2, 2))
    data = FramesAndPairs(frames, captions, before, after)
    assert len(data) == 6
    text, pair = data[4], data[5]
    assert torch.equal(text["target"], frames[2])
    assert torch.equal(text["text_ids"], captions[2])
    assert not text["has_source"]
    assert torch.equal(pair["source"], before[0])
    assert torch.equal(pair["target"], after[0])
    assert torch.equal(pair["text_ids"], FlowEditor.no_text(captions)[0])


def squares(n: int) -> list[ReversiblePair]:
    """Grey images in which the left half turns white ("open") and back ("close"), or the right half."""
    pairs = []
    for index in range(n):
        start = np.full((16, 16, 3), 90 + 5 * index, np.uint8)
        end, side = start.copy(), ("left", "right")[index % 2]
        end[:, slice(0, 8) if side == "left" else slice(8, 16)] = 250
        texts = (f"please open the {side} door", f"please close the {side} door", f"open {side}", f"close {side}")
        pairs.append(ReversiblePair(start, end, *texts, f"open {side}", "open", side, f"p{index}"))
    return pairs


@pytest.fixture
def world(tmp_path, autoencoder):
    """Files of four pairs, as the stages write them."""
    pairs = squares(4)
    both = np.stack([[pair.start, pair.end] for pair in pairs])
    np.save(tmp_path / "pairs.npy", both)
    np.save(tmp_path / "images.npy", both.reshape(-1, 16, 16, 3))
    captions = "".join(json.dumps({"caption": text}) + "\n" for text in ["a shut door", "an open door"] * 4)
    (tmp_path / "captions.jsonl").write_text(captions)
    save_pairs(tmp_path / "doundo.npz", pairs)
    autoencoder.save_pretrained(tmp_path / "autoencoder")
    return tmp_path


def recipe(steps: int) -> dict:
    return {"steps": steps, "batch_size": 4, "learning_rate": 3e-3, "log_every": 1}


def test_recipes_train_a_base_and_an_editor_that_learns_its_pairs(world):
    names = {"images": "images.npy", "captions": "captions.jsonl", "pairs": "pairs.npy", "autoencoder": "autoencoder"}
    files = {name: str(world / file) for name, file in names.items()}
    own = {"output": str(world / "base"), "scratch": str(world / "scratch"), "sizes": SMALL, "text_slots": 8}
    assert len(train_base_generator(**files, **own, recipe=recipe(3))) == 3
    with pytest.warns(UserWarning, match="please"):
        LatentEditor.from_pretrained(world / "base").edit([None], ["please open the door"], [0], steps=1)
    own = {"base": str(world / "base"), "output": str(world / "doundo"), "scratch": str(world / "scratch")}
    options = {"consistency_weight": 0.5, "condition": "generated", "space": "pixel"}
    history = train_doundo(**own, **options, pairs=str(world / "doundo.npz"), recipe=recipe(60))
    assert list(history.columns) == ["step", "loss", "flow", "consistency"]
    assert history.flow.tail(10).mean() < 0.75 * history.flow.head(10).mean()
    assert len(pd.read_csv(world / "doundo/training.csv")) == 60
    editor = LatentEditor.from_pretrained(world / "doundo")
    assert editor.edit([squares(1)[0].start], ["please open the left door"], [0])[0].shape == (16, 16, 3)
    base, _, _ = load_flow_editor(world / "base")
    assert editor.model.config.vocab_size > base.config.vocab_size
    assert not (world / "scratch").exists()


def test_pairs_without_prompts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no reversible pairs"):
        save_pairs(tmp_path / "none.npz", [])
    with pytest.raises(ValueError, match="p0 lacks a prompt"):
        save_pairs(tmp_path / "bad.npz", [replace(squares(1)[0], reverse_short="")])


def test_new_words_leave_the_old_ones_as_they_are():
    first = build_tokenizer(["open the door"])
    more = build_tokenizer(["a purple cup by the door"], 9, first.get_vocab())
    assert {word: more.get_vocab()[word] for word in first.get_vocab()} == first.get_vocab()
    editor = small_editor()
    velocity = editor(*inputs())
    editor.grow_vocabulary(30)
    torch.testing.assert_close(editor(*inputs()), velocity)
    noisy, timesteps, ids, source, given = inputs()
    assert editor(noisy, timesteps, ids + 25 * (ids == 4), source, given).isfinite().all()
