"""BAGEL's packing and attention rule: laws and refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bagel_model import picture, small_config

from visdyn.models.bagel import (
    BagelConfig,
    Dropout,
    Part,
    TransformConfig,
    conversation_sample,
    edit_sample,
    pack_samples,
    understanding_sample,
)
from visdyn.models.bagel.mask import MODES, attention_mask
from visdyn.models.bagel.samples import ANSWER, IMAGE, QUESTION
from visdyn.models.bagel.transforms import resized_size

SPLIT = st.tuples(st.integers(1, 4), st.sampled_from(MODES))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(SPLIT, min_size=1, max_size=4), min_size=1, max_size=3))
def test_mask_follows_the_rule_token_by_token(samples):
    splits = [split for sample in samples for split in sample]
    lengths, modes = [n for n, _ in splits], [mode for _, mode in splits]
    mask = attention_mask(lengths, modes, [sum(n for n, _ in sample) for sample in samples])
    tokens = [
        (sample_id, (sample_id, split_id), mode)
        for sample_id, sample in enumerate(samples)
        for split_id, (n, mode) in enumerate(sample)
        for _ in range(n)
    ]
    for q, (q_sample, q_split, _) in enumerate(tokens):
        for k, (k_sample, k_split, k_mode) in enumerate(tokens):
            seen = q_sample == k_sample and (k <= q or (q_split == k_split and k_mode != "causal"))
            seen = seen and not (k_mode == "noise" and q_split != k_split)
            assert bool(mask[q, k]) == seen


def test_mask_refuses_what_does_not_add_up():
    with pytest.raises(ValueError, match="splits cover 3 tokens"):
        attention_mask([3], ["full"], [4])
    with pytest.raises(ValueError, match="unknown split modes"):
        attention_mask([3], ["prefix"], [3])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_resized_sides_are_multiples_of_the_stride_within_limits(width, height):
    limits = small_config().transforms["vae"]
    size = resized_size(width, height, limits)
    assert all(side % limits.image_stride == 0 and limits.image_stride <= side for side in size)
    assert max(size) <= limits.max_image_size


def edit():
    return edit_sample([picture(24, 16), picture(24, 16, 1)], [[7, 8, 9]], small_config())


def test_positions_of_an_edit():
    pack = pack_samples([edit()], small_config(), timestep_draws=[0.0])
    latents, patches = 24, pack.vit_lengths[0]
    expected = [0] * (latents + 2) + [1] * (patches + 2) + [2, 3, 4, 5, 6] + [7] * (latents + 2)
    assert pack.position_ids.tolist() == expected
    assert pack.split_modes == ["full", "full", "causal", "noise"]


def test_dropped_image_keeps_a_position_and_dropped_text_none():
    pack = pack_samples(
        [edit()], small_config(), Dropout(0.5, 0.5, 0.5), dropout_draws=[0.1, 0.1, 0.1], timestep_draws=[0.0]
    )
    assert pack.position_ids.unique().tolist() == [2]
    assert len(pack.vit_index) == 0
    assert pack.images.shape[0] == 1


def test_generator_fixes_the_draws():
    packs = [
        pack_samples([edit()] * 8, small_config(), Dropout(0.5, 0.5, 0.5), generator=torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    ]
    assert packs[0].split_lengths == packs[1].split_lengths
    assert torch.equal(packs[0].raw_timesteps, packs[1].raw_timesteps)
    assert packs[0].split_lengths != packs[2].split_lengths


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ([], {}, "the pack is empty"),
        ([Part("text", [99])], {}, "token id 99 is outside"),
        ([Part("sound", [1])], {}, "part kind 'sound'"),
        ([Part("vae", torch.zeros(3, 18, 16), loss=True)], {}, "no multiple of 4"),
        ([Part("vae", torch.zeros(3, 64, 16), loss=True)], {}, "position table of side 8"),
        ([Part("vae", torch.zeros(3, 16, 16), loss=True)], {"timestep_draws": []}, "more than the 0 timestep draws"),
        ([Part("text", [7])], {"dropout_draws": [0.3]}, "1 dropout draws were given"),
    ],
)
def test_refusals(parts, options, message):
    with pytest.raises(ValueError, match=message):
        pack_samples([parts], small_config(), **options)


def test_edit_sample_needs_one_instruction_per_step():
    with pytest.raises(ValueError, match="2 images need 1 instructions"):
        edit_sample([picture(8, 8), picture(8, 8)], [], small_config())


def test_a_conversation_of_two_rounds_is_packed_as_upstream_packs_it():
    """Upstream's rule for understanding data: every image and text a split of its own, in order; only answers count.

    An image and its two markers share one rotary position; a text has its markers, and predicts its own end.
    """
    config = small_config()
    bos, eos, start, end = 1, 2, 3, 4
    turns = [(IMAGE, picture(28, 28)), (QUESTION, [10, 11]), (ANSWER, [12]), (IMAGE, picture(28, 28, 1))]
    turns += [(QUESTION, [13]), (ANSWER, [14, 15])]
    pack = pack_samples([conversation_sample(turns, config)], config)
    first, second = pack.vit_lengths
    assert pack.split_lengths == [first + 2, 4, 3, second + 2, 3, 4]
    assert pack.split_modes == ["full", "causal", "causal", "full", "causal", "causal"]
    expected = [start, end, bos, 10, 11, eos, bos, 12, eos, start, end, bos, 13, eos, bos, 14, 15, eos]
    assert pack.text_ids.tolist() == expected
    places = [0] * (first + 2) + [1, 2, 3, 4, 5, 6, 7] + [8] * (second + 2) + [9, 10, 11, 12, 13, 14, 15]
    assert pack.position_ids.tolist() == places
    # The begin marker and each token of an answer predict the next one, the last its end; 1 / sqrt(length) each.
    one, two = first + 2 + 4, first + 2 + 4 + 3 + second + 2 + 3
    assert pack.ce_index.tolist() == [one, one + 1, two, two + 1, two + 2]
    assert pack.ce_labels.tolist() == [12, eos, 14, 15, eos]
    assert pack.ce_weights.tolist() == pytest.approx([2**-0.5] * 2 + [3**-0.5] * 3)
    # The second round sees the first; nothing sees what comes after it but the patches of one image.
    mask = pack.attention_mask()
    assert mask[two, : two + 1].all()
    assert not mask[one, one + 1 :].any()
    assert mask[0, : first + 2].all()
    assert pack.images is None


def test_one_round_is_an_understanding_sample():
    config, image = small_config(), picture(30, 20)
    single = understanding_sample(image, [5], [6, 7], config)
    again = conversation_sample([(IMAGE, image), (QUESTION, [5]), (ANSWER, [6, 7])], config)
    assert [(part.kind, part.loss, part.droppable) for part in single] == [
        ("vit", False, False),
        ("text", False, False),
        ("text", True, False),
    ]
    assert [part.loss for part in again] == [part.loss for part in single]
    assert torch.equal(again[0].content, single[0].content)


def test_training_edits_are_seen_at_their_own_size():
    """The paper's appendix A and upstream's training data: 518; inference, here as in the authors' script: 980."""
    config = BagelConfig()
    assert config.edit_vit == TransformConfig(518, 224, 14)
    assert resized_size(456, 256, config.edit_vit) == (462, 252)
    assert resized_size(910, 518, config.edit_vit) == (518, 294)
    assert config.transforms["vit"].max_image_size == 980
    seen = [part for part in edit_sample([picture(910, 518)] * 2, [[1]], config) if part.kind == "vit"]
    assert [tuple(part.content.shape) for part in seen] == [(3, 294, 518)]
    assert small_config().edit_vit == small_config().transforms["vit"]  # a configuration that says nothing of edits
    assert BagelConfig.from_dict(config.to_dict()) == config
