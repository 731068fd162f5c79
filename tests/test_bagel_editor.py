"""BAGEL behind the editor protocol: against one-by-one generation, its batches, its guidance, its adapters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_bagel_model import picture, small_model
from toy_bagel import words

from visdyn.inference.do_undo import do_and_undo
from visdyn.models.bagel import SamplerSettings, generate_image
from visdyn.models.bagel import context as contexts
from visdyn.models.bagel.text_decoding import continue_text
from visdyn.models.bagel.transforms import resize, to_normalised, transform
from visdyn.models.editors.bagel_editor import BagelEditor, sampler_settings
from visdyn.models.editors.protocol import Guidance
from visdyn.training.bagel.recipe import apply_adapter
from visdyn.trajectory import ReversiblePair

FAST = SamplerSettings(num_timesteps=4)


def editor(vision: bool = True, **options) -> BagelEditor:
    model = small_model(vision)
    model.tokenizer = words()
    return BagelEditor(model, **{"settings": FAST, **options})


def close(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether images agree up to rounding: pixels are truncated, so a rounding error shows as one grey level."""
    return left.shape == right.shape and np.abs(left.astype(int) - right).max() <= 1


@pytest.mark.parametrize("vision", [True, False])
def test_an_item_equals_generation_one_by_one(vision):
    ours = editor(vision)
    # The middle one is larger than the model's images: the ViT, too, must see it resized.
    sources = [picture(24, 16), picture(60, 40, 1), picture(24, 16, 2)]
    prompts = ["open it", "close", "open it close it"]
    images = ours.edit(sources, prompts, [3, 1, 4])
    assert [image.shape for image in images] == [(16, 24, 3), (20, 32, 3), (16, 24, 3)]
    assert images[0].dtype == np.uint8
    for image, source, prompt, seed in zip(images, sources, prompts, [3, 1, 4], strict=True):
        generator = torch.Generator().manual_seed(seed)
        (alone,) = generate_image(ours.model, [source, prompt], settings=FAST, generator=generator)
        assert close(image, np.asarray(alone))


def test_batches_order_and_neighbours_change_nothing_and_seeds_do():
    sources, prompts = [picture(24, 16, i) for i in range(4)], ["open it", "close it it it", "close", "open"]
    together = editor().edit(sources, prompts, [3, 1, 4, 1])
    apart = editor(batch_size=2).edit(sources[::-1], prompts[::-1], [1, 4, 1, 3])[::-1]
    assert all(close(*both) for both in zip(together, apart, strict=True))
    other = editor().edit(sources, prompts, [9, 1, 4, 1])
    assert not close(together[0], other[0])
    assert close(together[1], other[1])


def test_generation_needs_neither_source_nor_prompt():
    ours = editor(image_size=(16, 24))
    source = picture(24, 16)
    images = ours.edit([None, None, source, source], ["open it", None, None, "open it"], [0, 0, 0, 0])
    assert all(image.shape == (16, 24, 3) for image in images)
    assert len({image.tobytes() for image in images}) == 4
    options = {"settings": FAST, "generator": torch.Generator().manual_seed(0)}
    (alone,) = generate_image(ours.model, ["open it"], image_size=(16, 24), **options)
    assert close(images[0], np.asarray(alone))
    with pytest.raises(ValueError, match="set image_size"):
        editor().edit([None], ["open it"], [0])
    with pytest.raises(ValueError, match="no multiple of 4"):
        editor(image_size=(16, 25)).edit([None], ["open it"], [0])
    with pytest.raises(ValueError, match="must be as many"):
        ours.edit([None], ["open it"], [0, 1])


def test_guidance_and_steps_become_sampler_settings():
    assert sampler_settings(None, None) == SamplerSettings()
    assert sampler_settings(6, None).num_timesteps == 7
    mapped = sampler_settings(None, Guidance(3.0, 1.5, 0.2, 0.9, "text_channel", 0.3))
    assert mapped == SamplerSettings(50, 3.0, 3.0, 1.5, (0.2, 0.9), "text_channel", 0.3)
    off = sampler_settings(None, Guidance(), SamplerSettings(num_timesteps=4))
    assert (off.num_timesteps, off.cfg_text_scale, off.cfg_img_scale) == (4, 1.0, 1.0)
    with pytest.raises(ValueError, match="only on top of text guidance"):
        sampler_settings(None, Guidance(text=1.0, image=2.0))
    with pytest.raises(ValueError, match="at least one sampling step, not 0"):
        sampler_settings(0, None)


def test_steps_are_network_evaluations(monkeypatch):
    from visdyn.models.editors import bagel_editor

    traces, sample = [], bagel_editor.sample_latents
    monkeypatch.setattr(bagel_editor, "sample_latents", lambda *a: sample(*a, trace=traces))
    editor().edit([picture(24, 16)], ["open it"], [0], steps=3, guidance=Guidance(2.0, 1.5, low=0.9))
    assert len(traces) == 3
    assert [len(step["branches"]) for step in traces] == [3, 1, 1]


