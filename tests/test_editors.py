"""The one door to editors: what a folder holds decides what is loaded; adapters find their base."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_bagel_model import picture, small_model
from toy_bagel import words

from visdyn.evaluation.systems.editor_systems import local_editor
from visdyn.models.adapters import make_portable
from visdyn.models.bagel import SamplerSettings
from visdyn.models.editors import EDITORS, load_editor
from visdyn.models.editors.bagel_editor import BagelEditor
from visdyn.params.evaluation import EditorEntry
from visdyn.training.bagel.recipe import apply_adapter

FAST = SamplerSettings(num_timesteps=3)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """A profile with a base in models/generator and an adapter of it in models/doundo/lora-s0."""
    root = tmp_path_factory.mktemp("profile")
    model = small_model()
    model.tokenizer = words()
    model.save_pretrained(root / "models/generator")
    adapted = apply_adapter(model, "lora", {"r": 2})
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    folder = root / "models/doundo/lora-s0"
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    make_portable(folder, str(root / "models/generator"))
    return root


def edited(editor) -> np.ndarray:
    return editor.edit([picture(24, 16)], ["open it"], [0])[0]


def test_a_bagel_folder_becomes_a_bagel_editor_with_device_and_dtype(profile):
    editor = load_editor(profile / "models/generator", device="cpu", dtype="bfloat16", batch_size=3, settings=FAST)
    assert isinstance(editor, BagelEditor)
    assert (editor.batch_size, editor.model.dtype, editor.model.device.type) == (3, torch.bfloat16, "cpu")
    assert edited(editor).shape == (16, 24, 3)


def test_an_adapter_finds_its_base_wherever_the_profile_is_moved(profile, tmp_path):
    moved = shutil.copytree(profile, tmp_path / "elsewhere")
    base = edited(load_editor(moved / "models/generator", settings=FAST))
    alone = edited(load_editor(moved / "models/doundo/lora-s0", settings=FAST))
    both = edited(load_editor(moved / "models/generator", moved / "models/doundo/lora-s0", settings=FAST))
    np.testing.assert_array_equal(alone, both)
    assert not np.array_equal(alone, base)
    with pytest.raises(ValueError, match="is an adapter itself"):
        load_editor(moved / "models/doundo/lora-s0", moved / "models/doundo/lora-s0")


def test_a_pipeline_goes_to_the_diffusers_editor(tmp_path, monkeypatch):
    from visdyn.models.editors.diffusers_editors import DiffusersEditor

    (tmp_path / "model_index.json").write_text("{}")
    asked = {}
    monkeypatch.setattr(DiffusersEditor, "from_pretrained", lambda folder, **options: asked.update(options) or folder)
    assert load_editor(tmp_path, device="cuda", dtype="float16", preset="flux-kontext", size="source") == tmp_path
    assert asked == {"device": "cuda", "dtype": torch.float16, "preset": "flux-kontext", "size": "source"}
    with pytest.raises(ValueError, match="adapters are loaded into BAGEL only"):
        load_editor(tmp_path, adapter="x")
    with pytest.raises(ValueError, match="only BAGEL thinks"):
        load_editor(tmp_path, think=True)


class Negative:
    """An editor of a user: the negative of the source."""

    @classmethod
    def from_pretrained(cls, folder, device="cpu", dtype=None, strength=1.0):
        negative = cls()
        negative.given = (device, dtype, strength)
        return negative

    def edit(self, sources, prompts, seeds, steps=None, guidance=None):
        return [255 - np.asarray(source) for source in sources]


def test_an_editor_of_ones_own_is_one_class_and_one_entry(tmp_path, monkeypatch):
    monkeypatch.setitem(EDITORS, "negative", f"{__name__}:Negative")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "negative"}))
    editor = load_editor(tmp_path, device="cpu", dtype="float16", strength=0.5)
    assert editor.given == ("cpu", torch.float16, 0.5)
    np.testing.assert_array_equal(edited(editor), 255 - np.asarray(picture(24, 16)))
    with pytest.raises(ValueError, match="adapters are loaded into BAGEL only"):
        load_editor(tmp_path, adapter="x")


def test_what_is_no_editor_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="run the stage that trains it"):
        load_editor(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="hf download nobody/nothing"):
        load_editor("nobody/nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "chameleon"}))
    with pytest.raises(ValueError, match=r"holds no editor.*'chameleon'"):
        load_editor(tmp_path)


@pytest.mark.parametrize("thinks", [True, False])
def test_any_bagel_of_the_parameters_may_think_before_it_edits(profile, tmp_path, thinks):
    """It is a system of its own, whose images are not taken for those of the same model without thinking."""
    model = profile / "models/generator"
    entry = EditorEntry("base_think", str(model), steps=1, think=thinks)
    system = local_editor(entry, str(model), tmp_path, 0, "cpu")
    plain = local_editor(replace(entry, think=False), str(model), tmp_path, 0, "cpu")
    assert (system.folder.root != plain.folder.root) is thinks
    editor = system.load()
    assert bool(editor.think) is thinks
