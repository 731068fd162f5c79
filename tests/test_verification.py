"""Verification: the candidate from which the IDM best reads the action."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from visdyn.inference.generation import generate
from visdyn.inference.verification import best_of_k, score_candidates
from visdyn.trajectory import Trajectory


@dataclass
class _Sampler:
    """Samples images that are filled with their number."""

    seen: list = field(default_factory=list)

    def sample(self, source, action, num_samples, generator=None):
        self.seen.append((action, num_samples, generator))
        return [np.full((2, 2, 3), number, np.uint8) for number in range(num_samples)]


@dataclass
class _Reader:
    """Gives image number n the n-th reward."""

    rewards: list

    def log_likelihood(self, sources, targets, actions):
        assert len(sources) == len(targets) == len(actions)
        return torch.tensor([self.rewards[int(image[0, 0, 0])] for image in targets])


def test_the_best_candidate_is_kept():
    sampler, generator = _Sampler(), torch.Generator()
    verified = best_of_k(sampler, _Reader([-3.0, -1.0, -2.0, -1.5]), None, "open", 4, generator)
    assert verified.index == 1
    assert (verified.image == 1).all()
    assert verified.rewards.tolist() == [-3.0, -1.0, -2.0, -1.5]
    assert sampler.seen == [("open", 4, generator)]


def test_ties_go_to_the_first():
    assert best_of_k(_Sampler(), _Reader([-2.0, -1.0, -1.0]), None, "open", 3).index == 1


@pytest.mark.parametrize("k", [0, -1])
def test_fewer_than_one_candidate_is_refused(k):
    with pytest.raises(ValueError, match=f"k must be at least 1, not {k}"):
        best_of_k(_Sampler(), _Reader([]), None, "open", k)


def test_more_candidates_never_lower_the_reward(tiny, scenes):
    arguments = (tiny.forward_dynamics, tiny.inverse_dynamics, scenes[0], "open the cup")
    rewards = []
    for k in (1, 2, 4):
        verified = best_of_k(*arguments, k, torch.Generator().manual_seed(0))
        rewards.append(float(verified.rewards.max()))
        again = tiny.inverse_dynamics.log_likelihood([scenes[0]], [verified.image], ["open the cup"])
        assert float(again) == pytest.approx(rewards[-1], abs=1e-4)
    assert rewards == sorted(rewards)


def test_scored_candidates_agree_with_the_models(tiny, scenes):
    items = [
        Trajectory(scenes[row], action, scenes[row + 2], "kitchen", str(row))
        for row, action in enumerate(["open the cup", "take lamp"])
    ]
    scored = score_candidates(tiny.forward_dynamics, tiny.inverse_dynamics, items, k=3, seed=5)
    images, codes = generate(tiny.forward_dynamics, items, 3, seed=5)
    assert np.array_equal(scored.images, images)
    assert scored.inverse.shape == scored.forward.shape == (2, 3)
    for row, item in enumerate(items):
        repeated = [item.source] * 3, [item.action] * 3
        inverse = tiny.inverse_dynamics.log_likelihood(repeated[0], list(images[row]), repeated[1])
        np.testing.assert_allclose(scored.inverse[row], inverse, atol=1e-4)
        forward = tiny.forward_dynamics.score_codes(tiny.encode(repeated[0]), repeated[1], codes[row]).mean
        np.testing.assert_allclose(scored.forward[row], forward, atol=1e-4)
    fewer = score_candidates(tiny.forward_dynamics, tiny.inverse_dynamics, items, k=1, seed=5)
    np.testing.assert_allclose(fewer.inverse[:, 0], scored.inverse[:, 0], atol=1e-4)


def test_nothing_is_chosen_by_likelihoods_that_are_no_numbers():
    class Model:
        def __init__(self, rewards):
            self.rewards = torch.tensor(rewards)

        def sample(self, source, action, num_samples, generator=None):
            return [np.full((2, 2, 3), number, np.uint8) for number in range(num_samples)]

        def log_likelihood(self, sources, targets, actions):
            return self.rewards

    known, unknown = Model([torch.nan, -2.0]), Model([torch.nan, torch.nan])
    assert best_of_k(known, known, None, "open", 2).index == 1
    with pytest.raises(ValueError, match="none of the 2 candidates' likelihoods is a finite number"):
        best_of_k(unknown, unknown, None, "open", 2)
