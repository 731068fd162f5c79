"""Token sequences of the two tasks, and their batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.models.token.sequences import TokenSequence, collate


def _sequence(prompt: int, completion: int, start: int = 10) -> TokenSequence:
    ids = np.arange(start, start + prompt + completion)
    weights = np.linspace(1, 2, completion, dtype=np.float32)
    return TokenSequence(ids[:prompt], ids[prompt:], weights)


def test_forward_sequence_token_by_token(tiny, grids):
    layout, builder = tiny.layout, tiny.builder
    item = builder.forward(grids[0], "open the cup", grids[1])
    source, target = (layout.image_offset + grids[row].reshape(-1) for row in (0, 1))
    text = builder.text("edit open the cup")
    opening, closing = layout.begin_of_image, layout.end_of_image
    assert item.prompt.tolist() == [layout.bos, *text, opening, *source, closing, layout.end_of_turn]
    assert item.completion.tolist() == [opening, *target, closing, layout.eos]
    assert item.weights.tolist() == [1.0] * 19


def test_inverse_sequence_token_by_token(tiny, grids):
    layout, builder = tiny.layout, tiny.builder
    item = builder.inverse(grids[0], grids[1], "close the cup")
    assert item.prompt.tolist() == [
        layout.bos,
        *builder.text("infer"),
        *builder.image(grids[0]),
        *builder.image(grids[1]),
        layout.end_of_turn,
    ]
    assert item.completion.tolist() == [*builder.text("close the cup"), layout.eos]


def test_an_action_with_braces_is_text(tiny, grids):
    """`str.format` must not look into the action."""
    item = tiny.builder.forward(grids[0], "open {the} {action}", grids[1])
    assert len(item.prompt) == 1 + len(tiny.builder.text("edit open {the} {action}")) + 18 + 1


def test_loss_weights_stand_on_the_codes_only(tiny, grids):
    weights = np.arange(16, dtype=np.float32) / 8
    item = tiny.builder.forward(grids[0], "open", grids[1], weights)
    assert item.weights.tolist() == [1, *weights.tolist(), 1, 1]
    assert item.weights.dtype == np.float32


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5))
def test_every_target_follows_the_place_that_predicts_it(shapes):
    """Right padding: each completion stands where its own lengths put it."""
    sequences = [_sequence(*shape) for shape in shapes]
    batch = collate(sequences, pad=1)
    scored = batch["targets"] != -100
    following = batch["input_ids"].gather(1, batch["places"] + 1)
    assert torch.equal(following[scored], batch["targets"][scored])
    assert batch["places"][:, 0].tolist() == [prompt - 1 for prompt, _ in shapes]
    assert scored.sum(1).tolist() == [completion for _, completion in shapes]
    for row, item in zip(batch["input_ids"].tolist(), sequences, strict=True):
        tokens = [*item.prompt, *item.completion]
        assert row == tokens + [1] * (len(row) - len(tokens))
    assert torch.equal(batch["weights"] > 0, scored)


def test_collated_dtypes():
    batch = collate([_sequence(2, 3), _sequence(4, 1)], pad=1)
    assert {name: value.dtype for name, value in batch.items()} == {
        "input_ids": torch.int64,
        "places": torch.int64,
        "targets": torch.int64,
        "weights": torch.float32,
    }
    assert batch["input_ids"].tolist() == [[10, 11, 12, 13, 14], [10, 11, 12, 13, 14]]
    assert batch["targets"].tolist() == [[12, 13, 14], [14, -100, -100]]
    assert batch["places"].tolist() == [[1, 2, 3], [3, 0, 0]]
    assert batch["weights"][1].tolist() == pytest.approx([1, 0, 0])
