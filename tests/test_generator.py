"""The embedded BAGEL: its tokenizer, its training from scratch, and the public recipe and editor over it."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from toy_bagel import fine_tuning, save_annotations

from visdyn.inference.do_undo import do_and_undo
from visdyn.models.autoencoder import tiny_autoencoder
from visdyn.models.bagel import Bagel
from visdyn.models.editors import load_editor
from visdyn.params.base_models import GeneratorModel
from visdyn.params.doundo import ConditionDropout, Consistency, Mixture
from visdyn.training.bagel.recipe import is_generation, train_bagel
from visdyn.training.bagel.records import BagelData
from visdyn.training.tiny.autoencoder_recipe import equalise_channels, measure_scale
from visdyn.training.tiny.generator import GeneratorData, train_generator
from visdyn.training.tiny.phrases import MARKERS, phrase_tokenizer
from visdyn.trajectory import ReversiblePair

SIZES = GeneratorModel(32, 48, 2, 2, latent_patch_size=2, vocab_size=90, timestep_shift=3.0)
PROMPTS = ("Then the hand opens the red drawer.", "Then the hand closes the red drawer.", "open red drawer", "close it")


def images(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)


def pairs() -> list[ReversiblePair]:
    pixels = images(6)
    return [ReversiblePair(pixels[i], pixels[i + 3], *PROMPTS, "open", "open", "red drawer", f"p{i}") for i in range(3)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A trained base, and a folder of what it was trained on."""
    root = tmp_path_factory.mktemp("generator")
    torch.manual_seed(0)
    vae = tiny_autoencoder(latent_channels=4, widths=(16,)).eval()
    equalise_channels(vae, images(8))
    measure_scale(vae, images(8))
    vae.save_pretrained(root / "autoencoder")
    np.save(root / "images.npy", images(8))
    np.save(root / "pairs.npy", images(8).reshape(4, 2, 64, 64, 3))
    (root / "captions.jsonl").write_text("".join(json.dumps({"caption": f"red drawer {i}"}) + "\n" for i in range(8)))
    save_annotations(root / "annotations.json", pairs())
    files = {"autoencoder": "autoencoder", "captions": "captions.jsonl", "frame_pairs": "pairs.npy"}
    files["prompts"] = "annotations.json"
    train_generator(
        SIZES,
        GeneratorData(**{name: str(root / file) for name, file in files.items()}),
        output=str(root / "base"),
        scratch=str(root / "scratch"),
        recipe={"steps": 2, "batch_size": 4, "learning_rate": 1e-3},
        whole=["red drawer"],
    )
    return root


def test_the_base_is_a_bagel_folder_that_knows_how_to_be_sampled(world):
    model = Bagel.from_pretrained(world / "base")
    assert model.config.vision is None
    assert (model.config.latent_downsample, model.config.timestep_shift) == (16, 3.0)
    assert (model.sampling.cfg_text_scale, model.sampling.cfg_img_scale) == (1.0, 1.0)
    latents = model.vae.encode(torch.from_numpy(images(8)).permute(0, 3, 1, 2) / 127.5 - 1)
    assert float(latents.std()) == pytest.approx(1, abs=0.01)
    history = pd.read_csv(world / "base/training.csv")
    assert history["loss"].notna().all()
    assert not (world / "scratch/state").exists()


def test_fine_tuning_and_editing_are_the_public_ones(world, tmp_path):
    config = fine_tuning(
        base=str(world / "base"),
        training={"steps": 2, "batch_size": 4, "learning_rate": 1e-3},
        mixture=Mixture(1.0, 1.0, 1.0, 0.0),
        adapter="full",
        long_share=0.5,
        consistency=Consistency(0.5),
        dropout=ConditionDropout(0.0, 0.0, 0.0),
    )
    data = BagelData(pairs=str(world / "annotations.json"), captions=str(world / "captions.jsonl"))
    train_bagel(config, data, seed=0, output=str(tmp_path / "doundo"), scratch=str(tmp_path / "scratch"))
    editor = load_editor(tmp_path / "doundo", batch_size=2)
    assert editor.settings == Bagel.from_pretrained(world / "base").sampling
    done, undone = do_and_undo(editor, pairs(), "long", "generated", steps=2)
    assert done.shape == undone.shape == (3, 64, 64, 3)
    before, after = (Bagel.from_pretrained(folder).state_dict() for folder in (world / "base", tmp_path / "doundo"))
    same = {name for name in after if torch.equal(before[name], after[name])}
    assert {name for name in same if is_generation(name) or ".layers.0." in name} == set()
    # Nothing is answered in text, so no text is read after the last layer's keys and values.
    assert "latent_pos_embed.pos_embed" in same
    assert "language_model.lm_head.weight" in same


def test_phrases_cross_spaces_but_never_take_in_a_whole_word():
    tokenizer = phrase_tokenizer([*PROMPTS, "take the red drawers"] * 3, 90, ["red drawer"])
    assert tokenizer.convert_ids_to_tokens(list(range(5))) == list(MARKERS)
    tokens = tokenizer.tokenize(PROMPTS[0])
    assert " red drawer" in tokens
    assert any(" " in token.strip() for token in tokens)
    assert [token for token in tokenizer.get_vocab() if re.search(r"red drawer(?!\w)", token)] == [" red drawer"]
    assert "".join(tokens) == " then the hand opens the red drawer."
    assert " red drawer" not in tokenizer.tokenize("red drawers")
    odd = tokenizer.encode("Zebra\u00e9 #1!", add_special_tokens=False)
    assert tokenizer.decode(odd).strip() == "zebra 1"
