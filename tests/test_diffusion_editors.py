"""The diffusion baselines, on tiny pipelines of their own classes with random weights, saved and loaded locally.

Qwen's pipelines bring every image to about a megapixel, whatever the weights; the tests divide that area by 256.
"""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_pipelines import PIPELINES, SMALL_KONTEXT, save_pipelines

from visdyn.inference.do_undo import do_and_undo
from visdyn.models.editors.diffusers_editors import (
    KONTEXT,
    PIX2PIX,
    PRESETS,
    QWEN,
    QWEN_PLUS,
    DiffusersEditor,
    Preset,
    fit_to_64,
    kontext_size,
)
from visdyn.models.editors.protocol import Guidance
from visdyn.models.weight_files import CheckpointError
from visdyn.trajectory import ReversiblePair

SMALL_PIX2PIX = replace(PRESETS["instruct-pix2pix"], resolution=64)
IMAGES = list(np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One saved pipeline of each class, by class name; read only."""
    return save_pipelines(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(autouse=True)
def _small_areas(monkeypatch):
    for name in ("edit", "edit_plus"):
        module = importlib.import_module(f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{name}")
        real = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, real=real: real(area // 256, ratio))


def _load(folders, name, device="cpu", **options):
    preset = {PIX2PIX: SMALL_PIX2PIX}.get(name)
    call = SMALL_KONTEXT if name == KONTEXT else None
    return DiffusersEditor.from_pretrained(folders[name], preset, device, call=call, **options)


# ----------------------------------------------------------------------------------------------- the real pipelines


@pytest.mark.parametrize("name", PIPELINES)
def test_each_pipeline_edits_and_an_item_depends_on_itself_alone(folders, name):
    editor = _load(folders, name)
    assert type(editor.pipeline).__name__ == name
    prompts = ["open it", "close it", None]
    edited = editor.edit(IMAGES, prompts, [1, 2, 2**56 - 1], steps=2)
    assert [image.dtype for image in edited] == [np.uint8] * 3
    assert all(image.ndim == 3 and image.shape[2] == 3 for image in edited)
    again = editor.edit(IMAGES[::-1], prompts[::-1], [2**56 - 1, 2, 1], steps=2)
    for first, second in zip(edited, again[::-1], strict=True):
        np.testing.assert_array_equal(first, second)
    for other in (([IMAGES[1]], ["open it"], [1]), ([IMAGES[0]], ["zip"], [1]), ([IMAGES[0]], ["open it"], [3])):
        assert not np.array_equal(editor.edit(*other, steps=2)[0], edited[0])


@pytest.mark.parametrize("name", PIPELINES)
def test_guidance_and_steps_change_the_image(folders, name):
    editor = _load(folders, name)
    plain = editor.edit(IMAGES[:1], ["open it"], [1], steps=2)[0]
    stronger = Guidance(text=editor.preset.text + 9, image=editor.preset.image or 1.0)
    for changed in ({"steps": 3}, {"steps": 2, "guidance": stronger}):
        assert not np.array_equal(editor.edit(IMAGES[:1], ["open it"], [1], **changed)[0], plain)


def test_a_pipeline_does_and_undoes_reversible_pairs(folders):
    pairs = [ReversiblePair(*IMAGES[:2], "open it", "close it", "open", "close", "open it", "open", "it", name)
             for name in ("a", "b")]  # fmt: skip
    done, undone = do_and_undo(_load(folders, PIX2PIX), pairs, reverse_from="generated", steps=1)
    assert done.shape == undone.shape == (2, 64, 64, 3)
    assert not np.array_equal(done[0], done[1])  # same pair, other id: other noise


def test_images_come_back_at_their_source_size_on_request(folders):
    wide = np.zeros((32, 64, 3), np.uint8)
    native = _load(folders, QWEN_PLUS).edit([wide], ["open it"], [1], steps=1)[0]
    assert native.shape == (32, 96, 3)
    assert _load(folders, QWEN_PLUS, size="source").edit([wide], ["open it"], [1], steps=1)[0].shape == wide.shape
    with pytest.raises(ValueError, match="unknown size"):
        _load(folders, PIX2PIX, size="big")


def test_kontext_alone_generates_without_a_source(folders):
    assert _load(folders, KONTEXT).edit([None], ["a cup"], [1], steps=1)[0].shape == (48, 64, 3)
    for name in (PIX2PIX, QWEN, QWEN_PLUS):
        with pytest.raises(ValueError, match="without a source"):
            _load(folders, name).edit([None], ["a cup"], [1], steps=1)


def test_pix2pix_gets_the_sampler_of_its_authors(folders):
    assert json.loads((folders[PIX2PIX] / "model_index.json").read_text())["scheduler"][1] == "PNDMScheduler"
    said = _load(folders, PIX2PIX).describe()
    assert said["scheduler"] == "EulerAncestralDiscreteScheduler"
    assert (said["preset"], said["steps"], said["dtype"]) == ("instruct-pix2pix", 100, "float32")
    assert said["model"] == str(folders[PIX2PIX])
    json.dumps(said)


@pytest.mark.parametrize("name", [QWEN, QWEN_PLUS])
def test_qwen_reads_the_image_at_two_dimensional_positions(folders, name):
    editor = _load(folders, name)
    pipeline, seen = editor.pipeline, {}

    def keep(module, args, given):
        seen.update(given)

    pipeline.text_encoder.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    image = Image.fromarray(IMAGES[0]).resize((56, 56))
    got, _ = pipeline.encode_prompt(image=[image] if name == QWEN_PLUS else image, prompt=["open it"])
    height, width = seen["position_ids"][1:, 0]
    assert (height != width).any()
    # The reference: the processor's whole answer given to the encoder, the template's first 64 tokens left out.
    pictures = "Picture 1: " if name == QWEN_PLUS else ""
    text = pipeline.prompt_template_encode.format(
        f"{pictures}<|vision_start|><|image_pad|><|vision_end|>open it" if pictures else "open it"
    )
    inputs = pipeline.processor(text=[text], images=[image], padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = pipeline.text_encoder(**inputs, output_hidden_states=True).hidden_states[-1][:, 64:]
    torch.testing.assert_close(got, wanted)


# ------------------------------------------------------------------------------------- what the pipelines are given


def _recorder(name, flagged=None):
    """A stand-in of a pipeline's name that keeps the arguments of its calls."""

    class Recorder:
        def set_progress_bar_config(self, **_):
            pass

        def __call__(self, **given):
            self.given = given
            return SimpleNamespace(images=[Image.new("RGB", (8, 8))], nsfw_content_detected=flagged)

    Recorder.__name__ = name
    pipeline = Recorder()
    pipeline.scheduler = SimpleNamespace(config={})
    pipeline.text_encoder = torch.nn.Identity()
    return pipeline


def _given(preset, image, guidance=None, **options):
    pipeline = _recorder(preset.pipeline)
    DiffusersEditor(pipeline, preset, **options).edit([image], ["open it"], [7], guidance=guidance)
    return pipeline.given


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("instruct-pix2pix", {"num_inference_steps": 100, "guidance_scale": 7.5, "image_guidance_scale": 1.5}),
        ("flux-kontext", {"num_inference_steps": 30, "guidance_scale": 2.5, "width": 1184, "height": 880}),
        ("flux-kontext-diffusers", {"num_inference_steps": 28, "guidance_scale": 3.5, "max_area": 1184 * 880}),
        ("qwen-image-edit", {"num_inference_steps": 50, "true_cfg_scale": 4.0, "negative_prompt": " "}),
        ("qwen-image-edit-2509", {"num_inference_steps": 40, "true_cfg_scale": 4.0, "negative_prompt": " "}),
        ("qwen-image-edit-2509-diffusers", {"num_inference_steps": 50, "true_cfg_scale": 4.0}),
    ],
)
def test_a_preset_reaches_the_pipeline(name, expected):
    import diffusers

    preset = PRESETS[name]
    given = _given(preset, IMAGES[0])
    assert expected.items() <= given.items()
    assert (given["prompt"], given["generator"].initial_seed()) == ("open it", 7)
    accepted = inspect.signature(getattr(diffusers, preset.pipeline).__call__).parameters
    assert set(given) <= set(accepted)
    assert given["image"].size == ((512, 384) if preset.pipeline == PIX2PIX else (64, 48))
    assert preset.source


