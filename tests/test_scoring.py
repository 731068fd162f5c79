"""Log-likelihoods of completions against a plain forward of one sequence at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visdyn.models.token.scoring import score_completions

ACTIONS = ["open", "close the red cup", "take lamp", "put the blue drawer on the green cup", "open the cup"]


@torch.inference_mode()
def _plain(lm, item, scored: slice, block: slice = slice(None)) -> torch.Tensor:
    """Log-probabilities of the scored tokens from one unpadded forward, renormalised over `block`."""
    ids = torch.from_numpy(np.concatenate([item.prompt, item.completion]))[None]
    log_probabilities = lm(input_ids=ids).logits[0, :, block].log_softmax(-1)
    positions = range(len(item.prompt) - 1, ids.shape[1] - 1)
    values = [log_probabilities[at, ids[0, at + 1] - (block.start or 0)] for at in list(positions)[scored]]
    return torch.stack(values)


@pytest.fixture(scope="module")
def inverse(tiny, grids):
    build = tiny.builder.inverse
    return [build(grids[row], grids[row + 1], action) for row, action in enumerate(ACTIONS)]


@pytest.fixture(scope="module")
def forward(tiny, grids):
    build = tiny.builder.forward
    return [build(grids[row], action, grids[row + 1]) for row, action in enumerate(ACTIONS)]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_padded_scores_equal_plain_ones(tiny, inverse, batch_size):
    scores = score_completions(tiny.lm, inverse, slice(0, -1), tiny.layout.pad, batch_size)
    for row, item in enumerate(inverse):
        plain = _plain(tiny.lm, item, slice(0, -1))
        assert scores.total[row].item() == pytest.approx(plain.sum().item(), abs=1e-4)
        assert scores.mean[row].item() == pytest.approx(plain.mean().item(), abs=1e-4)
        assert scores.num_tokens[row].item() == len(plain) == len(item.completion) - 1


def test_renormalisation_over_the_image_block(tiny, forward):
    layout = tiny.layout
    block = slice(layout.image_offset, layout.image_offset + layout.num_image_codes)
    inside = score_completions(tiny.lm, forward, slice(1, -2), layout.pad, restrict_to=block)
    whole = score_completions(tiny.lm, forward, slice(1, -2), layout.pad)
    for row, item in enumerate(forward):
        assert inside.mean[row].item() == pytest.approx(
            _plain(tiny.lm, item, slice(1, -2), block).mean().item(), abs=1e-4
        )
    assert (inside.total > whole.total + 0.1).all()
    assert inside.num_tokens.tolist() == [16] * len(forward)


def test_mean_is_the_sum_over_the_tokens(tiny, inverse):
    scores = score_completions(tiny.lm, inverse, slice(None), tiny.layout.pad)
    torch.testing.assert_close(scores.mean * scores.num_tokens, scores.total)
    assert scores.num_tokens.tolist() == [len(item.completion) for item in inverse]


def test_a_token_outside_the_block_is_refused(tiny, forward):
    block = slice(tiny.layout.image_offset, tiny.layout.image_offset + tiny.layout.num_image_codes)
    with pytest.raises(ValueError, match="sequence 0 scores tokens outside the block 4 to 19"):
        score_completions(tiny.lm, forward, slice(0, -1), tiny.layout.pad, restrict_to=block)


def test_the_order_of_sequences_does_not_matter(tiny, inverse):
    straight = score_completions(tiny.lm, inverse, slice(0, -1), tiny.layout.pad, batch_size=2)
    turned = score_completions(tiny.lm, inverse[::-1], slice(0, -1), tiny.layout.pad, batch_size=2)
    torch.testing.assert_close(turned.mean.flip(0), straight.mean, atol=1e-5, rtol=0)
