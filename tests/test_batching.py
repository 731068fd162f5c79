"""Batches of like length: nothing lost, little padding, the same order for the same seed and epoch."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.training.engine.batching import LengthGroupedSampler


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=300), st.integers(1, 16), st.integers(0, 5))
def test_an_epoch_holds_every_item_once(lengths, batch_size, epoch):
    sampler = LengthGroupedSampler(lengths, batch_size, 3)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths)))


def test_order_depends_on_seed_and_epoch_alone():
    lengths = [random.Random(0).randint(1, 99) for _ in range(500)]
    one, other = LengthGroupedSampler(lengths, 8, 1), LengthGroupedSampler(lengths, 8, 1)
    first = list(one)
    one.set_epoch(1)
    second = list(one)
    other.set_epoch(1)  # straight to the second epoch, as after a resume
    assert list(other) == second != first
    assert list(LengthGroupedSampler(lengths, 8, 2)) != first


def test_neighbours_have_like_lengths():
    generator = random.Random(1)
    lengths = [generator.choice([80, 135, 147]) for _ in range(2400)]
    order = list(LengthGroupedSampler(lengths, 24, 0))
    padded = sum(24 * max(lengths[i] for i in order[start : start + 24]) for start in range(0, 2400, 24))
    assert padded < 1.1 * sum(lengths)  # at random it would be a fifth more
