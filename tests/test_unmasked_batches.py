"""Training and scoring without attention masks: equal to masked left-padded batches, on attention's causal path."""

from __future__ import annotations
import __future__

import inspect
import textwrap
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from performance_bars import check_bar
from tiny_tokens import tiny_decoder
from toy_dynamics import lora_of

from visdyn.models.token.scoring import score_completions
from visdyn.models.token.sequences import TokenSequence, collate, pad_right
from visdyn.models.token.shared_prefix import score_shared
from visdyn.models.token.tokens import TokenLayout
from visdyn.models.token.unified import UnifiedModel
from visdyn.training.dynamics import CompletionLoss, add_adapter

LAYOUT = TokenLayout(0, 1, 2, 4, 5, 6, 20, 16)
PAD = LAYOUT.pad


@pytest.fixture(params=["chameleon", "liquid"])
def lm(request):
    """A random decoder of either family: two layers of width 32, 36 tokens."""
    found = tiny_decoder(request.param, LAYOUT)
    found.lm_head.weight.data *= 20  # the library's initial weights leave every distribution almost uniform
    return found.eval()


@pytest.fixture
def sequences() -> list[TokenSequence]:
    """Very unequal lengths: prompts of 1 to 70 tokens, completions of 1 to 30, weights of 0 among them."""
    generator = np.random.default_rng(0)
    sizes = [(1, 30), (70, 1), (3, 5), (40, 20), (2, 2), (70, 30)]
    return [TokenSequence(generator.integers(7, 36, prompt), generator.integers(7, 36, completion),
                          generator.integers(0, 4, completion).astype(np.float32) / 2)
            for prompt, completion in sizes]  # fmt: skip


