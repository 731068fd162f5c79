"""Sampling of images and greedy text against plain loops without a cache."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import build_tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.models.token.decoding import draw, generate_text, token_probabilities, uniforms
from visdyn.models.token.image_decoder import sample_images
from visdyn.models.token.scoring import score_completions
from visdyn.models.token.sequences import TokenSequence

ACTIONS = ["open", "close the red cup", "take lamp", "put the cup", "open the blue drawer", "open"]
ALMOST_ONE = 1 - 2**-53


@pytest.fixture(scope="module")
def prompts(tiny, grids):
    return [tiny.builder.forward_prompt(grids[row], action) for row, action in enumerate(ACTIONS)]


@pytest.fixture(scope="module")
def questions(tiny, grids):
    """Inverse-dynamics prompts of different lengths."""
    builder = tiny.builder
    return [
        [*builder.inverse_prompt(grids[row], grids[row + 1])[:-1], *[30] * row, tiny.layout.end_of_turn]
        for row in range(5)
    ]


@pytest.fixture(scope="module")
def draws():
    generator = torch.Generator().manual_seed(0)
    return torch.stack([uniforms(3, 16, generator) for _ in ACTIONS])


def test_draw_follows_the_distribution():
    probabilities = torch.tensor([0.4, 0.0, 0.05, 0.25, 0.1, 0.2])
    numbers = uniforms(1, 40_000, torch.Generator().manual_seed(0))[0]
    counts = torch.bincount(draw(probabilities.expand(len(numbers), -1), numbers), minlength=6).double()
    expected = probabilities.double() * len(numbers)
    positive = expected > 0
    chi_square = ((counts - expected)[positive] ** 2 / expected[positive]).sum()
    assert chi_square < 18.5  # the .999 quantile at 4 degrees of freedom
    assert counts[1] == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-30, 1e-3, 0.5, 1.0]), min_size=1, max_size=8).filter(any),
    st.sampled_from([0.0, 0.25, 0.5, ALMOST_ONE]) | st.floats(0, ALMOST_ONE),
)
def test_draw_inverts_the_cumulative_distribution(weights, number):
    chosen = int(draw(torch.tensor([weights]), torch.tensor([number], dtype=torch.float64)))
    cumulative = np.cumsum(np.asarray(weights, np.float32).astype(np.float64))
    assert weights[chosen] > 0
    assert (cumulative[chosen - 1] if chosen else 0) <= number * cumulative[-1] < cumulative[chosen]


def test_nucleus_keeps_the_fewest_tokens_that_reach_top_p():
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    torch.testing.assert_close(token_probabilities(logits, 1, 0.7), torch.tensor([[0, 2 / 3, 0, 1 / 3]]))
    torch.testing.assert_close(token_probabilities(logits, 1, 0.8), torch.tensor([[0, 5 / 9, 1.5 / 9, 2.5 / 9]]))
    torch.testing.assert_close(token_probabilities(logits, 1, 0.1), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(token_probabilities(logits, 1, 1.0), torch.tensor([[0.1, 0.5, 0.15, 0.25]]))


def test_temperature():
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    torch.testing.assert_close(token_probabilities(logits, 2.0, 1.0), (logits / 2).softmax(-1))
    assert token_probabilities(logits, 0, 1.0).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(("temperature", "top_p"), [(-1, 1), (1, 0)])
def test_senseless_sampling_is_refused(temperature, top_p):
    with pytest.raises(ValueError, match="temperature >= 0 and top_p > 0"):
        token_probabilities(torch.zeros(1, 2), temperature, top_p)


@torch.inference_mode()
def _plain_sample(tiny, prompt, numbers, temperature, top_p) -> list[int]:
    """Sample one image with a full forward for every token."""
    layout, ids, codes = tiny.layout, [*prompt, tiny.layout.begin_of_image], []
    block = slice(layout.image_offset, layout.image_offset + layout.num_image_codes)
    for number in numbers.tolist():
        probabilities = token_probabilities(
            tiny.lm(input_ids=torch.tensor([ids])).logits[:, -1, block], temperature, top_p
        )
        cumulative = probabilities[0].double().cumsum(0)
        code = int((cumulative <= number * cumulative[-1]).sum())
        codes.append(code)
        ids.append(code + layout.image_offset)
    return codes


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.0, 1.0), (0.7, 0.6)])
def test_sampling_equals_a_plain_loop_without_cache(tiny, prompts, draws, temperature, top_p):
    codes = sample_images(tiny.lm, tiny.layout, prompts, draws, temperature, top_p)
    assert codes.shape == (6, 3, 16)
    assert codes.dtype == np.int64
    for row, sample in [(0, 0), (1, 2), (5, 1)]:
        plain = _plain_sample(tiny, prompts[row], draws[row, sample], temperature, top_p)
        assert codes[row, sample].tolist() == plain


def test_samples_do_not_depend_on_their_batch(tiny, prompts, draws):
    together = sample_images(tiny.lm, tiny.layout, prompts, draws)
    for batch_size in (1, 4):
        assert np.array_equal(sample_images(tiny.lm, tiny.layout, prompts, draws, batch_size=batch_size), together)
    for row, prompt in enumerate(prompts):
        alone = sample_images(tiny.lm, tiny.layout, [prompt], draws[row : row + 1, 1:2])
        assert np.array_equal(alone[0, 0], together[row, 1])
    assert len({tuple(row) for row in together.reshape(-1, 16).tolist()}) == 18  # the samples differ from each other


def test_greedy_samples_are_one_image(tiny, prompts, draws):
    codes = sample_images(tiny.lm, tiny.layout, prompts, draws, temperature=0)
    assert (codes == codes[:, :1]).all()


def test_only_image_codes_are_sampled(tiny, prompts, draws):
    """Even where the model would rather write text."""
    lm = copy.deepcopy(tiny.lm)
    lm.lm_head.weight.data[tiny.layout.end_of_image :] *= 50
    codes = sample_images(lm, tiny.layout, prompts, draws)
    assert codes.min() >= 0
    assert codes.max() < tiny.layout.num_image_codes


class _Scripted(torch.nn.Module):
    """A model that prefers an image token everywhere, and then the scripted token of each row and step.

    Its states are its logits: the head multiplies by one.
    """

    def __init__(self, config, layout, script):
        super().__init__()
        self.config, self.layout, self.script, self.step = config, layout, script, 0
        self.lm_head = torch.nn.Linear(config.vocab_size, config.vocab_size, bias=False)
        self.lm_head.weight.data = torch.eye(config.vocab_size)
        self.model = self._model

    def _model(self, input_ids, **_):
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        for row, tokens in enumerate(self.script):
            logits[row, :, tokens[min(self.step, len(tokens) - 1)]] = 4.0
        logits[..., self.layout.image_offset + 3] = 6.0
        self.step += 1
        states = torch.zeros(len(input_ids), 1, input_ids.shape[1], 1)
        layers = [SimpleNamespace(keys=states, values=states)]
        return SimpleNamespace(last_hidden_state=logits, past_key_values=SimpleNamespace(layers=layers))


def test_text_stops_at_eos(tiny):
    eos = tiny.layout.eos
    lm = _Scripted(tiny.lm.config, tiny.layout, [[30, 31, eos, 32], [33, 34, 35, 36, eos], [eos, 30]])
    texts, scores = generate_text(lm, tiny.layout, [[0, 5]] * 3, max_new_tokens=8)
    assert texts == [[30, 31], [33, 34, 35, 36], []]
    assert lm.step == 5
    logits = torch.zeros(tiny.lm.config.vocab_size)
    logits[30], logits[tiny.layout.image_offset + 3] = 4.0, 6.0
    expected = logits.log_softmax(0)[30].item()
    assert scores.tolist() == pytest.approx([expected, expected, 0], abs=1e-5)


def test_text_stops_at_the_limit(tiny):
    lm = _Scripted(tiny.lm.config, tiny.layout, [[30]])
    assert generate_text(lm, tiny.layout, [[0, 5]], max_new_tokens=4)[0] == [[30] * 4]


def test_text_has_no_image_or_control_tokens(tiny, questions):
    lm, layout = copy.deepcopy(tiny.lm), tiny.layout
    weights = lm.lm_head.weight.data
    weights[:2] *= 5
    weights[layout.image_offset : layout.end_of_turn + 1] *= 5
    first = lm(input_ids=torch.tensor([questions[0]])).logits[0, -1].argmax()
    assert layout.image_offset <= first <= layout.end_of_turn  # unconstrained, it would write one
    texts, _ = generate_text(lm, layout, questions)
    written = {token for text in texts for token in text}
    assert written
    assert not written & {layout.bos, layout.pad, layout.eos, *range(layout.image_offset, layout.end_of_turn + 1)}


@torch.inference_mode()
def test_text_equals_a_plain_greedy_loop(tiny, questions):
    layout = tiny.layout
    texts, _ = generate_text(tiny.lm, layout, questions, max_new_tokens=6, batch_size=3)
    allowed = [layout.eos, 3, *range(layout.end_of_turn + 1, tiny.lm.config.vocab_size)]
    for prompt, text in zip(questions, texts, strict=True):
        ids = list(prompt)
        for token in text:
            logits = tiny.lm(input_ids=torch.tensor([ids])).logits[0, -1]
            assert allowed[int(logits[allowed].argmax())] == token
            ids.append(token)
        assert (
            len(text) == 6
            or layout.eos == allowed[int(tiny.lm(input_ids=torch.tensor([ids])).logits[0, -1][allowed].argmax())]
        )


def test_text_score_is_the_teacher_forced_score(tiny, questions):
    texts, scores = generate_text(tiny.lm, tiny.layout, questions, max_new_tokens=5)
    assert all(texts)
    items = [
        TokenSequence(np.array(prompt), np.array([*text, tiny.layout.eos]), np.ones(len(text) + 1, np.float32))
        for prompt, text in zip(questions, texts, strict=True)
    ]
    forced = score_completions(tiny.lm, items, slice(0, -1), tiny.layout.pad)
    torch.testing.assert_close(scores, forced.mean, atol=1e-4, rtol=0)


def test_half_precision_logits_are_sampled_in_single_precision(tiny, grids):
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    probabilities = token_probabilities(logits, 0.7, 0.9)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(4), atol=1e-6, rtol=0)
    assert torch.equal(probabilities, token_probabilities(logits.float(), 0.7, 0.9))
    half = copy.deepcopy(tiny.lm).bfloat16()
    prompts = [tiny.builder.forward_prompt(grids[row], "open the cup") for row in range(2)]
    draws = torch.stack([uniforms(3, 16, torch.Generator().manual_seed(row)) for row in range(2)])
    codes = sample_images(half, tiny.layout, prompts, draws)
    full = sample_images(tiny.lm, tiny.layout, prompts, draws)
    assert (codes == full).mean() > 0.5  # the same numbers, so that most draws fall on the same code
    _, scores = generate_text(half, tiny.layout, [tiny.builder.inverse_prompt(grids[0], grids[1])])
    assert scores.dtype == torch.float32


def test_states_that_are_no_numbers_give_no_sample(tiny, grids):
    """Each probability would be NaN, and each code the last one."""
    broken = build_tiny_model()
    with torch.no_grad():
        broken.lm.model.norm.weight.fill_(torch.nan)
    forward = broken.forward_dynamics
    for role in (forward, replace(forward, decoding="draft")):
        with pytest.raises(ValueError, match="states are no numbers"):
            role.sample_codes(grids[:2], ["open", "close"], uniforms(2, 16, None)[None].repeat(2, 1, 1))
    with pytest.raises(ValueError, match="states are no numbers"):
        broken.inverse_dynamics.predict([np.zeros((16, 16, 3), np.uint8)], [np.zeros((16, 16, 3), np.uint8)])
