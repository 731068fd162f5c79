"""Decoding from a draft: the exact distribution, plain loops without a cache, greedy decoding, and what it costs."""

from __future__ import annotations

import inspect
import textwrap
from itertools import product

import numpy as np
import pytest
import torch
from conftest import WORDS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import GemmaConfig, GemmaForCausalLM

from visdyn.models.token import image_decoder
from visdyn.models.token.chameleon import ChameleonLM, load_lm, tiny_config
from visdyn.models.token.decoding import token_probabilities, uniforms
from visdyn.models.token.image_decoder import sample_images, sample_images_from_draft
from visdyn.models.token.speculative import accept_or_redraw
from visdyn.models.token.tokens import IMAGE, TokenLayout, build_tokenizer

ACTIONS = ["open", "close the red cup", "take lamp", "put the cup", "open the blue drawer", "open"]
NUM_SAMPLES = 24_000


@pytest.fixture(autouse=True, params=[0, 1000], ids=["shared", "alone"])
def _sharing(request, monkeypatch):
    """Every test both with a prompt kept once for its samples and with one for each."""
    monkeypatch.setattr(image_decoder, "SHARING_ROWS", request.param)


@pytest.fixture(scope="module")
def prompts(tiny, grids):
    return [tiny.builder.forward_prompt(grids[row], action) for row, action in enumerate(ACTIONS)]


@pytest.fixture(scope="module")
def sources(grids):
    return grids[: len(ACTIONS)].reshape(len(ACTIONS), -1)


@pytest.fixture(scope="module")
def draws():
    return uniforms(len(ACTIONS) * 3, 16, torch.Generator().manual_seed(0)).reshape(len(ACTIONS), 3, 16)


@pytest.fixture(scope="module")
def small():
    """A model with four image codes, few enough to enumerate every image of three."""
    torch.manual_seed(3)
    tokenizer = build_tokenizer(WORDS, 4)
    layout = TokenLayout.of(tokenizer)
    placeholder = tokenizer.convert_tokens_to_ids(IMAGE)
    lm = ChameleonLM(tiny_config(len(tokenizer), layout, placeholder, 16, 32, num_layers=1, num_heads=2)).eval()
    lm.model.embed_tokens.weight.data *= 50  # so that a code depends on those before it
    lm.lm_head.weight.data *= 12
    return lm, layout


PROMPT = [0, 12, 5, 6]
IMAGES = list(product(range(4), repeat=3))


@torch.inference_mode()
def _conditionals(lm, layout, temperature, top_p) -> np.ndarray:
    """Probabilities (64, 3) of each code of every image given the codes before it, from plain forwards."""
    codes = torch.tensor(IMAGES)
    ids = torch.cat([torch.tensor([[*PROMPT, layout.begin_of_image]]).expand(64, -1), codes + layout.image_offset], 1)
    block = slice(layout.image_offset, layout.image_offset + 4)
    logits = lm(input_ids=ids).logits[:, len(PROMPT) : -1, block]
    probabilities = token_probabilities(logits.flatten(0, 1), temperature, top_p).reshape(64, 3, 4)
    return probabilities.double().gather(2, codes[..., None]).squeeze(2).numpy()


def _p_value(lm, layout, draft, temperature, top_p, block) -> float:
    """Chi-square of the sampled images against the joint distribution; an impossible image counts as p = 0."""
    joint = _conditionals(lm, layout, temperature, top_p).prod(1)
    numbers = uniforms(NUM_SAMPLES, 3, torch.Generator().manual_seed(7))[None]
    options = {"temperature": temperature, "top_p": top_p, "block": block, "batch_size": NUM_SAMPLES}
    codes = sample_images_from_draft(lm, layout, [PROMPT], np.array([draft]), numbers, **options).codes[0]
    counts = np.bincount(codes @ [16, 4, 1], minlength=64)
    if counts[joint == 0].any():
        return 0.0
    rare = joint * NUM_SAMPLES < 5
    cells = [np.append(values[~rare], values[rare].sum()) for values in (counts, joint * NUM_SAMPLES)]
    filled = cells[1] > 0
    return chisquare(cells[0][filled], cells[1][filled], sum_check=False).pvalue


def test_the_small_model_is_a_fair_judge(small):
    """Its codes depend on one another, and none is certain: else the test below could not tell rules apart."""
    conditionals = _conditionals(*small, 1.0, 1.0)
    assert conditionals.min() > 1e-3
    assert conditionals.max() < 0.95
    second = conditionals[:, 1].reshape(4, 4, 4)[:, :, 0]
    assert np.ptp(second, axis=0).max() > 0.2


