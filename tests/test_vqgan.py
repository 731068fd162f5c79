"""The VQGAN against stored outputs of the public implementation, and its checkpoint layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from visdyn.images import ImageError, load
from visdyn.models.vqgan import VQGAN, CheckpointError, VQGANConfig
from visdyn.models.vqgan import preprocess as vqgan_preprocess
from visdyn.paths import shared_data

GOLDEN = (shared_data() or Path("absent")) / "golden" / "vqgan"
TINY = VQGANConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=6, embed_dim=4, n_embed=9, norm_groups=4, patch=2)

golden_only = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden tensors (golden/vqgan in VISDYN_SHARED)")


@pytest.fixture(scope="module")
def golden():
    inputs, outputs = load_file(GOLDEN / "inputs.safetensors"), load_file(GOLDEN / "outputs.safetensors")
    return VQGAN.from_checkpoint(GOLDEN), inputs, outputs


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return VQGAN(TINY).eval()


@golden_only
@pytest.mark.parametrize("case", ["batch", "single"])
def test_matches_the_public_tokenizer(golden, case):
    model, inputs, outputs = golden
    pixels = vqgan_preprocess.to_pixels(inputs[f"image.{case}"].numpy())
    assert torch.equal(pixels, outputs[f"{case}.encoder_input"])
    torch.testing.assert_close(model.features(pixels), outputs[f"{case}.prequant"], atol=1e-5, rtol=0)
    codes = model.encode(pixels)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, outputs[f"{case}.codes"])
    torch.testing.assert_close(model.decode(codes), outputs[f"{case}.decoded"], atol=1e-5, rtol=0)


@golden_only
def test_matches_the_public_tokenizer_at_512(golden):
    model, inputs, outputs = golden
    crop = vqgan_preprocess.centre_crop(inputs["preprocess.land"].numpy(), 512)
    codes = model.encode(vqgan_preprocess.to_pixels([crop]))
    assert torch.equal(codes.flatten(), outputs["tokenizer_512.codes"])
    box = json.loads((GOLDEN / "outputs.json").read_text())["tokenizer_512.decoded_crop_box"]
    decoded = model.decode(codes)[0, :, slice(*box["rows"]), slice(*box["cols"])]
    torch.testing.assert_close(decoded, outputs["tokenizer_512.decoded_crop"], atol=3e-5, rtol=0)


@golden_only
def test_decodes_any_codes(golden):
    model, inputs, outputs = golden
    decoded = model.decode(inputs["codes.random"][None])
    torch.testing.assert_close(decoded, outputs["random_codes.decoded"], atol=1e-5, rtol=0)


@golden_only
@pytest.mark.parametrize(("name", "size"), [("land", 512), ("land", 64), ("port", 64), ("rgba", 64)])
def test_preprocessing_matches(golden, name, size):
    _, inputs, outputs = golden
    image = Image.fromarray(inputs[f"preprocess.{name}"].numpy())
    crop = vqgan_preprocess.centre_crop(image, size)
    assert np.array_equal(crop, outputs[f"preprocess.{name}.{size}.uint8"].numpy())


@golden_only
def test_transparency_and_values_match(golden, tmp_path):
    _, inputs, outputs = golden
    path = tmp_path / "transparent.png"
    Image.fromarray(inputs["preprocess.rgba"].numpy()).save(path)
    expected = outputs["preprocess.rgba.whitened_uint8"].numpy()
    assert np.array_equal(np.asarray(load(path)), expected)
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    table = vqgan_preprocess.to_pixels([ramp])[0, 0, 0]
    assert torch.equal(table, outputs["preprocess.value_table"])


def _as_transformers(model: VQGAN, folder: Path, sharded: bool, decoder: bool = True) -> Path:
    config = model.config
    vq = {
        "base_channels": config.ch,
        "channel_multiplier": list(config.ch_mult),
        "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": None,
        "latent_channels": config.z_channels,
        "num_embeddings": config.n_embed,
        "embed_dim": config.embed_dim,
        "double_latent": False,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "chameleon", "vq_config": vq}))
    weights = {f"model.vqmodel.{key}": value.contiguous() for key, value in model.state_dict().items()}
    weights = {key: value for key, value in weights.items() if decoder or ".decoder." not in key}
    weights["model.embed_tokens.weight"] = torch.zeros(2, 2)
    if not sharded:
        save_file(weights, folder / "model.safetensors")
        return folder
    names = {key: f"model-{i % 2 + 1:05d}-of-00002.safetensors" for i, key in enumerate(sorted(weights))}
    for name in sorted(set(names.values())):
        save_file({key: value for key, value in weights.items() if names[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


@pytest.fixture(scope="module")
def public():
    """A model of the public architecture (32 groups, no folding) that transformers' layout can describe."""
    torch.manual_seed(0)
    return VQGAN(VQGANConfig(ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=8, embed_dim=4, n_embed=9)).eval()


def _same_codes_and_images(left: VQGAN, right: VQGAN) -> bool:
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    codes = left.encode(pixels)
    assert codes.unique().numel() > 1
    return torch.equal(codes, right.encode(pixels)) and torch.equal(left.decode(codes), right.decode(codes))


