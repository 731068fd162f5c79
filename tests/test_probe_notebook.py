"""Notebook 01 over the paper's nine models and Liquid, each a tiny one of its class, on images of several sizes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import build_tiny_model
from PIL import Image
from plain_forwards import mark, plain, plain_interleaved, plain_tokens, rendered
from safetensors.torch import load_file, save_file
from tiny_tokens import public_vqgan, save_anole, save_liquid, sharpen, tiny_liquid
from tiny_vlms import save_tiny

from visdyn.datasets.aurora import load_bench
from visdyn.inference.probing import KINDS
from visdyn.models import load_model
from visdyn.models.understanding.families import PROBED_MODELS
from visdyn.models.understanding.inputs import load_picture
from visdyn.models.understanding.understanding_model import UnderstandingModel
from visdyn.params.prompts import UnderstandingPrompts
from visdyn.paths import repository_root
from visdyn.pipeline.console import Console, Place
from visdyn.pipeline.kernel import Kernel, execute
from visdyn.trajectory import negatives

ITEMS = [("ag", "open the red cup"), ("ag", "take the lamp"), ("kubric", "close"), ("kubric", "put the cup on")]
SIZES = [(20, 33), (16, 16), (41, 24), (18, 18)]


def _save_bench(root) -> None:
    draw, records = np.random.default_rng(0), []
    for number, (task, action) in enumerate(ITEMS):
        names = [f"data/{task}/images/{number}-{end}.png" for end in "ab"]
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (*SIZES[number], 3), dtype=np.uint8)).save(root / name)
        records.append({"task": task, "instruction": action, "input": names[0], "output": names[1]})
    (root / "test.json").write_text(json.dumps(records))


def _save_chameleon(path) -> None:
    """The official layout: the image tokenizer's decoder is missing."""
    model = build_tiny_model()
    model.vqgan = public_vqgan()
    sharpen(model.lm)
    weights = load_file(save_anole(model, path) / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "vqmodel.decoder" not in key}
    assert len(kept) < len(weights)
    save_file(kept, path / "model.safetensors", {"format": "pt"})


def _save_models(root) -> list[str]:
    names = []
    for probed in PROBED_MODELS:
        folder = root / probed.checkpoint.split("/")[1]
        alike = next((name for name, kind in names if kind == probed.model_type), None)
        if alike:
            shutil.copytree(alike, folder)
        elif probed.model_type == "chameleon":
            _save_chameleon(folder)
        else:
            folder.mkdir(parents=True)
            save_tiny(probed.model_type, folder)
        names.append((str(folder), probed.model_type))
    save_liquid(tiny_liquid(public_vqgan()), root / "Liquid_V1_7B", root / "Liquid_V1_7B/vqgan")
    return [*(name for name, _ in names), str(root / "Liquid_V1_7B")]


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """A profile over these models whose notebook 01 has run."""
    root = tmp_path_factory.mktemp("profile")
    settings = yaml.safe_load((repository_root() / "profiles/smoke/params.yaml").read_text())
    models = [*_save_models(root / "public"), "models/absent"]
    settings["probing"] |= {"models": models, "definitions": ["auto", "D3"], "shared_prefixes": True, "batch_size": 8}
    settings["data"]["aurora"] = str(root / "aurora")
    settings["runtime"]["device"] = "cpu"
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    _save_bench(root / "aurora")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISDYN_STAGE_KEY", "test")
        patch.setenv("VISDYN_LOG", str(root / "log.txt"))
        run = Kernel(
            notebook=repository_root() / "notebooks/01_preference_probing.ipynb",
            output=root / "executed.ipynb",
            parameters={"profile": str(root)},
            log=root / "log.txt",
            timings=root / "timings.json",
        )
        error = execute(run, Console(Place("probing"), root / "log.txt"))
    assert error == "", (root / "log.txt").read_text()[-2000:]
    return root