def test_the_defaults_that_a_preset_claims_are_diffusers_own():
    import diffusers

    for name in ("flux-kontext-diffusers", "qwen-image-edit-2509-diffusers"):
        preset = PRESETS[name]
        defaults = inspect.signature(getattr(diffusers, preset.pipeline).__call__).parameters
        scale = "guidance_scale" if preset.pipeline == KONTEXT else "true_cfg_scale"
        assert (preset.steps, preset.text) == (defaults["num_inference_steps"].default, defaults[scale].default)


def test_guidance_is_given_in_each_pipelines_terms():
    own = {name: next(preset for preset in PRESETS.values() if preset.pipeline == name) for name in PIPELINES}
    given = _given(own[PIX2PIX], IMAGES[0], Guidance(text=4.0, image=2.0))
    assert (given["guidance_scale"], given["image_guidance_scale"]) == (4.0, 2.0)
    assert _given(own[KONTEXT], IMAGES[0], Guidance(text=4.0))["guidance_scale"] == 4.0
    off = _given(own[QWEN_PLUS], IMAGES[0], Guidance(text=1.0))
    assert (off["true_cfg_scale"], off["negative_prompt"]) == (1.0, None)
    refused = [(PIX2PIX, Guidance(4.0, 0.5), "drops all guidance"), (KONTEXT, Guidance(4.0, 2.0), "no image guidance")]
    refused += [(QWEN, Guidance(4.0, low=0.4), "no guidance interval"), (PIX2PIX, Guidance(renorm="none"), "renorm")]
    for name, guidance, words in refused:
        with pytest.raises(ValueError, match=words):
            _given(own[name], IMAGES[0], guidance)