@pytest.mark.parametrize("draft", [(0, 0, 0), (3, 1, 2), (2, 3, 1)])
@pytest.mark.parametrize(("temperature", "top_p", "block"), [(1.0, 1.0, 3), (1.0, 1.0, 2), (0.7, 0.8, 3)])
def test_the_distribution_is_the_models(small, draft, temperature, top_p, block):
    assert _p_value(*small, draft, temperature, top_p, block) > 1e-3


@pytest.mark.parametrize("rule", ["draft stays in the rest", "always accepted", "number used twice"])
def test_wrong_rules_are_caught(small, rule, monkeypatch):
    """The test above fails for the mistakes that such a sampler invites."""
    from visdyn.models.token.decoding import draw

    def wrong(probabilities, drafts, numbers):
        own = probabilities.double().gather(-1, drafts[:, None]).squeeze(1)
        rest = probabilities.scatter(-1, drafts[:, None], 0.0)
        accepted = numbers < own
        left = (numbers - own) / (1 - own)
        if rule == "draft stays in the rest":
            return torch.where(accepted, drafts, draw(probabilities, left.clamp_min(0))), accepted
        if rule == "always accepted":
            return drafts, torch.ones_like(accepted)
        return torch.where(accepted, drafts, draw(rest, numbers)), accepted

    monkeypatch.setattr(image_decoder, "accept_or_redraw", wrong)
    assert _p_value(*small, (3, 1, 2), 1.0, 1.0, 3) < 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=6).filter(any), st.data())
def test_evenly_spread_numbers_give_every_code_its_share(weights, data):
    """No chance here: of M evenly spread numbers a code gets M p, give or take the two ends of its interval."""
    drafted = data.draw(st.integers(0, len(weights) - 1))
    probabilities = torch.tensor(weights).float() / sum(weights)
    numbers = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    rows = probabilities.expand(len(numbers), -1), torch.full((len(numbers),), drafted), numbers
    codes, accepted = accept_or_redraw(*rows)
    counts = torch.bincount(codes, minlength=len(weights))
    assert (counts - 5000 * probabilities).abs().max() <= 2
    assert not counts[probabilities == 0].any()
    assert torch.equal(accepted, codes == drafted)


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_certain_and_impossible_drafts(number):
    numbers = torch.tensor([number], dtype=torch.float64)
    for certain in range(3):
        probabilities = torch.nn.functional.one_hot(torch.tensor([certain]), 3).float()
        for drafted in range(3):
            codes, accepted = accept_or_redraw(probabilities, torch.tensor([drafted]), numbers)
            assert codes.item() == certain
            assert accepted.item() == (certain == drafted)


def test_a_certain_draft_is_accepted_where_its_probability_is_rounded():
    """Else the number would fall into a rest that has no mass."""
    codes, accepted = accept_or_redraw(
        torch.tensor([[1 - 2**-20, 0, 0]]), torch.tensor([0]), torch.tensor([1 - 2**-53], dtype=torch.float64)
    )
    assert codes.item() == 0
    assert accepted.item()


@torch.inference_mode()
def _plain(lm, layout, prompt, draft, numbers, temperature=1.0, top_p=1.0) -> list[int]:
    """Sample one image by the same rule, with a full forward for every code."""
    ids, codes = [*prompt, layout.begin_of_image], []
    block = slice(layout.image_offset, layout.image_offset + layout.num_image_codes)
    for drafted, number in zip(draft.tolist(), numbers, strict=True):
        logits = lm(input_ids=torch.tensor([ids])).logits[:, -1, block]
        code, _ = accept_or_redraw(
            token_probabilities(logits, temperature, top_p), torch.tensor([drafted]), number[None]
        )
        codes.append(int(code))
        ids.append(codes[-1] + layout.image_offset)
    return codes


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.9)])
def test_samples_equal_a_plain_loop_without_cache(tiny, prompts, sources, draws, temperature, top_p):
    found = sample_images_from_draft(tiny.lm, tiny.layout, prompts, sources, draws, temperature, top_p, block=5)
    assert found.codes.shape == (6, 3, 16)
    assert found.codes.dtype == np.int64
    for row, sample in [(0, 0), (1, 2), (3, 0), (5, 1)]:
        settings = tiny.layout, prompts[row], sources[row], draws[row, sample], temperature, top_p
        assert found.codes[row, sample].tolist() == _plain(tiny.lm, *settings)


