"""The recipe of the tiny base model, and the arms that are fine-tuned from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visdyn.models import load_model
from visdyn.params import load_params
from visdyn.training.arms import ARMS, ChainInputs, arm, fdm_jobs
from visdyn.training.tiny.base_model import base_mixture, train_base

CAPTIONS = ["the red cup", "the blue lamp", "open the drawer"]


def test_the_mixture_has_four_kinds_in_equal_parts(tiny, grids):
    builder, layout = tiny.builder, tiny.layout
    pairs = grids[6:10].reshape(2, 2, 4, 4)
    sequences = base_mixture(builder, grids[:3], CAPTIONS, pairs, seed=0)
    assert len(sequences) == 12
    caption, picture, later, second = sequences[4:8]
    image, text = builder.image(grids[1]), builder.text(CAPTIONS[1])
    assert caption.prompt.tolist() == [layout.bos, *image, layout.end_of_turn]
    assert caption.completion.tolist() == [*text, layout.eos]
    assert picture.prompt.tolist() == [layout.bos, *text, layout.end_of_turn]
    assert picture.completion.tolist() == [*image, layout.eos]
    assert picture.weights.tolist() == [1, *[0.5] * 16, 1, 1]
    ends = [[builder.image(frame) for frame in pair] for pair in pairs]
    assert [later.prompt.tolist()[1:-1], later.completion.tolist()[:-1]] in ends
    assert second.prompt.tolist()[19:] == [*image, layout.end_of_turn]
    assert second.completion.tolist() == caption.completion.tolist()
    again = base_mixture(builder, grids[:3], CAPTIONS, pairs, seed=0)
    assert all(np.array_equal(one.prompt, two.prompt) for one, two in zip(sequences, again, strict=True))


def test_the_recipe_writes_a_model_that_loads(tiny, tiny_folder, scenes, tmp_path):
    np.save(tmp_path / "images.npy", scenes[:6])
    np.save(tmp_path / "pairs.npy", scenes[:8].reshape(4, 2, 16, 16, 3))
    lines = [json.dumps({"caption": caption}) for caption in CAPTIONS * 2]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n")
    train_base(
        images=str(tmp_path / "images.npy"),
        captions=str(tmp_path / "captions.jsonl"),
        pairs=str(tmp_path / "pairs.npy"),
        vqgan=str(tiny_folder / "vqgan"),
        output=str(tmp_path / "base"),
        architecture={"hidden_size": 32, "intermediate_size": 64, "num_layers": 1, "num_heads": 2},
        recipe={"steps": 3, "batch_size": 4, "learning_rate": 1e-3, "log_every": 1},
        scratch=str(tmp_path / "scratch"),
        extra_words=["stack"],
    )
    model = load_model(tmp_path / "base")
    assert model.layout.num_image_codes == 16
    vocabulary = model.builder.tokenizer.get_vocab()
    assert {"edit", "infer", "stack", "lamp"} <= set(vocabulary)
    assert np.array_equal(model.encode(list(scenes)), tiny.encode(list(scenes)))
    assert len((tmp_path / "base" / "training.csv").read_text().splitlines()) == 4


def test_jobs_of_the_arms():
    files = {"supervised": "s.npz", "idm": "i.npz", "true": "t.npz", "shuffled": "d.npz"}
    params = load_params("profiles/paper").fdm  # 40 epochs of batches of 96
    params = replace(params, arms=tuple(ARMS), first_chain_arms=(), floor=0.4)
    sizes = {"supervised": 96, "idm": 97, "true": 1, "shuffled": 97}
    inputs = {chain: ChainInputs(f"base{chain}", 70 + chain, files, sizes) for chain in (0, 1)}
    jobs = fdm_jobs(params, inputs, Path("models/fdm"))
    assert len({job.name for job in jobs}) == 16
    by_name = {job.name: job.arguments for job in jobs}
    chosen = by_name["synthetic_weighted-s1"]
    weighted = {"task": "fdm", "weighting": "recognition", "floor": 0.4, "seed": 71}
    assert chosen["data"] == {"paths": ("s.npz", "i.npz"), **weighted}
    assert by_name["weights_permuted-s1"]["data"] == chosen["data"] | {"weighting": "permuted"}
    assert by_name["labels_shuffled-s1"]["data"] == chosen["data"] | {"paths": ("s.npz", "d.npz")}
    assert by_name["labels_shuffled-s1"]["config"] == by_name["weights_permuted-s1"]["config"] == chosen["config"]
    assert (chosen["config"]["base"], chosen["config"]["lora"]["rank"], chosen["seed"]) == ("base1", 16, 71)
    steps = {name: job["config"]["training"]["steps"] for name, job in by_name.items()}
    assert (steps["supervised-s1"], steps["synthetic-s1"], steps["synthetic_weighted_true-s0"]) == (40, 120, 80)
    assert chosen["output"] == str(Path("models/fdm/synthetic_weighted-s1"))
    data = {name: job["data"] for name, job in by_name.items()}
    assert data["supervised-s0"]["paths"] == ("s.npz",)
    assert data["supervised-s0"]["weighting"] == data["synthetic-s0"]["weighting"] == "uniform"
    assert data["synthetic_weighted_nofloor-s0"]["floor"] == 0
    assert data["synthetic_weighted_true-s0"]["paths"] == ("s.npz", "t.npz")


def test_an_unknown_arm_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown FDM arm 'both'; one of supervised, supervised_weighted"):
        arm("both")
