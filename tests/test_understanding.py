"""The probed understanding models: a tiny random one of each class, saved, loaded, scored against plain forwards."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from plain_forwards import mark, plain, plain_inputs, plain_interleaved, rendered
from tiny_vlms import edit, save_tiny

from visdyn.models.protocols import ForwardDynamics, InverseDynamics
from visdyn.models.understanding import families as understanding_families
from visdyn.models.understanding import understanding_model as understanding
from visdyn.models.understanding.inputs import collate
from visdyn.models.understanding.understanding_model import (
    DEFINITIONS,
    UnderstandingForwardLikelihood,
    UnderstandingModel,
)
from visdyn.params.prompts import UnderstandingPrompts

ACTIONS = ["open the drawer", "put it", "take the red cup off the table"]
CASES = ["qwen2_vl", "qwen2_5_vl", "llava", "llava_next", "qwen2_5_omni", "qwen2_5_omni_thinker"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint folder per family."""
    return {name: save_tiny(name, tmp_path_factory.mktemp(name)) for name in CASES}


@pytest.fixture(scope="module")
def models(folders):
    return {name: UnderstandingModel.from_pretrained(path) for name, path in folders.items()}


@pytest.fixture(scope="module")
def images():
    """Six images of different sizes, so that most models give them different numbers of tokens."""
    draw = np.random.default_rng(0)
    sizes = [(20, 30), (40, 16), (16, 16), (12, 36), (24, 24), (33, 17)]
    return [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("name", CASES)
def test_action_scores_equal_plain_forwards(models, images, name):
    model = models[name]
    scores = model.inverse_dynamics.score(images[:3], images[3:], ACTIONS)
    for row, action in enumerate(ACTIONS):
        pair = [images[row], images[row + 3]]
        expected = plain(model, rendered(name, 2, UnderstandingPrompts.idm), pair, action)
        assert scores.num_tokens[row] == len(action)  # one token a byte
        torch.testing.assert_close(scores.mean[row], expected.mean(), atol=1e-4, rtol=0)
        torch.testing.assert_close(scores.total[row], expected.sum(), atol=1e-4 * len(action), rtol=0)
    assert isinstance(model.inverse_dynamics, InverseDynamics)


@pytest.mark.parametrize("name", CASES)
def test_padding_and_batches_do_not_matter(models, images, name):
    from dataclasses import replace

    arguments = (images[:3], images[3:], ACTIONS)
    expected = models[name].inverse_dynamics.log_likelihood(*arguments)
    for changes in ({"padding_side": "left"}, {"batch_size": 1}, {"batch_size": 2, "padding_side": "left"}):
        scores = replace(models[name], **changes).inverse_dynamics.log_likelihood(*arguments)
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_padding_does_not_matter_where_every_token_is_scored(models, images, name):
    from dataclasses import replace

    right, left = (
        UnderstandingForwardLikelihood(replace(models[name], padding_side=side), "D2", 24) for side in ("right", "left")
    )
    arguments = (images[:3], ACTIONS, images[3:])
    scores = right.score(*arguments)
    assert scores.num_tokens.unique().numel() == 3
    assert torch.equal(left.score(*arguments).num_tokens, scores.num_tokens)
    torch.testing.assert_close(left.log_likelihood(*arguments), scores.mean, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_scores_see_both_images_and_their_order(models, images, name):
    role = models[name].inverse_dynamics
    sources = [images[0], images[1], images[1], images[0]]
    targets = [images[1], images[0], images[2], images[0]]
    scores = role.log_likelihood(sources, targets, ["open it"] * 4)
    assert len(set(scores.tolist())) == 4
    assert (scores.diff().abs() > 0.01).all()


@pytest.mark.parametrize("name", CASES)
def test_next_observation_scores_equal_plain_forwards(models, images, name):
    """D2 is labels = input; D2-target its last image alone."""
    model, side = models[name], 24
    role = {name: UnderstandingForwardLikelihood(model, name, side) for name in DEFINITIONS}
    rows = list(zip(images[:3], ACTIONS, images[3:], strict=True))
    scores = {name: role[name].score(*zip(*rows, strict=True)) for name in ("D2", "D2-target")}
    for row, (source, action, target) in enumerate(rows):
        text = rendered(name, 1, UnderstandingPrompts.fdm.format(action=action))
        image = mark(name).strip()
        pictures = [understanding.load_picture(ref, side) for ref in (source, target)]
        values, marks = plain_interleaved(model, text + image, pictures)
        torch.testing.assert_close(scores["D2"].mean[row], values.mean(), atol=1e-4, rtol=0)
        own = values[marks]
        assert scores["D2-target"].num_tokens[row] == len(own)
        torch.testing.assert_close(scores["D2-target"].mean[row], own.mean(), atol=1e-4, rtol=0)
    assert scores["D2-target"].num_tokens.unique().numel() == 1


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_next"])
def test_the_verbal_judgement_is_a_log_odds(models, images, name):
    role = UnderstandingForwardLikelihood(models[name], "D3", side=None)
    scores = role.score(images[:2], ACTIONS[:2], images[2:4])
    for row in range(2):
        text = rendered(name, 2, UnderstandingPrompts.yes_no.format(action=ACTIONS[row]))
        yes, no = (plain(models[name], text, [images[row], images[row + 2]], word) for word in "YN")
        torch.testing.assert_close(scores.mean[row], yes[0] - no[0], atol=1e-4, rtol=0)
    assert scores.num_tokens.tolist() == [1, 1]


def test_definitions_are_labelled_and_none_samples(models):
    role = models["llava"].forward_dynamics
    assert role.definition == "D2"
    assert not isinstance(role, ForwardDynamics)
    with pytest.raises(ValueError, match=r"unknown definition 'D1' \(D1 needs an image vocabulary\); one of D2"):
        UnderstandingForwardLikelihood(models["llava"], "D1")


@pytest.mark.parametrize("name", CASES)
def test_predictions_are_the_greedy_continuation(models, images, name):
    model = models[name]
    role = understanding.UnderstandingInverseDynamics(model, max_new_tokens=4)
    answers = role.predict(images[:2], images[2:4])
    for row, answer in enumerate(answers):
        inputs = plain_inputs(model, rendered(name, 2, UnderstandingPrompts.idm), [images[row], images[row + 2]])
        tokens = model.lm.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=4)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        assert answer == model.chat.tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("name", CASES)
def test_half_precision_loads_and_scores(folders, models, images, name):
    half = UnderstandingModel.from_pretrained(folders[name], dtype="bfloat16")
    assert half.lm.dtype == torch.bfloat16
    scores = half.inverse_dynamics.log_likelihood(images[:3], images[3:], ACTIONS)
    assert scores.dtype == torch.float32
    expected = models[name].inverse_dynamics.log_likelihood(images[:3], images[3:], ACTIONS)
    torch.testing.assert_close(scores, expected, atol=0.3, rtol=0)


def test_images_of_a_batch_are_encoded_once(models, images, monkeypatch):
    model, seen = models["llava"], []
    encode = UnderstandingModel.encode
    monkeypatch.setattr(
        UnderstandingModel, "encode", lambda self, found, side: seen.append(len(found)) or encode(self, found, side)
    )
    model.inverse_dynamics.score([images[0]] * 3, [images[1], images[1], images[0]], ACTIONS)
    assert seen == [2]


def test_the_full_checkpoint_and_its_thinker_agree(models, images):
    arguments = (images[:3], images[3:], ACTIONS)
    scores = [models[name].inverse_dynamics.log_likelihood(*arguments) for name in CASES[-2:]]
    assert torch.equal(*scores)


def test_a_placeholder_in_an_action_is_refused(models, images):
    with pytest.raises(ValueError, match="cannot be scored: it is empty or holds an image placeholder"):
        models["llava"].inverse_dynamics.score(images[:1], images[1:2], ["put <image> on"])
    with pytest.raises(ValueError, match="holds 2 image placeholders for 1 images"):
        models["llava"].forward_dynamics.score(images[:1], ["put <image> on"], images[1:2])
    with pytest.raises(ValueError, match="it is empty"):
        models["llava"].inverse_dynamics.score(images[:1], images[1:2], [""])


def test_a_missing_template_is_named(folders, tmp_path):
    import shutil

    shutil.copytree(folders["llava"], tmp_path / "bare")
    (tmp_path / "bare/chat_template.json").unlink()
    edit(tmp_path / "bare/tokenizer_config.json", chat_template=None)
    with pytest.raises(ValueError, match=r"bare has no chat template; put the family's chat_template\.jinja beside it"):
        UnderstandingModel.from_pretrained(tmp_path / "bare")


def test_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="is a model of type 'bert'; one of qwen2_vl,"):
        understanding_families.family_of(tmp_path)


def test_every_probed_model_has_a_class():
    import transformers

    probed = understanding_families.PROBED_MODELS
    assert len({model.name for model in probed}) == 9
    families = [understanding_families.FAMILIES[model.model_type] for model in probed[:-1]]
    assert all(hasattr(transformers, family.class_name) for family in families)
    assert probed[-1].model_type == "chameleon"


def test_collated_rows_stand_on_the_asked_side():
    rows = [(np.array([5, 6]), np.array([False, True])), (np.array([7]), np.array([True]))]
    right, left = (collate(rows, 9, side) for side in ("right", "left"))
    assert right["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert left["input_ids"].tolist() == [[5, 6], [9, 7]]
    assert left["attention_mask"].tolist() == [[1, 1], [0, 1]]
    assert left["scored"].tolist() == [[False, True], [False, True]]
