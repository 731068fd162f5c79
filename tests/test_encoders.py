"""The evaluation encoders: preprocessing, pooling, loading, and the recipes of the embedded ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from visdyn.models.encoder_preprocess import CLIP_PRESETS, DINO_PRESETS, IMAGENET_MEAN, IMAGENET_STD
from visdyn.models.encoders import ImageEncoder, ImageTextEncoder
from visdyn.models.weight_files import CheckpointError
from visdyn.stages.base_measures import clip_measures, dino_measures
from visdyn.training.tiny.encoder_recipe import (
    ViewSettings,
    build_caption_tokenizer,
    tamper_square,
    tiny_clip,
    tiny_dino,
    train_clip,
    train_dino,
    view,
)

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (230, 220, 20)}
PLACES = {"left": 8, "middle": 28, "right": 48}


def _noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _captioned(repeats: int) -> tuple[np.ndarray, list[str]]:
    """Grey images with a coloured square, and captions that name its colour and place."""
    generator = np.random.default_rng(0)
    images, captions = [], []
    for _ in range(repeats):
        for colour, rgb in COLOURS.items():
            for place, x in PLACES.items():
                image = np.full((64, 64, 3), generator.integers(80, 160), np.uint8)
                image[24:40, x : x + 16] = rgb
                images.append(image)
                captions.append(f"{colour} square {place}")
    return np.stack(images), captions


def _even_margins(resize: int, width: int, height: int) -> bool:
    """Whether the crop falls on whole pixels; at a half, torchvision (which the papers use) and transformers differ."""
    return resize * max(width, height) // min(width, height) % 2 == 0


@settings(max_examples=8, deadline=None)
@given(width=st.integers(40, 400), height=st.integers(40, 400))
def test_clip_preprocessing_is_the_public_one(width, height):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    assume(_even_margins(224, width, height))
    image = _noise_image(width, height)
    public = CLIPImageProcessorPil()(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(CLIP_PRESETS["magicbrush"].preprocessing(image), public, atol=1e-5)


@settings(max_examples=8, deadline=None)
@given(width=st.integers(40, 400), height=st.integers(40, 400))
def test_dino_preprocessing_is_the_public_one(width, height):
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    assume(_even_margins(256, width, height))
    image = _noise_image(width, height)
    processor = BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )
    public = processor(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(DINO_PRESETS["doundo"].preprocessing(image), public, atol=1e-5)


def test_embedded_preprocessing_keeps_every_pixel():
    image = _noise_image(64, 64)
    values = DINO_PRESETS["embedded"].at_size(64).preprocessing(image)
    assert values.dtype == np.float32
    np.testing.assert_allclose((values.transpose(1, 2, 0) / 2 + 0.5) * 255, np.asarray(image), atol=1e-3)
    assert CLIP_PRESETS["embedded"].at_size(48).preprocessing(_noise_image(90, 40)).shape == (3, 48, 48)


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    tiny_dino(width=16, layers=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_caption_tokenizer(["red cup at one", "blue jar on the red cup"])
    tiny_clip(len(tokenizer), width=16, layers=1, text_layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_dino_embeds_whole_batches_alike(dino_folder):
    images = [_noise_image(64, 64, seed) for seed in range(5)]
    encoder = ImageEncoder.from_pretrained(dino_folder, batch_size=2)
    embedded = encoder.embed_images(images)
    assert embedded.shape == (5, 16)
    assert embedded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embedded[3:4], encoder.embed_images([images[3]]), atol=1e-5)


@pytest.mark.parametrize(("preset", "pool"), [("magicbrush", lambda t: t[:, 0]), ("doundo", lambda t: t.mean(dim=1))])
def test_presets_pool_as_their_papers_do(tmp_path, preset, pool):
    torch.manual_seed(0)
    tiny_dino(image_size=224, width=16, layers=1).save_pretrained(tmp_path)
    encoder = ImageEncoder.from_pretrained(tmp_path, preset=preset)
    image = _noise_image(100, 80)
    pixels = torch.from_numpy(DINO_PRESETS[preset].preprocessing(image))[None]
    expected = torch.nn.functional.normalize(pool(encoder.model(pixels).last_hidden_state), dim=1)
    np.testing.assert_allclose(encoder.embed_images([image]), expected.numpy(), atol=1e-6)


def test_vit_checkpoints_load(tmp_path):
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(**sizes), add_pooling_layer=False).save_pretrained(tmp_path)
    encoder = ImageEncoder.from_pretrained(tmp_path, preset="magicbrush")
    assert encoder.embed_images([_noise_image(50, 50)]).shape == (1, 16)


def test_clip_embeds_images_and_texts_as_transformers_does(clip_folder):
    encoder = ImageTextEncoder.from_pretrained(clip_folder, batch_size=2)
    images, texts = [_noise_image(64, 64, seed) for seed in range(3)], ["red cup at one", "blue jar", "red cup"]
    inputs = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    pixels = torch.from_numpy(np.stack([encoder.preset.preprocessing(image) for image in images]))
    outputs = encoder.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], pixel_values=pixels)
    np.testing.assert_allclose(encoder.embed_images(images), outputs.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.embed_texts(texts), outputs.text_embeds.numpy(), atol=1e-5)


def test_long_texts_are_cut_and_unknown_words_survive(clip_folder):
    encoder = ImageTextEncoder.from_pretrained(clip_folder)
    long, longer = encoder.embed_texts(["red cup " * 30, "red cup " * 60])
    np.testing.assert_allclose(long, longer, atol=1e-6)
    assert encoder.tokenizer("red zebra")["input_ids"] == [2, encoder.tokenizer.convert_tokens_to_ids("red"), 1, 3]


def test_bad_checkpoints_are_named(tmp_path, dino_folder):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        ImageEncoder.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="dinov2 checkpoint; expected clip"):
        ImageTextEncoder.from_pretrained(dino_folder)
    with pytest.raises(ValueError, match="unknown encoder preset"):
        ImageEncoder.from_pretrained(dino_folder, preset="imagenet")
    with pytest.raises(ValueError, match="empty"):
        ImageEncoder.from_pretrained(dino_folder).embed_images([])


@pytest.mark.parametrize("kind", ["dino", "clip"])
@pytest.mark.parametrize("fault", ["others", "missing", "unknown", "nan", "pointer", "depth"])
def test_an_encoder_of_other_weights_is_refused(tmp_path, dino_folder, clip_folder, kind, fault):
    """Such a folder gave another embedding of the same image in every load."""
    folders = {"dino": (dino_folder, ImageEncoder), "clip": (clip_folder, ImageTextEncoder)}
    (folder, encoder), other = folders.pop(kind), next(iter(folders.values()))[0]
    spoiled = Path(shutil.copytree(folder, tmp_path / "spoiled"))
    file, weights = spoiled / "model.safetensors", load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    if fault == "others":
        shutil.copy(other / "model.safetensors", file)
    elif fault == "pointer":
        file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    elif fault == "depth":
        config = (spoiled / "config.json").read_text()
        (spoiled / "config.json").write_text(config.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
        assert (spoiled / "config.json").read_text() != config
    else:
        more = {"missing": {}, "unknown": {**weights, "odd": torch.ones(1)}, "nan": {**weights}}[fault]
        more = more or {key: value for key, value in weights.items() if key != name}
        save_file({k: v * torch.nan if fault == "nan" and k == name else v for k, v in more.items()}, file,
                  {"format": "pt"})  # fmt: skip
    with pytest.raises(CheckpointError, match="spoiled"):
        encoder.from_pretrained(spoiled)


def test_the_pooling_head_of_a_vit_is_a_named_exception(tmp_path):
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(**sizes), add_pooling_layer=True).save_pretrained(tmp_path)
    assert any("pooler" in name for name in load_file(tmp_path / "model.safetensors"))
    ImageEncoder.from_pretrained(tmp_path, preset="magicbrush")


def test_tampering_swaps_or_replaces_squares():
    pixels = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    changed = tamper_square(pixels, (8, 8))
    touched = [int(differs.any(dim=0).sum()) for differs in changed != pixels]
    assert touched[1::2] == [64, 64, 64]
    swapped = [index for index in (0, 2, 4) if touched[index] == 128]  # two squares that do not overlap
    assert swapped
    for index in swapped:
        assert torch.equal(changed[index].flatten(1).sort(dim=1)[0], pixels[index].flatten(1).sort(dim=1)[0])


def test_views_differ_but_little():
    pixels = torch.zeros(4, 3, 16, 16)
    first, second = view(pixels, ViewSettings()), view(pixels, ViewSettings())
    assert first.shape == pixels.shape
    assert 0.01 < float((first - second).abs().mean()) < 0.5


class _Colours:
    """An encoder that sees the mean colour of an image."""

    def embed_images(self, images):
        means = np.stack([np.asarray(image, np.float32).mean(axis=(0, 1)) for image in images])
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def test_dino_measures_count_what_they_say():
    def plain(*rgb):
        return np.full((4, 4, 3), rgb, np.uint8)

    sources = [plain(200, 0, 0), plain(0, 200, 0)]
    targets = [plain(0, 0, 200), plain(0, 200, 100)]
    again = [plain(0, 10, 200), plain(0, 200, 1)]  # the second looks more like its source
    measures = dino_measures(_Colours(), sources, targets, again)
    assert measures["ordered"] == {"value": 0.5, "n": 2}
    assert measures["nearest_is_same_state"] == {"value": 0.5, "n": 2}


def test_clip_recipe_learns_to_retrieve(tmp_path):
    images, captions = _captioned(8)
    np.save(tmp_path / "images.npy", images)
    records = (json.dumps({"caption": caption}) + "\n" for caption in captions)
    (tmp_path / "captions.jsonl").write_text("".join(records))
    train_clip(
        images=str(tmp_path / "images.npy"),
        captions=str(tmp_path / "captions.jsonl"),
        output=str(tmp_path / "clip"),
        recipe={"steps": 80, "batch_size": 12, "learning_rate": 3e-3, "warmup_steps": 5, "log_every": 10},
        scratch=str(tmp_path / "scratch"),
        extra_texts=["square above"],
        model={"width": 32, "layers": 1, "text_layers": 1},
    )
    encoder = ImageTextEncoder.from_pretrained(tmp_path / "clip")
    assert encoder.tokenizer.convert_tokens_to_ids("above") > 3
    measures = clip_measures(encoder, list(images[:24]), captions[:24], group=12)
    assert measures["image_to_text_at_1_of_12"]["n"] == 24
    assert measures["image_to_text_at_1_of_12"]["value"] > 0.3  # chance is 0.08
    assert pd.read_csv(tmp_path / "clip" / "training.csv").step.iloc[-1] == 80
    with pytest.raises(ValueError, match="12 or more"):
        clip_measures(encoder, list(images[:5]), captions[:5], group=12)


def test_dino_recipe_learns_to_see_tampering(tmp_path):
    images, _ = _captioned(4)
    np.save(tmp_path / "images.npy", images)
    train_dino(
        images=str(tmp_path / "images.npy"),
        output=str(tmp_path / "dino"),
        recipe={"steps": 60, "batch_size": 12, "learning_rate": 1e-3, "warmup_steps": 5, "log_every": 10},
        scratch=str(tmp_path / "scratch"),
        model={"width": 32, "layers": 1},
    )
    history = pd.read_csv(tmp_path / "dino" / "training.csv")
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    embedded = ImageEncoder.from_pretrained(tmp_path / "dino").embed_images(list(images))
    assert float((embedded @ embedded.T).mean()) < 0.98  # no collapse
