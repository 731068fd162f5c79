"""The words that models are asked in: parameters for public checkpoints, their own for those that were trained here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import build_tiny_model
from tiny_tokens import public_vqgan, save_anole, save_liquid, tiny_liquid
from tiny_vlms import save_tiny

from visdyn.evaluation.benches.inverse import describe
from visdyn.models import load_model
from visdyn.params import load_params
from visdyn.params.dynamics import DynamicsFineTuning, FineTuning
from visdyn.params.prompts import DynamicsPrompts, Prompts, UnderstandingPrompts
from visdyn.training.dynamics import train_dynamics
from visdyn.training.triplets import DynamicsTriplets, save_triplets
from visdyn.trajectory import Trajectory

OTHER = Prompts(
    chameleon=DynamicsPrompts("take {action}", "open"),
    liquid=DynamicsPrompts("close {action}", "take"),
    understanding=UnderstandingPrompts("Do {action}", "What was done?", "Is it {action}?"),
)
WORDS = {*DynamicsPrompts.fdm.split(), *DynamicsPrompts.idm.split(), "prompt", "images", "open", "take", "cup"}


@pytest.fixture(scope="module")
def anole(tmp_path_factory):
    """A tiny Anole in the public layout: no dynamics.json."""
    model = build_tiny_model(words=WORDS)
    model.vqgan = public_vqgan()
    return save_anole(model, tmp_path_factory.mktemp("hub") / "chameleon-7b")


def _said(model, ids) -> str:
    return model.builder.tokenizer.decode([token for token in ids if token >= model.layout.image_offset + 16])


def test_what_is_asked_by_default_is_what_the_parameters_say():
    assert load_params().prompts == Prompts() == load_params("profiles/paper").prompts
    texts = [Prompts().chameleon, Prompts().liquid, Prompts().understanding]
    assert all(len(prompt.fdm.split()) > 4 and len(prompt.idm.split()) > 4 for prompt in texts)


def test_a_public_checkpoint_is_asked_in_sentences_or_as_the_parameters_say(anole):
    grid = np.zeros((4, 4), np.int64)
    model = load_model(anole)
    assert (model.builder.fdm_prompt, model.builder.idm_prompt) == (DynamicsPrompts.fdm, DynamicsPrompts.idm)
    prompt = model.builder.forward_prompt(grid, "open cup")
    assert "editing the given image according to the following prompt open cup" in _said(model, prompt)
    assert "infer the action between" in _said(model, model.builder.inverse_prompt(grid, grid))
    other = load_model(anole, prompts=OTHER)
    assert "take open cup" in _said(other, other.builder.forward_prompt(grid, "open cup"))


def test_each_family_has_its_own_words(tmp_path):
    save_liquid(tiny_liquid(public_vqgan()), tmp_path / "liquid", tmp_path / "vqgan")
    liquid = load_model(tmp_path / "liquid", vqgan=tmp_path / "vqgan", prompts=OTHER)
    assert (liquid.builder.fdm_prompt, liquid.builder.idm_prompt) == ("close {action}", "take")
    pair = [np.full((28, 28, 3), value, np.uint8) for value in (20, 200)]
    folder = save_tiny("qwen2_vl", tmp_path)
    plain, other = (load_model(folder, dtype="float32", prompts=words) for words in (None, OTHER))
    assert plain.prompts == UnderstandingPrompts()
    for role, arguments in (("inverse_dynamics", (*pair, "open")), ("forward_dynamics", (pair[0], "open", pair[1]))):
        scores = [getattr(model, role).log_likelihood(*([one] for one in arguments)) for model in (plain, other)]
        assert not torch.equal(*scores)


def test_a_model_keeps_the_words_that_it_was_trained_with(anole, scenes, tmp_path):
    """Fine-tuned from a public checkpoint, it is asked later as it was taught, whatever the parameters then say."""
    save_triplets(tmp_path / "triplets.npz", load_model(anole), scenes[:4], scenes[4:8], ["open cup"] * 4)
    settings = FineTuning(
        steps=1, epochs=None, batch_size=2, learning_rate=1e-3, weight_decay=0.0, warmup_steps=0, precision="fp32"
    )
    train_dynamics(
        DynamicsFineTuning(base=str(anole), lora=None, training=settings),
        DynamicsTriplets((str(tmp_path / "triplets.npz"),), "fdm"),
        seed=0,
        output=str(tmp_path / "fdm"),
        scratch=str(tmp_path / "state"),
        prompts=OTHER,
    )
    kept = json.loads((tmp_path / "fdm/dynamics.json").read_text())
    assert (kept["fdm_prompt"], kept["idm_prompt"]) == ("take {action}", "open")
    assert load_model(tmp_path / "fdm", prompts=Prompts()).builder.fdm_prompt == "take {action}"


@pytest.mark.parametrize("text", ["Edit the image", "Edit {thing}", "Edit {}", "Edit {action"])
def test_a_prompt_without_a_place_for_the_action_is_refused(text):
    with pytest.raises(ValueError, match="action"):
        DynamicsPrompts(fdm=text)
    with pytest.raises(ValueError, match="yes_no"):
        UnderstandingPrompts(yes_no=text)


def test_the_longest_answer_is_a_parameter(tiny, scenes):
    """A model that was never fine-tuned goes on; how much of it is measured is not its own choice."""
    items = [Trajectory(scenes[0], "open", scenes[1], "magicbrush", "0")]
    short, long = (describe(tiny, items, "zero_shot", 0, count)["prediction"][0] for count in (2, 6))
    assert len(short.split()) <= 2 < len(long.split()) <= 6
    assert long.startswith(short)


def test_the_embedded_answers_fit_and_the_papers_are_not_cut_short():
    assert load_params().idm_evaluation.max_new_tokens == 16
    assert load_params("profiles/paper").idm_evaluation.max_new_tokens >= 64