def test_guidance_without_renorm_is_the_bare_formula(monkeypatch):
    from visdyn.models.editors import bagel_editor

    traces, sample = [], bagel_editor.sample_latents
    monkeypatch.setattr(bagel_editor, "sample_latents", lambda *a: sample(*a, trace=traces))
    editor().edit([picture(24, 16)], ["open it"], [0], steps=1, guidance=Guidance(5.0, 3.0, renorm="none"))
    full, no_text, no_image = (traces[0]["branches"][name] for name in ("gen", "cfg_text", "cfg_img"))
    text = no_text + 5 * (full - no_text)
    torch.testing.assert_close(traces[0]["velocity"], no_image + 3 * (text - no_image))
    assert traces[0]["velocity"].norm() > full.norm()


def test_doing_and_undoing_with_a_bagel():
    texts = ("open it it", "close it it", "open it", "close it")
    pairs = [
        ReversiblePair(picture(24, 16, i), picture(24, 16, i + 5), *texts, "open it", "open", "it", f"p{i}")
        for i in (0, 1)
    ]
    done, undone = do_and_undo(editor(), pairs, reverse_from="generated")
    assert done.shape == undone.shape == (2, 16, 24, 3)
    again, other = do_and_undo(editor(), pairs, reverse_from="gt")
    assert close(done, again)
    assert not close(undone, other)


def test_loading_melts_an_adapter_in(tmp_path):
    model = small_model()
    model.tokenizer = words()
    model.save_pretrained(tmp_path / "base")
    adapted = apply_adapter(model, "lora", {"r": 2})
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.2)
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    (own,) = BagelEditor(adapted.get_base_model(), settings=FAST).edit([picture(24, 16)], ["open it"], [0])
    base = BagelEditor.from_pretrained(tmp_path / "base", settings=FAST)
    melted = BagelEditor.from_pretrained(tmp_path / "base", tmp_path / "adapter", settings=FAST, batch_size=2)
    assert melted.batch_size == 2
    assert not any("lora" in name for name in melted.model.state_dict())
    assert close(melted.edit([picture(24, 16)], ["open it"], [0])[0], own)
    assert not close(base.edit([picture(24, 16)], ["open it"], [0])[0], own)


def test_think_mode_puts_the_prompt_first_and_shows_the_plan_to_one_branch_only(monkeypatch):
    """The facts: a system prompt first in the full and the image-free branch, the plan appended to the full one."""
    ours = editor(think="close it", most_thoughts=4)
    model = ours.model
    image = resize(picture(24, 16), model.config.transforms["vae"])
    branches = ours._read_inputs([image], ["open it"])
    first = contexts.add_text(model, contexts.new_context(model), model.encode_text("close it"))
    seen = contexts.add_vae_image(model, first, model.vae.encode(to_normalised(image).unsqueeze(0)))
    seen = contexts.add_vit_image(model, seen, transform(image, model.config.transforms["vit"]).unsqueeze(0))
    told = contexts.add_text(model, seen, model.encode_text("open it"))
    plan = continue_text(model, told, 4)
    assert len(plan.ids) > 0
    expected = {
        "gen": contexts.add_text(model, told, plan.ids),
        "cfg_text": seen,
        "cfg_img": contexts.add_text(model, first, model.encode_text("open it")),
    }
    for name, context in expected.items():
        own = getattr(branches, name)
        torch.testing.assert_close(own.position, context.position)
        for left, right in zip(own.layers, context.layers, strict=True):
            torch.testing.assert_close(left.keys, right.keys, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(left.values, right.values, atol=1e-5, rtol=1e-5)


def test_plans_are_kept_and_change_the_image_whatever_the_batch():
    sources, prompts = [picture(24, 16), picture(24, 16, 1)], ["open it", "close"]
    thinking = editor(think=True, most_thoughts=4)
    images = thinking.edit(sources, prompts, [0, 1])
    assert set(thinking.thoughts) == {0, 1}
    assert all(isinstance(plan, str) for plan in thinking.thoughts.values())
    plain = editor().edit(sources, prompts, [0, 1])
    assert not any(close(*both) for both in zip(images, plain, strict=True))
    assert close(thinking.edit(sources[1:], prompts[1:], [1])[0], images[1])


def test_as_many_items_go_together_as_their_tokens_allow(monkeypatch):
    from visdyn.models.editors import bagel_editor

    ours = editor(batch_size=None)
    assert ours._choose_batch_size(picture(24, 16)) == 64
    monkeypatch.setattr(bagel_editor, "MOST_TOKENS", 48)
    assert ours._choose_batch_size(picture(24, 16)) == 2
    assert ours._choose_batch_size(picture(60, 40)) == 1
    assert editor(batch_size=5)._choose_batch_size(picture(60, 40)) == 5


def test_latents_that_are_no_numbers_are_no_black_image():
    ours = editor()
    assert ours.edit([picture(24, 16)], ["open it"], [3])[0].any()
    with torch.no_grad():
        ours.model.llm2vae.weight.fill_(torch.nan)
    with pytest.warns(UserWarning, match="2 of 2 edits are NaN or infinite; there is no image of them"):
        assert ours.edit([picture(24, 16)] * 2, ["open it"] * 2, [3, 4]) == [None, None]
    assert ours.unmeasured == 2
    assert generate_image(ours.model, [picture(24, 16), "open it"], settings=FAST) == [None]
