"""LoRA of the dynamics models: what is kept, in which precision, and that a killed run ends with the same adapter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import WORDS
from safetensors import safe_open
from tiny_tokens import save_trained_families
from toy_dynamics import job_arguments, lora_of

from visdyn.models import load_model
from visdyn.models.token.sequences import collate
from visdyn.training.dynamics import CompletionLoss, add_adapter, train_dynamics
from visdyn.training.engine.launch import Job
from visdyn.training.engine.sharding import widen_trained

LORA = lora_of(dropout=0.1)
TRAINING = {"steps": 6, "learning_rate": 1e-2, "save_every": 2}


@pytest.fixture(scope="module")
def world(tiny_folder, tmp_path_factory):
    """A base and a triplet file of each family."""
    families = save_trained_families(tmp_path_factory.mktemp("adapters"), tiny_folder, WORDS)
    return {family: (str(base), str(triplets)) for family, (base, triplets) in families.items()}


def job(world, family: str, folder: Path, lora=LORA, training=None, **changes) -> dict:
    base, triplets = world[family]
    return job_arguments(base, triplets, folder, lora=lora, training={**TRAINING, **(training or {})}, **changes)


def names_in(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return sorted(file.keys())


@pytest.mark.slow
@pytest.mark.parametrize(("family", "task"), [("chameleon", "fdm"), ("liquid", "idm")])
def test_a_killed_run_ends_with_the_same_adapter(world, tmp_path, family, task):
    """kill -9 in step 5 of 6; the last checkpoint stands at step 4. About 8 s of CPU."""
    train_dynamics(**job(world, family, tmp_path / "whole", data={"task": task}))
    cut = job(world, family, tmp_path / "cut", data={"task": task})
    (tmp_path / "jobs.json").write_text(json.dumps([{**Job("cut", "", cut).arguments, "kill": 5}]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-m", "dynamics_ranks", str(tmp_path / "jobs.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = names_in(tmp_path / "cut/state/checkpoint-4/model.safetensors")
    assert len(kept) == 28
    assert all("lora_" in name for name in kept)  # no copy of the base
    train_dynamics(**cut)
    files = [tmp_path / run / "out/adapter_model.safetensors" for run in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].with_name("training.csv").read_bytes() == files[1].with_name("training.csv").read_bytes()
    assert len(pd.read_csv(files[1].with_name("training.csv"))) == 6


@pytest.mark.parametrize("family", ["chameleon", "liquid"])
def test_the_folder_of_an_adapter_holds_the_adapter_alone(world, tmp_path, family):
    train_dynamics(**job(world, family, tmp_path, training={"steps": 1}))
    files = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "dynamics.json", "training.csv"}
    assert len(names_in(tmp_path / "out/adapter_model.safetensors")) == 2 * 2 * 7  # A and B, layers, linear maps
    assert all(str(tmp_path.parent) not in path.read_text() for path in (tmp_path / "out").glob("*.json"))
    base, adapted = load_model(world[family][0]), load_model(tmp_path / "out")
    moved = {
        name for name, value in adapted.lm.state_dict().items() if not torch.equal(value, base.lm.state_dict()[name])
    }
    assert len(moved) == 14
    assert all(torch.equal(value, base.vqgan.state_dict()[name]) for name, value in adapted.vqgan.state_dict().items())


@pytest.mark.parametrize("family", ["chameleon", "liquid"])
def test_a_saved_head_is_read_back_also_where_it_is_tied(world, tmp_path, family):
    """The merged model scores as the adapted one: Gemma's head is its embedding table."""
    base, triplets = world[family]
    with np.load(triplets) as file:
        pair = file["sources"][0], str(file["actions"][1]), file["targets"][1]
    model = load_model(base)
    batch = collate([model.builder.forward(*pair)], model.layout.pad)
    torch.manual_seed(0)
    add_adapter(model, base, lora_of(alpha=8, modules_to_save=("lm_head",)))
    for name, parameter in model.lm.named_parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * (0.2 if "lora" in name else 0.05)
    with torch.no_grad():
        loss = CompletionLoss(model.lm.eval())(**batch)["loss"]
        plain = CompletionLoss(load_model(base).lm)(**batch)["loss"]
        model.save(tmp_path / "out")
        again = CompletionLoss(load_model(tmp_path / "out").lm)(**batch)["loss"]
    torch.testing.assert_close(again, loss, atol=1e-4, rtol=0)
    assert (again - plain).abs() > 1e-2


def test_in_bf16_the_base_is_narrow_and_the_adapter_wide(world, tmp_path, monkeypatch):
    seen, forward = {}, CompletionLoss.forward

    def looking(self, *args, **kwargs):
        seen.update({name: (value.dtype, value.requires_grad) for name, value in self.lm.named_parameters()})
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(CompletionLoss, "forward", looking)
    lora = replace(LORA, modules_to_save=("lm_head",))
    train_dynamics(**job(world, "chameleon", tmp_path, lora, {"precision": "bf16", "steps": 2}))
    assert {dtype for dtype, trained in seen.values() if trained} == {torch.float32}
    assert {dtype for dtype, trained in seen.values() if not trained} == {torch.bfloat16}
    assert sum(trained for _, trained in seen.values()) == 28 + 1
    assert load_model(tmp_path / "out").vqgan.quant_conv.weight.dtype == torch.float32


def test_in_bf16_no_adapter_keeps_a_wide_copy_of_its_input(tiny_folder, grids):
    """The backward pass keeps what the adapter's first map read; peft would have made it float32."""
    model = load_model(tiny_folder, dtype=torch.bfloat16)
    add_adapter(model, str(tiny_folder), LORA)
    widen_trained(model.lm)
    read = []
    for name, module in model.lm.named_modules():
        if name.endswith("lora_A.default"):
            assert module.weight.dtype == torch.float32
            module.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].dtype))
    batch = collate([model.builder.forward(grids[0], "open", grids[1])], model.layout.pad)
    with torch.autocast("cpu", torch.bfloat16):
        CompletionLoss(model.lm.train())(**batch)["loss"].backward()
    assert read == [torch.bfloat16] * 14  # seven maps of two layers
    assert all(p.grad.dtype == torch.float32 for p in model.lm.parameters() if p.requires_grad)


@pytest.mark.parametrize(("family", "lora"), [("chameleon", LORA), ("liquid", None)])
def test_activation_checkpointing_computes_layers_twice(world, tmp_path, family, lora, monkeypatch):
    from transformers.models.chameleon.modeling_chameleon import ChameleonMLP
    from transformers.models.gemma.modeling_gemma import GemmaMLP

    calls, mlp = [], ChameleonMLP if family == "chameleon" else GemmaMLP
    forward = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda self, x: calls.append(1) or forward(self, x))
    counts, losses = [], []
    for name, hardware in (("plain", None), ("again", {"activation_checkpointing": True})):
        train_dynamics(**job(world, family, tmp_path / name, lora, {"steps": 2}, hardware=hardware))
        counts.append(len(calls))
        losses.append(pd.read_csv(tmp_path / name / "out/training.csv")["loss"].tolist())
    assert counts == [4, 4 + 8]  # 2 steps of 2 layers
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_model_that_cannot_write_images_is_refused(world, tmp_path, monkeypatch):
    monkeypatch.setattr("visdyn.training.dynamics.load_model", lambda *_, **__: object())
    with pytest.raises(ValueError, match="cannot write images; a dynamics model starts from a Chameleon"):
        train_dynamics(**job(world, "chameleon", tmp_path))