def _masked_loss(lm, sequences) -> torch.Tensor:
    """The loss of a left-padded batch under a mask, written out."""
    longest = max(len(item.prompt) + len(item.completion) for item in sequences)
    ids, mask = torch.full((len(sequences), longest), PAD), torch.zeros(len(sequences), longest, dtype=torch.int64)
    for row, item in enumerate(sequences):
        tokens = torch.from_numpy(np.concatenate([item.prompt, item.completion]))
        ids[row, longest - len(tokens) :], mask[row, longest - len(tokens) :] = tokens, 1
    logits = lm(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    total = norm = 0.0
    for row, item in enumerate(sequences):
        size = len(item.completion)
        predicted = logits[row, longest - size - 1 : longest - 1]
        nll = F.cross_entropy(predicted, torch.from_numpy(item.completion), reduction="none")
        total, norm = total + (nll * torch.from_numpy(item.weights)).sum(), norm + item.weights.sum()
    return total / float(norm)


def _gradients(lm, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    lm.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in lm.named_parameters()}


def _check_training(lm, sequences) -> None:
    expected = _masked_loss(lm, sequences)
    found = CompletionLoss(lm)(**collate(sequences, PAD))["loss"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    wanted, got = _gradients(lm, expected), _gradients(lm, found)
    # One scale for all: the smallest gradients are rounding of the largest.
    scale = max(float(value.abs().max()) for value in wanted.values())
    for name, value in wanted.items():
        torch.testing.assert_close(got[name] / scale, value / scale, atol=1e-6, rtol=0, msg=name)


@torch.inference_mode()
def _check_scores(lm, sequences, score=score_completions) -> None:
    for scored, block in ((slice(None), None), (slice(0, -1), None), (slice(None), slice(7, 36))):
        scores = score(lm, sequences, scored, PAD, 4, block)
        for row, item in enumerate(sequences):
            ids = torch.from_numpy(np.concatenate([item.prompt, item.completion]))[None]
            logits = lm(input_ids=ids).logits[0, len(item.prompt) - 1 : -1, block or slice(None)]
            targets = torch.from_numpy(item.completion) - (block.start if block else 0)
            plain = -F.cross_entropy(logits, targets, reduction="none")[scored]
            torch.testing.assert_close(
                scores.mean[row] * len(plain), plain.sum(), atol=1e-5 * max(1, len(plain)), rtol=0
            )
            assert scores.num_tokens[row] == len(plain)


def test_loss_and_gradients_are_those_of_a_masked_batch(lm, sequences):
    _check_training(lm, sequences)


@pytest.mark.parametrize("score", [score_completions, score_shared])
def test_scores_are_those_of_single_sequences(lm, sequences, score):
    again = [*sequences, TokenSequence(sequences[3].prompt, sequences[2].completion, sequences[2].weights)]
    _check_scores(lm, again, score)


@pytest.mark.parametrize(
    ("function", "old", "new", "check"),
    [
        (collate, "len(item.prompt) - 1", "len(item.prompt)", _check_training),
        (collate, "len(item.prompt) - 1", "len(item.prompt) - 2", _check_training),
        (collate, "places[row, :size]", "places[row, width - size :]", _check_training),
        (pad_right, "ids[row, : len(tokens)]", "ids[row, ids.shape[1] - len(tokens) :]", _check_training),
        (pad_right, "ids[row, : len(tokens)]", "ids[row, ids.shape[1] - len(tokens) :]", _check_scores),
        (score_completions, "at - 1)", "at)", _check_scores),
        (score_completions, "owners * ids.shape[1]", "owners * (ids.shape[1] - 1)", _check_scores),
    ],
)
def test_a_wrong_side_or_place_would_be_seen(lm, sequences, monkeypatch, function, old, new, check):
    inner = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(inner)).removeprefix("@torch.inference_mode()\n")
    assert source.count(old) == 1
    made: dict = {}
    code = compile(source.replace(old, new), inner.__name__, "exec", __future__.annotations.compiler_flag)
    exec(code, inner.__globals__, made)
    monkeypatch.setattr(inner, "__code__", made[inner.__name__].__code__)
    with pytest.raises(AssertionError):
        check(lm, sequences)


@contextmanager
def _attention_calls(monkeypatch):
    """Yield a list of (a mask is given, is_causal) that grows with every call of the attention function."""
    calls, attend = [], F.scaled_dot_product_attention

    def looking(*args, **kwargs):
        given = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        calls.append((given is not None, bool(kwargs.get("is_causal"))))
        return attend(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", looking)
        yield calls


@pytest.mark.parametrize("recompute", [False, True])
def test_a_training_step_gives_attention_no_mask(lm, sequences, monkeypatch, recompute):
    model = UnifiedModel(lm, None, None)
    add_adapter(model, "random", lora_of())
    loss = CompletionLoss(model.lm.train())
    if recompute:
        loss.activation_checkpointing_enable()
    with _attention_calls(monkeypatch) as calls:
        loss(**collate(sequences, PAD))["loss"].backward()
    assert calls == [(False, True)] * (4 if recompute else 2)
    check_bar("masked attention calls in training, unequal lengths", _masked_share(calls))


def test_a_scored_batch_gives_attention_no_mask(lm, sequences, monkeypatch):
    with _attention_calls(monkeypatch) as calls:
        score_completions(lm, sequences, slice(None), PAD, 3)
        score_shared(lm, sequences, slice(None), PAD, 3)  # nothing is shared: every sequence is a root
    assert set(calls) == {(False, True)}
    check_bar("masked attention calls in scoring, unequal lengths", _masked_share(calls))


def _masked_share(calls) -> float:
    """Return the share of calls with a mask, in percent."""
    return 100 * sum(masked for masked, _ in calls) / len(calls)


def test_a_mask_would_be_seen(lm, sequences, monkeypatch):
    with _attention_calls(monkeypatch) as calls:
        _masked_loss(lm, sequences)
    assert calls == [(True, False)] * 2
    assert _masked_share(calls) == 100


def test_an_empty_prompt_is_refused(lm):
    rows = [TokenSequence(np.arange(0), np.array([8, 9]), np.ones(2, np.float32))]
    for run in (lambda: collate(rows, PAD), lambda: score_completions(lm, rows, slice(None), PAD)):
        with pytest.raises(ValueError, match="empty prompt, so that nothing predicts the first token"):
            run()
