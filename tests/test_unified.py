"""The unified model in its two roles, and the door to it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from visdyn.images import to_pixels
from visdyn.models import load_model
from visdyn.models.protocols import ForwardDynamics, InverseDynamics
from visdyn.models.token.unified import TokenForwardDynamics, TokenInverseDynamics, UnifiedModel

ACTIONS = ["open the cup", "close the red cup", "take lamp"]


def test_roles_answer_the_protocols(tiny_folder):
    inverse, forward = load_model(tiny_folder, "idp"), load_model(tiny_folder, "fdp")
    assert isinstance(inverse, InverseDynamics)
    assert isinstance(forward, ForwardDynamics)
    assert isinstance(inverse, TokenInverseDynamics)
    assert isinstance(forward, TokenForwardDynamics)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model at .*absent; run the stage that trains it"):
        load_model(tmp_path / "absent")


def test_an_unknown_task_is_refused_before_loading(tmp_path):
    with pytest.raises(ValueError, match="unknown task 'sideways'; one of idp, fdp or None"):
        load_model(tmp_path, "sideways")


def test_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bagel"}))
    with pytest.raises(ValueError, match="family 'bagel'"):
        load_model(tmp_path)


def test_round_trip(tiny, scenes, tmp_path):
    changed = UnifiedModel(
        tiny.lm, type(tiny.builder)(tiny.builder.tokenizer, tiny.layout, "take {action}", "close"), tiny.vqgan
    )
    changed.save(tmp_path / "renamed")
    again = load_model(tmp_path / "renamed")
    assert (again.name, again.builder.fdm_prompt, again.builder.idm_prompt) == ("renamed", "take {action}", "close")
    assert again.layout == tiny.layout
    assert not again.lm.training
    assert np.array_equal(again.encode(list(scenes)), tiny.encode(list(scenes)))
    arguments = (list(scenes[:3]), ACTIONS, list(scenes[3:6]))
    torch.testing.assert_close(
        again.forward_dynamics.log_likelihood(*arguments), changed.forward_dynamics.log_likelihood(*arguments)
    )


def test_codes_and_images(tiny, scenes):
    codes = tiny.encode(list(scenes), batch_size=5)
    assert codes.shape == (12, 4, 4)
    assert codes.dtype == np.int64
    assert len(np.unique(codes)) > 8
    assert np.array_equal(codes, tiny.vqgan.encode(to_pixels(scenes)).numpy())
    images = tiny.decode(codes, batch_size=5)
    assert images.shape == scenes.shape
    assert images.dtype == np.uint8
    assert np.array_equal(images[7:8], tiny.decode(codes[7:8]))


def test_inverse_scores_count_the_words_of_the_action(tiny, scenes):
    scores = tiny.inverse_dynamics.score(list(scenes[:3]), list(scenes[3:6]), ACTIONS)
    assert scores.num_tokens.tolist() == [3, 4, 2]
    assert (scores.mean < 0).all()
    assert torch.equal(scores.mean, tiny.inverse_dynamics.log_likelihood(list(scenes[:3]), list(scenes[3:6]), ACTIONS))


def test_forward_scores_count_the_codes_and_see_the_action(tiny, scenes):
    role, sources, targets = tiny.forward_dynamics, list(scenes[:3]), list(scenes[3:6])
    scores = role.score(sources, ACTIONS, targets)
    assert scores.num_tokens.tolist() == [16] * 3
    assert (role.log_likelihood(sources, ACTIONS[::-1], targets)[[0, 2]] != scores.mean[[0, 2]]).all()
    assert (role.log_likelihood(targets, ACTIONS, sources) != scores.mean).all()


def test_predictions_are_words(tiny, scenes):
    predictions = tiny.inverse_dynamics.predict(list(scenes[:3]), list(scenes[3:6]))
    assert len(predictions) == 3
    words = set(tiny.builder.tokenizer.get_vocab())
    assert all(set(text.split()) <= words for text in predictions)
    assert predictions[:1] == tiny.inverse_dynamics.predict(list(scenes[:1]), list(scenes[3:4]))


def test_samples_follow_the_generator(tiny, scenes):
    role = tiny.forward_dynamics
    first = role.sample(scenes[0], "open the cup", 3, torch.Generator().manual_seed(1))
    again = role.sample(scenes[0], "open the cup", 3, torch.Generator().manual_seed(1))
    other = role.sample(scenes[0], "open the cup", 3, torch.Generator().manual_seed(2))
    assert len(first) == 3
    assert first[0].shape == (16, 16, 3)
    assert first[0].dtype == np.uint8
    assert all(np.array_equal(left, right) for left, right in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], first[1])


def test_a_greedy_role_repeats_itself(tiny, scenes):
    images = TokenForwardDynamics(tiny, temperature=0).sample(scenes[0], "open the cup", 2)
    assert np.array_equal(images[0], images[1])