@pytest.mark.parametrize("sharded", [False, True])
def test_reads_an_anole_folder(public, tmp_path, sharded):
    folder = _as_transformers(public, tmp_path / "anole", sharded)
    assert _same_codes_and_images(public, VQGAN.from_checkpoint(folder))


def test_a_chameleon_without_decoder_is_refused(public, tmp_path):
    folder = _as_transformers(public, tmp_path / "chameleon", sharded=False, decoder=False)
    with pytest.raises(CheckpointError, match="decoder"):
        VQGAN.from_checkpoint(folder)


def test_reads_the_public_ckpt(public, tmp_path):
    saved = tmp_path / "saved"
    public.save(saved)
    shape = json.loads((saved / "config.json").read_text())
    for added in ("norm_groups", "patch"):
        del shape["ddconfig"][added]
    weights = {**public.state_dict(), "loss.discriminator.main.0.weight": torch.zeros(1)}
    torch.save({"state_dict": weights, "global_step": 3}, tmp_path / "vqgan.ckpt")
    with pytest.raises(CheckpointError, match="yaml"):
        VQGAN.from_checkpoint(tmp_path / "vqgan.ckpt")
    params = {**shape, "lossconfig": {"target": "taming.modules.losses.DummyLoss"}, "ckpt_path": None}
    (tmp_path / "vqgan.yaml").write_text(yaml.safe_dump({"model": {"target": "VQModel", "params": params}}))
    assert _same_codes_and_images(public, VQGAN.from_checkpoint(tmp_path / "vqgan.ckpt"))
    assert _same_codes_and_images(public, VQGAN.from_checkpoint(tmp_path))


def test_saves_and_loads(tiny, tmp_path):
    tiny.save(tmp_path)
    loaded = VQGAN.from_checkpoint(tmp_path)
    assert loaded.config == tiny.config
    assert _same_codes_and_images(tiny, loaded)


@pytest.mark.parametrize("broken", ["missing", "empty", "other", "shape", "double_z", "unknown", "trap", "list", "nan"])
def test_a_bad_checkpoint_is_named(tiny, tmp_path, broken):
    tiny.save(tmp_path / "vqgan")
    path = tmp_path / "vqgan" / "config.json"
    config = json.loads(path.read_text())
    if broken == "shape":
        config["n_embed"] = 5
    elif broken == "double_z":
        config["ddconfig"]["double_z"] = True
    elif broken == "unknown":
        config["ddconfig"]["colour"] = 1
    elif broken == "trap":
        config["ddconfig"]["num_res_blocks"] = 10**7
    elif broken == "list":
        config["ddconfig"] = [1]
    elif broken == "nan":
        weights = load_file(path.parent / "weights.safetensors")
        save_file(
            {**weights, "quant_conv.bias": weights["quant_conv.bias"] * torch.nan}, path.parent / "weights.safetensors"
        )
    path.write_text(json.dumps({"hidden_size": 3} if broken == "other" else config))
    folder = {"missing": tmp_path / "absent", "empty": tmp_path}.get(broken, tmp_path / "vqgan")
    with pytest.raises(FileNotFoundError if broken == "missing" else CheckpointError, match=str(tmp_path)):
        VQGAN.from_checkpoint(folder)


def test_stays_in_float32(tiny):
    pixels = torch.rand(1, 3, 8, 8) * 2 - 1
    expected = tiny.features(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tiny.features(pixels), expected)
    with pytest.raises(ValueError, match="float32"):
        VQGAN(TINY).bfloat16().encode(pixels)


def test_refuses_bad_shapes_and_codes(tiny):
    with pytest.raises(ValueError, match="divisible by 4"):
        tiny.encode(torch.zeros(1, 3, 10, 8))
    with pytest.raises(ValueError, match="0 to 8"):
        tiny.decode(torch.full((1, 2, 2), 9))
    with pytest.raises(ImageError, match=r"absent\.png"):
        vqgan_preprocess.centre_crop("absent.png")


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 3), width=st.integers(1, 3), seed=st.integers(0, 99))
def test_codes_are_the_nearest_ones(tiny, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(2, 3, 4 * height, 4 * width, generator=generator) * 2 - 1
    codes, features = tiny.encode(pixels), tiny.features(pixels)
    assert codes.shape == (2, height, width)
    assert tiny.decode(codes).shape == pixels.shape
    rows = features.permute(0, 2, 3, 1).flatten(0, 2).double()
    distances = torch.cdist(rows, tiny.quantize.embedding.weight.double())
    chosen = distances.gather(1, codes.flatten()[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.min(dim=1).values, atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(width=st.integers(3, 90), height=st.integers(3, 90), size=st.sampled_from([32, 64]))
def test_unpad_leaves_no_bar(width, height, size):
    image = np.full((height, width, 3), 250, np.uint8)
    square = vqgan_preprocess.pad(image, size, colour=(0, 0, 0))
    assert square.shape == (size, size, 3)
    inside = vqgan_preprocess.unpad(square, width, height)
    assert abs(inside.shape[1] / size - width / max(width, height)) <= 2 / size
    assert abs(inside.shape[0] / size - height / max(width, height)) <= 2 / size
    if inside.size:
        assert inside.mean() > 150
