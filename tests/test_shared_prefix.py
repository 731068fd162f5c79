"""Scores over shared prefixes against separate sequences, and that what is shared is computed once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GemmaConfig, GemmaForCausalLM

from visdyn.models.token.chameleon import load_lm
from visdyn.models.token.scoring import score_completions
from visdyn.models.token.sequences import TokenSequence
from visdyn.models.token.shared_prefix import (
    score_options,
    score_shared,
)
from visdyn.trajectory import NEGATIVE_KINDS, Trajectory, negatives

ACTIONS = ["open", "close the red cup", "take lamp", "put the blue drawer on the green cup"]


@pytest.fixture(scope="module")
def probe_rows(grids):
    """Four references and their four negatives: sources, actions, targets."""
    items = [Trajectory(grids[row], action, grids[row + 5], "ag", str(row)) for row, action in enumerate(ACTIONS)]
    rows = items + [negative for kind in NEGATIVE_KINDS for negative in negatives(items, kind, seed=0)]
    return np.stack([row.source for row in rows]), [row.action for row in rows], np.stack([row.target for row in rows])


def _inverse_sequences(model, sources, actions, targets):
    return [model.builder.inverse(*row) for row in zip(sources, targets, actions, strict=True)]


def _assert_same(shared, plain):
    torch.testing.assert_close(shared.total, plain.total, atol=1e-4, rtol=0)
    torch.testing.assert_close(shared.mean, plain.mean, atol=1e-4, rtol=0)
    assert torch.equal(shared.num_tokens, plain.num_tokens)


@pytest.mark.parametrize(("batch_size", "min_shared"), [(64, 16), (2, 16), (5, 1), (64, 1000)])
def test_a_probe_scores_as_separate_sequences_do(tiny, probe_rows, batch_size, min_shared):
    sources, actions, targets = probe_rows
    inverse = _inverse_sequences(tiny, *probe_rows)
    shared = score_shared(tiny.lm, inverse, slice(0, -1), tiny.layout.pad, batch_size, min_shared=min_shared)
    _assert_same(shared, tiny.inverse_dynamics.score_codes(sources, targets, actions))


def test_a_model_that_shares_prefixes_scores_as_one_that_does_not(tiny, probe_rows):
    sources, actions, targets = probe_rows
    sharing = replace(tiny, shared_prefixes=True)
    with _Tokens(tiny.lm, tiny.layout.pad) as seen:
        shared = sharing.forward_dynamics.score_codes(sources, actions, targets)
    with _Tokens(tiny.lm, tiny.layout.pad) as plain:
        _assert_same(shared, tiny.forward_dynamics.score_codes(sources, actions, targets))
    assert seen.count < plain.count
    _assert_same(
        sharing.inverse_dynamics.score_codes(sources, targets, actions),
        tiny.inverse_dynamics.score_codes(sources, targets, actions),
    )


def test_eager_attention_gives_the_same_scores(tiny, tiny_folder, probe_rows):
    inverse = _inverse_sequences(tiny, *probe_rows)
    eager = score_shared(load_lm(tiny_folder, attention="eager").eval(), inverse, slice(0, -1), tiny.layout.pad)
    _assert_same(eager, score_completions(tiny.lm, inverse, slice(0, -1), tiny.layout.pad))


def test_a_gemma_with_one_key_head_gives_the_same_scores():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GemmaConfig(vocab_size=40, num_key_value_heads=1, head_dim=8, pad_token_id=1, **sizes)
    lm, generator = GemmaForCausalLM(config).eval(), np.random.default_rng(0)
    lm.lm_head.weight.data *= 20
    prefix = generator.integers(4, 40, 30)
    sequences = [_sequence(prefix, generator.integers(4, 40, size)) for size in (3, 9, 9, 30)]
    _assert_same(score_shared(lm, sequences, slice(0, -1), 1), score_completions(lm, sequences, slice(0, -1), 1))


def _sequence(prompt, completion) -> TokenSequence:
    return TokenSequence(np.asarray(prompt), np.asarray(completion), np.ones(len(completion), np.float32))


# Two tokens only: prefixes, duplicates and sequences that end inside others come up all the time.
_TOKENS = st.lists(st.sampled_from([21, 25]), min_size=1, max_size=7)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(_TOKENS, _TOKENS), min_size=1, max_size=7), st.integers(1, 4), st.integers(1, 3))
def test_any_set_of_sequences_scores_as_separate_ones(tiny, pairs, min_shared, batch_size):
    sequences = [_sequence(*pair) for pair in pairs]
    shared = score_shared(tiny.lm, sequences, slice(None), 1, batch_size, min_shared=min_shared)
    _assert_same(shared, score_completions(tiny.lm, sequences, slice(None), 1))


class _Tokens:
    """Counts the tokens, padding left out, that go through a model's decoder."""

    def __init__(self, lm, pad: int) -> None:
        self.lm, self.pad, self.count, self.passes = lm, pad, 0, 0

    def __enter__(self):
        self.hook = self.lm.model.register_forward_pre_hook(self._add, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.hook.remove()

    def _add(self, _module, _args, kwargs):
        self.count += int((kwargs["input_ids"] != self.pad).sum())
        self.passes += 1


def test_common_stretches_are_computed_once(tiny, grids):
    """An IDP probe: four of five sequences share the source, and the random action shares the target too."""
    source, target, other = grids[0], grids[5].copy(), grids[6].copy()
    # No two images begin with the same code, so that only whole images are shared.
    target[0, 0], other[0, 0] = (source[0, 0] + 1) % 16, (source[0, 0] + 2) % 16
    sources, targets = [source] * 4 + [target], [target, target, other, source, source]
    rows = np.stack(sources), ["open", "close", *["open"] * 3], np.stack(targets)
    inverse = _inverse_sequences(tiny, *rows)
    with _Tokens(tiny.lm, tiny.layout.pad) as seen:
        score_shared(tiny.lm, inverse, slice(0, -1), tiny.layout.pad)
    # bos infer boi | source eoi boi | target eoi eot, twice the action; two more targets; the inverse has 41 of its own
    shared, image_and_rest = 3 + 16 + 2, 16 + 2
    assert seen.count == (shared + image_and_rest + 2 + 2) + 2 * (image_and_rest + 2) + 41
    assert sum(len(item.prompt) + len(item.completion) for item in inverse) == 5 * 41


def test_stretches_too_short_to_pay_are_not_split_off(tiny, grids):
    actions = ["open", "close", "take"]
    forward = [tiny.builder.forward(*row) for row in zip(grids[:3], actions, grids[3:6], strict=True)]
    for min_shared, computed in ((16, 3 * 41), (1, 3 * 41 - 2 * 2)):  # the second: bos and "edit" are shared
        with _Tokens(tiny.lm, tiny.layout.pad) as seen:
            score_shared(tiny.lm, forward, slice(1, -2), tiny.layout.pad, min_shared=min_shared)
        assert seen.count == computed


def test_options_of_one_prompt(tiny, grids):
    prompt = tiny.builder.inverse_prompt(grids[0], grids[1])
    texts = [[*tiny.builder.text(action), tiny.layout.eos] for action in ACTIONS]
    with _Tokens(tiny.lm, tiny.layout.pad) as seen:
        scores = score_options(tiny.lm, prompt, texts, slice(0, -1), tiny.layout.pad)
    assert seen.count == len(prompt) + sum(map(len, texts))
    assert seen.passes == 2
    plain = tiny.inverse_dynamics.score_codes(grids[:1].repeat(4, 0), grids[1:2].repeat(4, 0), ACTIONS)
    _assert_same(scores, plain)


def test_the_keys_of_leaves_are_not_kept(tiny, grids, monkeypatch):
    from visdyn.models.token import shared_prefix

    kept = []
    original = shared_prefix._BranchCache.update

    def update(self, *args, **kwargs):
        states = original(self, *args, **kwargs)
        kept.append((states[0].shape[0], len(self.kept) > 0))
        return states

    monkeypatch.setattr(shared_prefix._BranchCache, "update", update)
    prompt = tiny.builder.inverse_prompt(grids[0], grids[1])
    score_options(tiny.lm, prompt, [[25, 2], [26, 2], [27, 2]], slice(0, -1), 1)
    assert kept == [(1, True), (1, True), (3, False), (3, False)]


def test_no_sequences_give_no_scores(tiny):
    scores = score_shared(tiny.lm, [], slice(None), 1)
    assert scores.mean.shape == scores.num_tokens.shape == (0,)


def test_what_cannot_be_scored_is_refused(tiny, grids):
    forward = [tiny.builder.forward(grids[0], "open", grids[1])]
    with pytest.raises(ValueError, match="sequence 0 scores tokens outside the block 4 to 19"):
        score_shared(tiny.lm, forward, slice(0, -1), 1, restrict_to=slice(4, 20))
    with pytest.raises(ValueError, match="sequence 1 has an empty prompt"):
        score_shared(tiny.lm, [*forward, _sequence([], [25])], slice(None), 1)
    with pytest.raises(ValueError, match="min_shared must be at least 1"):
        score_shared(tiny.lm, forward, slice(None), 1, min_shared=0)


def test_sliding_attention_is_refused():
    class Model:
        config = type("Config", (), {"layer_types": ["full_attention", "sliding_attention"]})()

    with pytest.raises(ValueError, match="full attention in every layer"):
        score_shared(Model(), [], slice(None), 1)