def test_call_arguments_go_before_the_preset():
    given = _given(PRESETS["flux-kontext"], IMAGES[0], call=SMALL_KONTEXT | {"guidance_scale": 9.0})
    assert given["guidance_scale"] == 9.0
    assert SMALL_KONTEXT.items() <= given.items()


def test_what_the_safety_checker_blacks_out_is_counted():
    editor = DiffusersEditor(_recorder(PIX2PIX, [True]), PRESETS["instruct-pix2pix"])
    with pytest.warns(UserWarning, match="blacked out the edit 'open it'"):
        assert editor.edit(IMAGES[:2], ["open it"] * 2, [1, 2]) == [None, None]
    assert editor.flagged == 2


def test_pixels_that_are_no_numbers_are_no_black_image(folders):
    editor = _load(folders, PIX2PIX)
    good = editor.edit(IMAGES[:1], ["open it"], [1], steps=1)
    assert good[0].any()
    with torch.no_grad():
        editor.pipeline.vae.decoder.conv_out.bias.fill_(torch.nan)
    with pytest.warns(UserWarning, match="the edit 'open it' is NaN or infinite; there is no image of it"):
        assert editor.edit(IMAGES[:2], ["open it"] * 2, [1, 2], steps=1) == [None, None]
    assert editor.unmeasured == 2


def test_sizes_are_those_of_the_authors_code():
    sizes = {(500, 500): (512, 512), (480, 270): (512, 320), (480, 360): (512, 384), (427, 240): (512, 320)}
    sizes |= {(1280, 960): (512, 384), (270, 480): (320, 512), (64, 48): (512, 384)}
    for size, expected in sizes.items():
        assert fit_to_64(Image.new("RGB", size)).size == expected
    assert kontext_size(456, 256) == (1392, 752)
    assert kontext_size(500, 500) == (1024, 1024)
    assert kontext_size(256, 456) == (752, 1392)


def test_bad_folders_presets_and_arguments_are_refused(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model_index\.json"):
        DiffusersEditor.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no pipeline at no/such-pipeline"):
        DiffusersEditor.from_pretrained("no/such-pipeline")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="holds a StableDiffusionPipeline"):
        DiffusersEditor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="unknown preset"):
        DiffusersEditor.from_pretrained(folders[PIX2PIX], "fast")
    with pytest.raises(ValueError, match="is for FluxKontextPipeline"):
        DiffusersEditor.from_pretrained(folders[PIX2PIX], "flux-kontext")
    with pytest.raises(ValueError, match="an image scale belongs"):
        Preset("mine", PIX2PIX, 10, 7.5, "here")
    editor = _load(folders, PIX2PIX)
    with pytest.raises(ValueError, match="2 sources, 1 prompts and 2 seeds"):
        editor.edit(IMAGES[:2], ["open it"], [1, 2])
    with pytest.raises(ValueError, match="at least one sampling step"):
        editor.edit(IMAGES[:1], ["open it"], [1], steps=0)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
@pytest.mark.parametrize("fault", ["missing", "unknown", "nan", "pointer", "cut"])
def test_each_part_of_a_pipeline_is_loaded_strictly(folders, tmp_path, part, fault):
    spoiled = Path(shutil.copytree(folders[PIX2PIX], tmp_path / "spoiled"))
    file = next((spoiled / part).glob("*.safetensors"))
    weights, content = load_file(file), file.read_bytes()
    name = sorted(weights)[0]
    changes = {
        "missing": {key: value for key, value in weights.items() if key != name},
        "unknown": {**weights, "odd.weight": torch.ones(1)},
        "nan": {**weights, name: weights[name] * torch.nan},
    }
    if fault in changes:
        save_file(changes[fault], file, {"format": "pt"})
    else:
        file.write_bytes({"cut": content[: len(content) // 2], "pointer": b"version https://git-lfs.x/v1"}[fault])
    with pytest.raises(CheckpointError, match=f"spoiled/{part}"):
        DiffusersEditor.from_pretrained(spoiled, SMALL_PIX2PIX, "cpu")


def test_a_pipeline_of_foreign_code_is_refused(folders, tmp_path):
    spoiled = Path(shutil.copytree(folders[PIX2PIX], tmp_path / "spoiled"))
    index = json.loads((spoiled / "model_index.json").read_text())
    (spoiled / "model_index.json").write_text(json.dumps({**index, "unet": ["trap", "Model"]}))
    with pytest.raises(CheckpointError, match=r"names trap\.Model"):
        DiffusersEditor.from_pretrained(spoiled, SMALL_PIX2PIX, "cpu")