def test_samples_depend_neither_on_batch_nor_on_block(tiny, prompts, sources, draws):
    arguments = tiny.lm, tiny.layout, prompts, sources, draws
    wanted = sample_images_from_draft(*arguments).codes
    for options in ({"block": 1}, {"block": 2, "batch_size": 4}, {"block": 16, "batch_size": 1}, {"block": 999}):
        assert np.array_equal(sample_images_from_draft(*arguments, **options).codes, wanted)
    alone = sample_images_from_draft(tiny.lm, tiny.layout, prompts[1:2], sources[1:2], draws[1:2, 2:])
    assert np.array_equal(alone.codes[0, 0], wanted[1, 2])
    assert len({tuple(row) for row in wanted.reshape(-1, 16).tolist()}) == 18


@pytest.mark.parametrize("block", [1, 3, 16])
def test_greedy_equals_greedy_decoding(tiny, prompts, sources, draws, block):
    greedy = sample_images(tiny.lm, tiny.layout, prompts, draws, temperature=0)
    found = sample_images_from_draft(tiny.lm, tiny.layout, prompts, sources, draws, 0, block=block)
    assert np.array_equal(found.codes, greedy)


def test_a_perfect_draft_costs_one_pass_a_block(tiny, prompts, draws):
    greedy = sample_images(tiny.lm, tiny.layout, prompts, draws[:, :1], temperature=0)[:, 0]
    for block, passes in [(1, 16), (5, 4), (16, 1), (64, 1)]:
        found = sample_images_from_draft(tiny.lm, tiny.layout, prompts, greedy, draws, 0, block=block)
        assert np.array_equal(found.codes, greedy[:, None].repeat(3, 1))
        assert (found.passes == passes).all()
        assert (found.accepted == 16).all()


def test_a_draft_that_is_never_right_costs_no_more_than_plain_decoding(tiny, prompts, draws):
    greedy = sample_images(tiny.lm, tiny.layout, prompts, draws[:, :1], temperature=0)[:, 0]
    found = sample_images_from_draft(tiny.lm, tiny.layout, prompts, (greedy + 1) % 16, draws, 0)
    assert np.array_equal(found.codes, greedy[:, None].repeat(3, 1))
    assert (found.passes <= 16).all()
    assert found.passes.min() < 16  # a code that was drawn after a wrong one is right now and then
    assert not found.accepted.any()


def test_accepted_codes_are_the_drafts(tiny, prompts, draws):
    likely = sample_images(tiny.lm, tiny.layout, prompts, draws[:, :1], temperature=0.5)[:, 0]
    found = sample_images_from_draft(tiny.lm, tiny.layout, prompts, likely, draws, 0.5, block=16, batch_size=9)
    assert np.array_equal(found.accepted, (found.codes == likely[:, None]).sum(2))
    assert found.passes.mean() < 14


class _Steady(torch.nn.Module):
    """A decoder whose codes do not depend on those before them: what was drawn once is right for good."""

    def __init__(self, lm) -> None:
        super().__init__()
        self.lm, self.config, self.lm_head, self.model = lm, lm.config, lm.lm_head, self._model

    def _model(self, input_ids, position_ids=None, **options):
        output = self.lm.model(input_ids=input_ids, position_ids=position_ids, **options)
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1])[None]
        width = output.last_hidden_state.shape[-1]
        states = torch.sin(position_ids[..., None] * torch.arange(1, width + 1) * 0.7)
        output.last_hidden_state = states.expand(*input_ids.shape, -1).contiguous()
        return output


