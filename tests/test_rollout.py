"""Steering: every step starts from the image that the step before has made."""

from __future__ import annotations

import numpy as np
import pytest

from visdyn.inference.generation import generate
from visdyn.inference.rollout import roll_out
from visdyn.trajectory import Trajectory


def test_a_rollout_is_the_chain_of_single_steps(tiny, scenes):
    model, sources = tiny.forward_dynamics, list(scenes[:2])
    images = roll_out(model, sources, [["open drawer", "turn on lamp"]] * 2, seed=3)
    assert images.shape == (2, 2, *sources[0].shape)
    assert images.dtype == np.uint8
    first = generate(model, [Trajectory(sources[1], "open drawer", sources[1], "rollout", "1-0")], 1, 3)[0][0, 0]
    second = generate(model, [Trajectory(first, "turn on lamp", first, "rollout", "1-1")], 1, 3)[0][0, 0]
    assert np.array_equal(images[1, 0], first)
    assert np.array_equal(images[1, 1], second)


@pytest.mark.parametrize("actions", [[["open drawer"]], [["open drawer"], ["open drawer", "turn on lamp"]]])
def test_actions_that_do_not_fit_the_sources_are_refused(tiny, scenes, actions):
    with pytest.raises(ValueError, match="lists of actions"):
        roll_out(tiny.forward_dynamics, list(scenes[:2]), actions)
