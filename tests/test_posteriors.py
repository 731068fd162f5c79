"""Posteriors kept for a whole training: the same latents, the same loss, no autoencoder in the step."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from test_bagel_model import picture, small_config
from toy_bagel import MIXTURES, RECORDS, batch_of, mixture

from visdyn.models.bagel import Autoencoder, Bagel, Dropout
from visdyn.params.doundo import Consistency
from visdyn.training.bagel.objective import BagelObjective
from visdyn.training.bagel.posteriors import PosteriorCache, posterior_cache


@pytest.fixture(scope="module")
def model() -> Bagel:
    torch.manual_seed(0)
    config = small_config()
    model = Bagel(config, Autoencoder(config.autoencoder).requires_grad_(False).eval())
    torch.nn.init.normal_(model.llm2vae.weight, std=0.1)
    return model


@pytest.fixture
def limits(model):
    return model.config.transforms["vae"]


def loss_of(model: Bagel, batch) -> torch.Tensor:
    return BagelObjective(model, consistency=Consistency(0.5))(batch)["loss"]


@pytest.mark.parametrize("where", ["memory", "folder"])
@pytest.mark.parametrize("weights", MIXTURES, ids=lambda weights: "+".join(weights))
def test_a_step_has_the_same_loss_and_does_not_encode(model, weights, where, tmp_path, monkeypatch):
    used = {kind: RECORDS[kind] for kind in weights}
    cache = posterior_cache(where if where == "memory" else str(tmp_path), model, used)
    options = {"dropout": Dropout(text=0.3, vit=0.3, vae=0.5), "seed": 3}
    if len(weights) > 2:  # images of two sizes: padding changes how the smaller ones are encoded in a pack
        options["dropout"] = Dropout()
    drawn = [0] if len(weights) > 2 else range(6)
    expected = loss_of(model, batch_of(mixture(weights, **options), *drawn))
    data = mixture(weights, **options, posteriors=cache)
    monkeypatch.setattr(Autoencoder, "moments", lambda *_: pytest.fail("the autoencoder ran in a step"))
    torch.testing.assert_close(loss_of(model, batch_of(data, *drawn)), expected, atol=1e-5, rtol=1e-5)


def test_the_posterior_is_sampled_anew_for_each_draw(model):
    cache = posterior_cache("memory", model, {"edit": RECORDS["edit"]})
    data = mixture({"edit": 1.0}, 9, posteriors=cache)
    latents = [batch_of(data, index).latents for index in range(9) if data.rows[index] == 0]
    assert len(latents) == 3
    assert not torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])


def test_other_weights_do_not_share_entries(model, limits, tmp_path):
    image = picture(16, 16, 0)
    assert PosteriorCache(model.vae, limits, tmp_path).fill(model.vae, [image, image]) == 1
    assert PosteriorCache(model.vae, limits, tmp_path).fill(model.vae, [image]) == 0
    torch.manual_seed(1)
    other = Autoencoder(model.config.autoencoder)
    assert PosteriorCache(other, limits, tmp_path).fill(other, [image]) == 1


def test_a_file_that_changed_or_was_not_filled_is_refused_by_name(model, limits, tmp_path):
    file = tmp_path / "frame.png"
    Image.fromarray(np.asarray(picture(16, 16, 0))).save(file)
    cache = PosteriorCache(model.vae, limits, tmp_path / "kept")
    with pytest.raises(LookupError, match=r"frame\.png has no posterior"):
        cache(file)
    cache.fill(model.vae, [file])
    assert cache(file).shape == cache(str(file)).shape
    os.utime(file, (1, 1))  # the same size: only the time tells
    with pytest.raises(LookupError, match=r"frame\.png has no posterior"):
        cache(file)


def test_ranks_share_a_folder_and_encode_each_image_once(model, limits, tmp_path, monkeypatch):
    images = [picture(16, 16, seed) for seed in range(4)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    counts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        counts.append(PosteriorCache(model.vae, limits, tmp_path).fill(model.vae, images))
    assert counts == [4, 0]
    assert not list(tmp_path.rglob("*.draft"))


def test_the_cache_takes_no_weights_to_other_processes(model, limits):
    cache = PosteriorCache(model.vae, limits)
    cache.fill(model.vae, [picture(16, 16, seed) for seed in range(3)])
    again = pickle.loads(pickle.dumps(cache))
    assert torch.equal(again(picture(16, 16, 1)), cache(picture(16, 16, 1)))
    entries = sum(entry.nbytes for entry in cache.kept.values())
    overhead = len(pickle.dumps([torch.zeros(0)] * len(cache.kept))) + 1000 * len(cache.kept)
    assert len(pickle.dumps(cache)) < entries + overhead < sum(v.nbytes for v in model.vae.model.parameters())
