"""The IDM's evaluation on held-out pairs: what is asked, and how many pairs go through a model together."""

from __future__ import annotations

import pandas as pd

from visdyn.evaluation.benches import inverse
from visdyn.inference.probing import probe
from visdyn.models import load_model
from visdyn.models.token.decoding import generate_text
from visdyn.trajectory import Trajectory

ACTIONS = ["open the drawer", "close the drawer", "take the cup", "put the cup on the lamp", "open the lamp"]


def _items(scenes):
    return [Trajectory(scenes[row], text, scenes[row + 5], "ag", str(row)) for row, text in enumerate(ACTIONS)]


def test_pairs_go_together_as_their_tokens_allow_and_only_actions_are_scored(tiny_folder, scenes, monkeypatch):
    sizes = []

    def counted(lm, layout, prompts, most, batch_size, **options):
        sizes.append(batch_size)
        return generate_text(lm, layout, prompts, most, batch_size, **options)

    monkeypatch.setattr("visdyn.models.token.unified.generate_text", counted)
    items, models = _items(scenes), {("idm", 1): tiny_folder}
    predictions, likelihoods = inverse.examine(models, items, seed=0)
    monkeypatch.setattr(inverse, "TOKENS_AT_ONCE", 2 * 16 * 2)  # two pairs of 16 codes an image
    few, again = inverse.examine(models, items, seed=0)
    assert sizes == [64, 2]
    assert set(predictions["chain"]) == {1}
    pd.testing.assert_frame_equal(few, predictions)
    pd.testing.assert_frame_equal(again, likelihoods, rtol=1e-5)
    whole = probe(load_model(tiny_folder), items, 0, "idm", chain=1)
    expected = whole[whole["task"] == "idp"].reset_index(drop=True)
    pd.testing.assert_frame_equal(likelihoods.reset_index(drop=True), expected, rtol=1e-5)
