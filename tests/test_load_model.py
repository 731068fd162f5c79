"""The one door to the token models and the understanding models: folders, adapters, hub ids, in the public layouts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import build_tiny_model
from tiny_tokens import public_vqgan, save_adapter, save_anole, save_liquid, sharpen, tiny_liquid
from tiny_vlms import save_tiny

from visdyn.models import load_model
from visdyn.models.adapters import make_portable
from visdyn.models.token.liquid import LiquidModel
from visdyn.models.token.unified import UnifiedModel
from visdyn.models.understanding.understanding_model import UnderstandingModel
from visdyn.models.vqgan.preprocess import centre_crop, pad, to_pixels


@pytest.fixture(scope="module")
def images():
    """Four images of different shapes, as real data have them."""
    draw, sizes = np.random.default_rng(0), [(20, 33), (16, 16), (41, 24), (18, 18)]
    return [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def anole(tmp_path_factory):
    """The folder and the model of a tiny Anole in the public layout."""
    model = build_tiny_model()
    model.vqgan = public_vqgan()
    sharpen(model.lm)
    return save_anole(model, tmp_path_factory.mktemp("hub") / "Anole-7b-v0.1-hf"), model


@pytest.fixture(scope="module")
def liquid(tmp_path_factory):
    """The folder, the folder of the VQGAN and the model of a tiny Liquid in the public layout."""
    root, model = tmp_path_factory.mktemp("hub"), tiny_liquid(public_vqgan())
    return save_liquid(model, root / "Liquid_V1_7B", root / "chameleon"), root / "chameleon", model


@torch.inference_mode()
def _logits(model, images) -> torch.Tensor:
    codes = model.encode(images[:2])
    return model.lm(input_ids=torch.tensor([model.builder.inverse_prompt(*codes)])).logits.float()


def test_the_public_anole_layout_loads(anole, images):
    folder, saved = anole
    model = load_model(folder)
    assert type(model) is UnifiedModel
    assert (model.name, model.preprocessing) == ("Anole-7b-v0.1-hf", "centre-crop-16")
    expected = to_pixels([centre_crop(image, 16) for image in images])
    assert torch.equal(model.pixels(images), expected)
    assert np.array_equal(model.encode(images), saved.vqgan.encode(expected).numpy())
    assert len(np.unique(model.encode(images))) > 4
    asked = replace(saved.builder, idm_prompt=model.builder.idm_prompt)  # a public checkpoint brings no words
    torch.testing.assert_close(
        _logits(model, images), _logits(model.__class__(saved.lm, asked, saved.vqgan, public_pixels=True), images)
    )
    assert np.array_equal(model.decode(model.encode(images)), saved.decode(model.encode(images)))


def test_the_public_liquid_layout_loads_with_the_vqgan_named(liquid, images):
    folder, vqgan, saved = liquid
    model = load_model(folder, vqgan=vqgan)
    assert type(model) is LiquidModel
    assert (model.name, model.preprocessing) == ("Liquid_V1_7B", "pad-16")
    assert torch.equal(model.pixels(images), to_pixels([pad(image, 16) for image in images]))
    torch.testing.assert_close(_logits(model, images), _logits(saved, images))
    assert [
        role.model.name for role in (load_model(folder, "idp", vqgan=vqgan), load_model(folder, "fdp", vqgan=vqgan))
    ]
    with pytest.raises(FileNotFoundError, match=r"no VQGAN at .* for the Liquid model"):
        load_model(folder)


def test_decoded_images_return_to_their_sources_geometry(tiny, liquid, images):
    model = liquid[2]
    square = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    assert [model.restore(square, image).shape for image in images] == [
        (9, 16, 3),
        (16, 16, 3),
        (16, 8, 3),
        (16, 16, 3),
    ]
    assert np.array_equal(model.restore(square, images[0]), square[3:12])  # 2.9 to 12.6: whole rows only
    assert all(tiny.restore(square, image) is square for image in images)


def test_embedded_models_take_images_of_their_size_as_they_are(tiny, scenes, images):
    from visdyn.images import to_pixels as plain

    assert tiny.preprocessing == "centre-crop-16-float32"
    assert torch.equal(tiny.pixels(list(scenes)), plain(scenes))
    assert torch.equal(tiny.pixels(images), plain(np.stack([centre_crop(image, 16) for image in images])))
    codes = tiny.encode(images)
    assert np.array_equal(codes[2], tiny.encode(images[2:3])[0])


@pytest.mark.parametrize("kind", ["chameleon", "liquid"])
def test_an_adapter_takes_all_else_from_its_base_wherever_both_stand(anole, liquid, images, kind, tmp_path):
    source, *more, _ = anole if kind == "chameleon" else liquid
    options = {"vqgan": more[0]} if more else {}
    shutil.copytree(source, tmp_path / "here/models/base")
    save_adapter(load_model(source, **options).lm, tmp_path / "here/models/idm")
    make_portable(tmp_path / "here/models/idm", str(tmp_path / "here/models/base"))
    (tmp_path / "here").rename(tmp_path / "there")
    adapted = load_model(tmp_path / "there/models/idm", **options)
    assert type(adapted) is type(load_model(source, **options))
    assert adapted.name == "idm"
    assert not any("lora" in name for name, _ in adapted.lm.named_parameters())
    assert np.array_equal(adapted.encode(images), load_model(source, **options).encode(images))
    assert (_logits(adapted, images) - _logits(load_model(source, **options), images)).abs().max() > 0.1
    shutil.rmtree(tmp_path / "there/models/base")
    with pytest.raises(FileNotFoundError, match=r"idm adapts .*base, which is no folder beside or above it"):
        load_model(tmp_path / "there/models/idm", **options)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_omni", "llava_next"])
def test_understanding_families_and_their_adapters_load(family, images, tmp_path):
    (tmp_path / "base").mkdir()
    base = save_tiny(family, tmp_path / "base")
    model = load_model(base)
    assert type(model) is UnderstandingModel
    arguments = images[:2], images[2:], ["open it", "take"]
    before = load_model(base, "idp").log_likelihood(*arguments)
    assert load_model(base, "fdp").definition == "D2"
    save_adapter(model.lm, tmp_path / "adapter", target_modules=r".*layers\.\d+\.(self_attn|mlp)\.(q|v|down)_proj")
    make_portable(tmp_path / "adapter", str(base))
    adapted = load_model(tmp_path / "adapter", "idp")
    assert adapted.model.name == "adapter"
    assert ((adapted.log_likelihood(*arguments) - before).abs() > 0.01).all()


@pytest.mark.parametrize("kind", ["chameleon", "liquid", "qwen2_vl"])
def test_auto_is_the_checkpoints_own_precision(anole, liquid, images, kind, tmp_path):
    if kind == "qwen2_vl":
        source, options = save_tiny(kind, tmp_path), {}
    else:
        source, options = (anole[0], {}) if kind == "chameleon" else (liquid[0], {"vqgan": liquid[1]})
    model = load_model(source, **options)
    assert model.lm.dtype == torch.float32
    half = load_model(source, dtype="bfloat16", **options)
    half.lm.save_pretrained(str(tmp_path / "half"))
    for file in source.iterdir():
        if file.is_file() and not (tmp_path / "half" / file.name).exists():
            shutil.copy(file, tmp_path / "half")
    if kind == "chameleon":
        half.vqgan.save(tmp_path / "half/vqgan")
    again = load_model(tmp_path / "half", **options)
    assert again.lm.dtype == torch.bfloat16
    if kind != "qwen2_vl":
        assert again.vqgan.quant_conv.weight.dtype == torch.float32
        assert np.array_equal(again.encode(images), model.encode(images))
    scores = again.inverse_dynamics.log_likelihood(images[:2], images[2:], ["open", "take cup"])
    assert scores.dtype == torch.float32
    torch.testing.assert_close(
        scores, model.inverse_dynamics.log_likelihood(images[:2], images[2:], ["open", "take cup"]), atol=0.3, rtol=0
    )


def test_a_hub_id_is_read_from_the_cache(anole, images, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--leloy--Anole-7b-v0.1-hf"
    shutil.copytree(anole[0], repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    model = load_model("leloy/Anole-7b-v0.1-hf")
    assert model.name == "Anole-7b-v0.1-hf"
    assert np.array_equal(model.encode(images), load_model(anole[0]).encode(images))
    with pytest.raises(FileNotFoundError, match=r"no model at some/where; run the stage .* `hf download some/where`"):
        load_model("some/where")


def test_options_reach_the_model(tiny_folder):
    model = load_model(tiny_folder, batch_size=3, shared_prefixes=True)
    assert (model.batch_size, model.shared_prefixes) == (3, True)
    assert (load_model(tiny_folder).batch_size, load_model(tiny_folder).shared_prefixes) == (64, False)


def test_an_editor_is_pointed_to_its_own_door(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bagel"}))
    with pytest.raises(ValueError, match=r"family 'bagel'; load_model knows chameleon, gemma, qwen2_vl.*load_editor"):
        load_model(tmp_path)
