"""Sampling, guidance, and doing and undoing, with stub networks whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from visdyn.inference.editing import Guidance, LatentEditor, do_and_undo, guide, item_seed, sample_latents
from visdyn.models.flow_editor import FlowEditor, FlowEditorConfig
from visdyn.models.flow_text import build_tokenizer
from visdyn.trajectory import ReversiblePair


class Unshuffle(nn.Module):
    """A lossless autoencoder: 4x4 pixel blocks become 48 channels."""

    def encode_latents(self, pixels):
        return nn.functional.pixel_unshuffle(pixels, 4)

    def decode_latents(self, latents):
        return nn.functional.pixel_shuffle(latents, 4)


class Recorder:
    """An editor that inverts its source and remembers what it was asked."""

    def __init__(self):
        self.calls = []

    def edit(self, sources, prompts, seeds, steps=None, guidance=None):
        self.calls.append((list(sources), list(prompts), list(seeds)))
        return [255 - np.asarray(source) for source in sources]


def random_editor(batch_size: int = 32) -> LatentEditor:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["open the red drawer", "close it"], slots=6)
    sizes = {"latent_channels": 48, "latent_size": 4, "hidden_size": 32, "num_layers": 2, "text_slots": 6}
    model = FlowEditor(FlowEditorConfig(vocab_size=len(tokenizer), **sizes))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return LatentEditor(model, tokenizer, Unshuffle(), batch_size)


def images(n: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8))


def pair(name: str) -> ReversiblePair:
    first, second = images(2, len(name))
    texts = (f"long do {name}", f"long undo {name}", f"do {name}", f"undo {name}")
    return ReversiblePair(first, second, *texts, "do", "do", name, name)


class TrueVelocity(nn.Module):
    """Knows the data: its velocity leads straight from the noise to `clean`."""

    def __init__(self, clean):
        super().__init__()
        self.clean, self.times, self.kinds = clean, [], []

    def forward(self, noisy, timesteps, text_ids, source, has_source):
        self.times.append(timesteps[0].item())
        self.kinds.append((bool((text_ids == 2).any()), bool(has_source.all())))
        return (noisy - self.clean) / timesteps.view(-1, 1, 1, 1)

    @staticmethod
    def no_text(text_ids):
        return torch.full_like(text_ids, 2)


def stub_inputs():
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    return clean, noise, torch.full((2, 5), 7), torch.zeros(2, 3, 4, 4), torch.ones(2, dtype=torch.bool)


@pytest.mark.parametrize("steps", [1, 5])
def test_euler_steps_reach_the_data_with_as_many_evaluations(steps):
    clean, noise, *conditions = stub_inputs()
    model = TrueVelocity(clean)
    torch.testing.assert_close(sample_latents(model, noise, *conditions, steps=steps), clean, atol=1e-5, rtol=0)
    assert model.times == pytest.approx(np.linspace(1, 0, steps + 1)[:-1])
    with pytest.raises(ValueError, match="at least one"):
        sample_latents(model, noise, *conditions, steps=0)


def test_guidance_costs_a_pass_per_branch_and_only_inside_its_interval():
    clean, noise, *conditions = stub_inputs()
    model = TrueVelocity(clean)
    sample_latents(model, noise, *conditions, steps=4, guidance=Guidance(text=2.0, image=1.5, low=0.4, high=0.8))
    full, no_text, no_image = (False, True), (True, True), (False, False)
    assert model.kinds == [full, full, no_text, no_image, full, no_text, no_image, full]


def test_guidance_formula_and_renorm():
    full, no_text, no_image = (torch.randn(2, 3, 4, 4) for _ in range(3))
    raw = guide(full, no_text, no_image, Guidance(4.0, 2.0, renorm="none"))
    text = no_text + 4 * (full - no_text)
    torch.testing.assert_close(raw, no_image + 2 * (text - no_image))
    whole = guide(full, no_text, no_image, Guidance(4.0, 2.0))
    factor = (full.flatten(1).norm(dim=1) / raw.flatten(1).norm(dim=1)).clamp(max=1)
    torch.testing.assert_close(whole, raw * factor.view(-1, 1, 1, 1))
    each = guide(full, no_text, no_image, Guidance(4.0, 2.0, renorm="channel", renorm_min=0.5))
    torch.testing.assert_close(each, raw * (full.norm(dim=1) / raw.norm(dim=1)).clamp(0.5, 1)[:, None])
    first = guide(full, no_text, None, Guidance(4.0, renorm="text_channel"))
    assert (first.norm(dim=1) <= full.norm(dim=1) + 1e-4).all()
    with pytest.raises(ValueError, match="text_channel"):
        Guidance(renorm="nope")


def test_an_item_does_not_depend_on_its_batch():
    sources, prompts, seeds = images(5), ["open the red drawer", "close it", None, "close", "the red"], [3, 1, 4, 1, 5]
    together = random_editor().edit(sources, prompts, seeds, steps=3)
    apart = random_editor(batch_size=2).edit(sources[::-1], prompts[::-1], seeds[::-1], steps=3)[::-1]
    for left, right in zip(together, apart, strict=True):
        assert np.abs(left.astype(int) - right).max() <= 1
    other = random_editor().edit(sources, prompts, [9] * 5, steps=3)
    assert np.abs(together[0].astype(int) - other[0]).max() > 1


def test_generation_needs_neither_source_nor_text():
    editor = random_editor()
    from_text, from_nothing, edited = editor.edit(
        [None, None, images(1)[0]], ["close it", None, "close it"], [0, 0, 0], steps=2
    )
    assert from_text.shape == (16, 16, 3)
    assert from_text.dtype == np.uint8
    assert not np.array_equal(from_text, from_nothing)
    assert not np.array_equal(from_text, edited)
    with pytest.raises(ValueError, match="as many"):
        editor.edit([None], ["close it"], [0, 1])


def test_reverse_starts_from_the_true_end_or_from_the_edit():
    pairs = [pair("a"), pair("bb")]
    recorder = Recorder()
    done, undone = do_and_undo(recorder, pairs, "long", "gt")
    assert recorder.calls[0][1] == ["long do a", "long do bb"]
    assert recorder.calls[1][1] == ["long undo a", "long undo bb"]
    np.testing.assert_array_equal(done, 255 - np.stack([item.start for item in pairs]))
    np.testing.assert_array_equal(undone, 255 - np.stack([item.end for item in pairs]))
    again, chained = do_and_undo(recorder, pairs, "short", "generated")
    assert recorder.calls[3][1] == ["undo a", "undo bb"]
    np.testing.assert_array_equal(again, done)
    np.testing.assert_array_equal(chained, np.stack([item.start for item in pairs]))


def test_noise_follows_run_seed_item_and_direction_only():
    pairs = [pair("a"), pair("bb")]
    recorder = Recorder()
    do_and_undo(recorder, pairs, "long", "gt", seed=1)
    do_and_undo(recorder, pairs[::-1], "short", "generated", seed=1)
    do_and_undo(recorder, pairs, "long", "gt", seed=2)
    first, undo, reordered, _, other, _ = (seeds for _, _, seeds in recorder.calls)
    assert first == reordered[::-1]
    assert len({*first, *undo, *other}) == 6
    assert item_seed(1, "a") != item_seed(1, "b")


def test_do_and_undo_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="gt, generated"):
        do_and_undo(Recorder(), [pair("a")], reverse_from="truth")
    with pytest.raises(ValueError, match="long, short"):
        do_and_undo(Recorder(), [pair("a")], prompt_length="medium")
    with pytest.raises(ValueError, match="same id"):
        do_and_undo(Recorder(), [pair("a"), pair("a")])
