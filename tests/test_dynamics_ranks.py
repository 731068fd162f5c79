"""IDM and FDM of a tiny Chameleon and a tiny Liquid on two ranks of DeepSpeed, against one process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import WORDS
from ranks import run_ranks
from safetensors.torch import load_file
from tiny_tokens import save_trained_families
from toy_dynamics import job_arguments, lora_of

from visdyn.models import load_model
from visdyn.training.dynamics import train_dynamics
from visdyn.training.engine.fit import ScratchError
from visdyn.training.engine.launch import Job

LORA, HEAD = lora_of(), lora_of(modules_to_save=("lm_head",))
TRAINING = {"steps": 4, "save_every": 2}
# Sums in another order: the losses differ in the sixth digit, the weights by a small part of one update of 1e-3.
LOSS, WEIGHT = 2e-5, 3e-5
RUNS = {
    "chameleon-fdm-full": {"data": {"task": "fdm", "weighting": "recognition"}},
    "chameleon-idm-lora": {"data": {"task": "idm"}, "lora": LORA},
    "liquid-idm-full": {"data": {"task": "idm"}},
    "liquid-fdm-lora": {"data": {"task": "fdm", "weighting": "recognition", "floor": 0.0}, "lora": HEAD},
}


@pytest.fixture(scope="module")
def world(tiny_folder, tmp_path_factory):
    """Folders of both bases and a triplet file of each; 8 triplets whose actions have 1 to 4 words."""
    return save_trained_families(tmp_path_factory.mktemp("ranks"), tiny_folder, WORDS)


def arguments(world, name: str, folder: Path, **changes) -> dict:
    base, triplets = world[name.split("-")[0]]
    places = {"output": str(folder / name), "scratch": str(folder / f"{name}-state")}
    return job_arguments(base, triplets, folder, training=TRAINING, **places, **RUNS[name], **changes)


def launch(jobs: list[dict], folder: Path) -> None:
    """Train jobs one after another on two ranks of one process group."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps([Job("one", "", job).arguments for job in jobs]))
    run_ranks("dynamics_ranks", str(folder / "jobs.json"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def assert_equal_runs(one: Path, two: Path) -> None:
    pd.testing.assert_frame_equal(pd.read_csv(one / "training.csv"), pd.read_csv(two / "training.csv"), rtol=LOSS)
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, atol=WEIGHT, rtol=0)
    load_model(two)


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """The same trainings in one process."""
    folder = tmp_path_factory.mktemp("one")
    for name in RUNS:
        train_dynamics(**arguments(world, name, folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_train_like_one_process_and_resume(world, whole, tmp_path, stage):
    """Four trainings in one launch, about 20 s a rank; some are cut off, after a checkpoint or in saving, and go on.

    The ranks' IDM batches hold actions of different lengths, so that means of the ranks' means would differ.
    """
    hardware = {"deepspeed": f"hardware/deepspeed/zero{stage}.json"}
    jobs = []
    for name in RUNS if stage > 1 else ["chameleon-idm-lora"]:
        # The head is used outside its module, whole for an IDM and in chunks of 5 or 9 rows for an FDM.
        job = arguments(world, name, tmp_path, hardware=hardware, chunk=400 if "fdm" in name else 2**25)
        if "lora" in name:
            jobs.append({**job, "stop": 4, "expect": "stopped"})
            wider = replace(job["config"], training=replace(job["config"].training, batch_size=8))
            jobs.append({**job, "config": wider, "expect": "different batch_size"})
        else:
            jobs.append({**job, "full": True, "expect": "no space left"})
        jobs.append(job)
    launch(jobs, tmp_path)
    for job in jobs:
        name = Path(job["output"]).name
        assert_equal_runs(whole / name, tmp_path / name)


@pytest.mark.slow
def test_what_two_ranks_left_is_refused_by_one_process(world, tmp_path):
    """About 8 s a rank."""
    job = arguments(world, "chameleon-fdm-full", tmp_path)
    hardware = {"deepspeed": "hardware/deepspeed/zero2.json"}
    launch([{**job, "hardware": hardware, "stop": 4, "expect": "stopped"}], tmp_path)
    with pytest.raises(ScratchError, match=r"unfinished state of another run \(different world_size\)"):
        train_dynamics(**job)


@pytest.mark.slow
def test_accumulated_parts_train_like_the_whole_batch(world, whole, tmp_path):
    """In one process: parts of one and three words count by their tokens."""
    for name in ("chameleon-idm-lora", "liquid-idm-full"):
        train_dynamics(**arguments(world, name, tmp_path, hardware={"gradient_accumulation_steps": 4}))
        assert_equal_runs(whole / name, tmp_path / name)
