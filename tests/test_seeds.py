"""Seeds of items: the values that the published results were drawn with."""

from __future__ import annotations

import numpy as np

from visdyn.compute import seeds
from visdyn.inference.annotation import Decoding


def test_seeds_are_those_that_results_were_drawn_with():
    assert seeds.item_seed(7, "P01_02_3-forward") == 32475375482651554
    assert seeds.item_seed(7, "kitchen", "12") == 21227044838383338
    assert seeds.sampling_generator(7, "kitchen", "12").initial_seed() == 21227044838383338
    assert seeds.training_generator(7, 12).initial_seed() == 70717011292986097
    assert seeds.label_generator(7, "a pair").initial_seed() == 266374687
    assert seeds.epoch_generator(7, 2).initial_seed() == 700023
    assert seeds.named_seeds(7, "kitchen") == [7, 3936603700]


def test_the_draws_of_labels_are_those_that_results_were_drawn_with():
    expected = [[0.5754965902340394, 0.0016958915402323083], [0.7844019002803183, 0.5422077988745573]]
    drawn = Decoding("sample", seed=7, max_new_tokens=2).draws(["a pair", "another"])
    np.testing.assert_array_equal(drawn.numpy(), expected)
