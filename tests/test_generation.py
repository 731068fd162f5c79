"""Seeded generation: candidate k of an item is the same whatever else is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visdyn.compute.seeds import sampling_generator
from visdyn.inference.generation import generate, item_draws
from visdyn.trajectory import Trajectory


@pytest.fixture(scope="module")
def items(scenes):
    actions = ["open the cup", "close the red cup", "take the lamp"]
    return [Trajectory(scenes[row], action, scenes[row + 6], "kitchen", str(row)) for row, action in enumerate(actions)]


def test_candidate_k_does_not_depend_on_the_number_of_candidates(items):
    one, eight = item_draws(items, 1, 64, seed=3), item_draws(items, 8, 64, seed=3)
    assert eight.shape == (3, 8, 64)
    assert torch.equal(one[:, 0], eight[:, 0])
    assert torch.equal(item_draws(items[1:2], 8, 64, seed=3)[0], eight[1])


def test_draws_differ_between_items_seeds_and_candidates(items):
    draws = item_draws(items, 2, 16, seed=3)
    other = item_draws(items, 2, 16, seed=4)
    assert len({tuple(row.tolist()) for part in (draws, other) for row in part.reshape(-1, 16)}) == 12
    assert float(draws.min()) >= 0
    assert float(draws.max()) < 1


def test_the_generator_depends_on_subset_and_id_only(scenes):
    first = Trajectory(scenes[0], "open", scenes[1], "a", "1")
    same = Trajectory(scenes[2], "close", scenes[3], "a", "1")
    other = Trajectory(scenes[0], "open", scenes[1], "b", "1")
    values = [
        torch.rand(4, generator=sampling_generator(0, item.subset, item.id)).tolist() for item in (first, same, other)
    ]
    assert values[0] == values[1] != values[2]


def test_generated_images_are_prefixes_of_larger_sets(tiny, items):
    role = tiny.forward_dynamics
    images, codes = generate(role, items, 4, seed=0)
    assert images.shape == (3, 4, 16, 16, 3)
    assert images.dtype == np.uint8
    assert codes.shape == (3, 4, 4, 4)
    fewer, few_codes = generate(role, items[1:], 2, seed=0)
    assert np.array_equal(few_codes, codes[1:, :2])
    assert np.array_equal(fewer, images[1:, :2])
    assert np.array_equal(tiny.decode(codes[:, 0]), images[:, 0])