def test_what_was_drawn_after_a_wrong_code_is_expected_next(tiny, prompts, draws):
    """Where it is right, an image takes as many passes as it has blocks, and one more to find out in each."""
    steady = _Steady(tiny.lm)
    never = np.full((1, 16), 5)
    found = sample_images_from_draft(steady, tiny.layout, prompts[:1], never, draws[:1], block=8)
    assert found.passes.max() <= 6
    alone = sample_images_from_draft(steady, tiny.layout, prompts[:1], never, draws[:1], block=1)
    assert np.array_equal(found.codes, alone.codes)
    assert (alone.passes == 16).all()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("drawn == self.codes.gather(1, places)", "drawn == drafts"),
        ("drawn == self.codes.gather(1, places)", "drawn == drawn"),
        ("self.steps <= last", "self.steps <= last + 1"),
        ("self.codes.scatter_(1, places, drawn)", "self.codes.scatter_(1, places, drafts)"),
    ],
)
def test_what_is_kept_must_follow_codes_that_hold(tiny, prompts, draws, monkeypatch, old, new):
    """A decoder that keeps codes drawn after a wrong one gives others."""
    from visdyn.models.token.image_decoder import ImageDecoder

    likely = sample_images(tiny.lm, tiny.layout, prompts, draws[:, :1], temperature=0.5)[:, 0]
    wanted = sample_images_from_draft(tiny.lm, tiny.layout, prompts, likely, draws, 0.5, block=8).codes
    function = ImageDecoder._verify_drafts
    text = textwrap.dedent(inspect.getsource(function))
    assert text.count(old) == 1
    made: dict = {}
    exec(compile(text.replace(old, new), "mutated", "exec"), function.__globals__ | {"torch": torch}, made)
    monkeypatch.setattr(ImageDecoder, "_verify_drafts", made["_verify_drafts"])
    found = sample_images_from_draft(tiny.lm, tiny.layout, prompts, likely, draws, 0.5, block=8).codes
    assert not np.array_equal(found, wanted)


class _Passes:
    def __init__(self, lm) -> None:
        self.lm, self.shapes = lm, []

    def __enter__(self):
        self.hook = self.lm.model.register_forward_pre_hook(
            lambda _module, _args, kwargs: self.shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        return self

    def __exit__(self, *_):
        self.hook.remove()


def test_passes_are_counted_and_samples_share_the_prompt(tiny, prompts, sources, draws):
    with _Passes(tiny.lm) as seen:
        found = sample_images_from_draft(tiny.lm, tiny.layout, prompts[:1], sources[:1], draws[:1], block=4)
    assert len(seen.shapes) == found.forwards == found.passes.max()
    assert seen.shapes[0] == (1, len(prompts[0]) + 1 + 3)
    assert seen.shapes[1] == (3, 4)


def test_finished_samples_leave_the_batch(tiny, prompts, draws):
    """One sample's draft is right, another's wrong: the second goes on alone."""
    same = [prompts[0]] * 2
    greedy = sample_images(tiny.lm, tiny.layout, same, draws[:2, :1], temperature=0)[:, 0]
    drafts = np.stack([greedy[0], (greedy[1] + 1) % 16])
    with _Passes(tiny.lm) as seen:
        found = sample_images_from_draft(tiny.lm, tiny.layout, same, drafts, draws[:2, :1], 0, block=8)
    assert np.array_equal(found.codes[:, 0], greedy)
    assert found.passes[:, 0].tolist() == [2, 16]
    assert [shape[0] for shape in seen.shapes] == [2, 2, *[1] * 14]


def test_eager_attention_samples_the_same(tiny, tiny_folder, prompts, sources, draws):
    eager = load_lm(tiny_folder, attention="eager").eval()
    arguments = tiny.layout, prompts, sources, draws
    found, wanted = (sample_images_from_draft(lm, *arguments).codes for lm in (eager, tiny.lm))
    assert np.array_equal(found, wanted)


def test_a_gemma_with_one_key_head_samples_by_the_same_rule(tiny, sources, draws):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GemmaConfig(vocab_size=41, num_key_value_heads=1, head_dim=8, pad_token_id=1, **sizes)
    lm = GemmaForCausalLM(config).eval()
    lm.lm_head.weight.data *= 20
    found = sample_images_from_draft(lm, tiny.layout, [[0, 25, 30]], sources[:1], draws[:1], block=6)
    assert found.codes[0, 1].tolist() == _plain(lm, tiny.layout, [0, 25, 30], sources[0], draws[0, 1])


def test_what_does_not_fit_is_refused(tiny, prompts, sources, draws):
    arguments = tiny.lm, tiny.layout, prompts
    with pytest.raises(ValueError, match=r"not \(6, 8\) drafts"):
        sample_images_from_draft(*arguments, sources[:, :8], draws)
    with pytest.raises(ValueError, match="codes must lie in 0 to 15"):
        sample_images_from_draft(*arguments, sources + 1, draws)
    with pytest.raises(ValueError, match="block must be at least 1"):
        sample_images_from_draft(*arguments, sources, draws, block=0)
    with pytest.raises(ValueError, match="temperature >= 0"):
        sample_images_from_draft(*arguments, sources, draws, temperature=-1)