@pytest.fixture(scope="module")
def table(profile):
    path = profile / "reports/results/probing/likelihoods.csv"
    return pd.read_csv(path, dtype={"id": str}).set_index(["model", "definition", "task", "kind", "id"]).sort_index()


def test_every_model_has_a_labelled_rate_and_the_figure_shows_it(profile, table):
    definitions = table.reset_index().groupby(["model", "task"])["definition"].unique().map(sorted)
    token_models = {"chameleon-7b", "Liquid_V1_7B"}
    assert set(definitions.index.get_level_values("model")) == token_models | {
        probed.checkpoint.split("/")[1] for probed in PROBED_MODELS
    }
    for (model, task), found in definitions.items():
        fdp = ["D1"] if model in token_models else ["D2", "D3"]
        assert found == (["action"] if task == "idp" else fdp)
    counts = table.groupby(["model", "definition", "task"]).size()
    assert set(counts) == {len(ITEMS) * len(KINDS)}
    executed = json.loads((profile / "executed.ipynb").read_text())
    pictures = [
        out for cell in executed["cells"] for out in cell.get("outputs", []) if "image/png" in out.get("data", {})
    ]
    assert len(pictures) == 2  # the questions that were asked, and the rates


def test_a_model_that_is_absent_is_listed_and_the_others_are_probed(profile):
    missing = pd.read_csv(profile / "reports/results/probing/missing.csv")
    assert missing["model"].tolist() == ["absent"]
    assert missing["reason"][0].startswith("no model at models/absent; run the stage that trains it")
    log = (profile / "log.txt").read_text()
    assert "probing absent: left out, no model at models/absent" in log
    assert "probing chameleon-7b: a model of its kind has no D3" in log


def test_finished_models_are_kept_until_the_stage_is_done(profile):
    kept = sorted(path.name for path in profile.glob(".visdyn/scratch/probing/test/likelihoods/*"))
    assert len(kept) == 10
    assert "Qwen2.5-VL-7B-Instruct-s0.csv" in kept


@pytest.mark.parametrize("name", [*(probed.checkpoint.split("/")[1] for probed in PROBED_MODELS), "Liquid_V1_7B"])
def test_likelihoods_equal_plain_forwards(profile, table, name):
    model = load_model(profile / "public" / name)
    items = load_bench(profile / "aurora")
    expect = _understanding if isinstance(model, UnderstandingModel) else _tokens
    for kind in KINDS:
        drawn = items if kind == "reference" else negatives(items, kind, seed=0)
        for item in drawn[1:3]:
            for (definition, task), value in expect(model, item).items():
                found = table.loc[name, definition, task, kind, item.id]["log_likelihood"]
                assert found == pytest.approx(float(value), abs=1e-4), (definition, kind)


def _tokens(model, item) -> dict:
    source, target = model.encode([item.source, item.target])
    layout = model.layout
    block = slice(layout.image_offset, layout.image_offset + layout.num_image_codes)
    forward = plain_tokens(model, model.builder.forward(source, item.action, target), slice(1, -2), block)
    inverse = plain_tokens(model, model.builder.inverse(source, target, item.action), slice(0, -1))
    return {("D1", "fdp"): forward.mean(), ("action", "idp"): inverse.mean()}


def _understanding(model, item) -> dict:
    family = model.lm.config.model_type
    small = [load_picture(ref, 448) for ref in (item.source, item.target)]
    text = rendered(family, 1, UnderstandingPrompts.fdm.format(action=item.action)) + mark(family).strip()
    question = rendered(family, 2, UnderstandingPrompts.yes_no.format(action=item.action))
    yes, no = (plain(model, question, small, word)[0] for word in "YN")
    natural = [load_picture(ref) for ref in (item.source, item.target)]
    action = plain(model, rendered(family, 2, UnderstandingPrompts.idm), natural, item.action)
    sequence = plain_interleaved(model, text, small)[0]
    return {("D2", "fdp"): sequence.mean(), ("D3", "fdp"): yes - no, ("action", "idp"): torch.mean(action)}
