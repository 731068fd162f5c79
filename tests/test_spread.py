"""Work over several GPUs (here processes): the rows of one process, and a process that is killed in the middle costs
nothing."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_metrics import save_blip
from tiny_vlms import save_tiny
from toy_jobs import BatchVLM, die_at_three
from transformers import ViTConfig, ViTModel

from visdyn.compute import gpus
from visdyn.compute.gpus import map_gpus
from visdyn.compute.store import Store
from visdyn.compute.workers import Lasting, Task, WorkerError, WorkerLostError
from visdyn.datasets.spatial_questions import SpatialQuestion
from visdyn.endpoint.local_server import LocalEndpoint, LocalSettings
from visdyn.endpoint.replies import ReplyStore
from visdyn.evaluation.judges.ask import JudgedItem, judge_items
from visdyn.evaluation.judges.judge_prompts import load_prompt
from visdyn.evaluation.metrics.captions import Captioner
from visdyn.models.encoder_preprocess import DINO_PRESETS, preset_of
from visdyn.models.encoders import ImageEncoder
from visdyn.models.understanding.chat_cache import CachedVLM
from visdyn.models.understanding.spread import SpreadVLM
from visdyn.params.prompts import SENTENCES
from visdyn.quarantine import Quarantine
from visdyn.stages.probing import probe_models
from visdyn.stages.spatial import ask_all
from visdyn.trajectory import Trajectory


@pytest.fixture
def two_gpus(monkeypatch):
    """As if there were two; what the processes compute they compute on cores."""
    monkeypatch.setattr(gpus, "count_gpus", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_a_killed_process_costs_its_call_alone(tmp_path):
    assert map_gpus(die_at_three, range(6), str(tmp_path)) == [0, 1, 4, 9, 16, 25]
    assert sorted((tmp_path / "begun").read_text().split()) == ["0", "1", "2", "3", "3", "4", "5"]


@pytest.mark.usefixtures("two_gpus")
def test_a_call_that_always_kills_is_named_once_the_others_are_done(tmp_path):
    (tmp_path / "always").touch()
    with pytest.raises(
        RuntimeError, match="1 of 6 calls of die_at_three came to no end in 2 attempts: the first ended"
    ):
        map_gpus(die_at_three, range(6), str(tmp_path))
    assert sorted((tmp_path / "begun").read_text().split()) == ["0", "1", "2", "3", "3", "4", "5"]


def test_lasting_processes_are_replaced_and_say_what_failed(tmp_path):
    with Lasting(Task(die_at_three, str(tmp_path), attempts=2), 1) as processes:
        assert [processes.call(item) for item in (2, 3, 4)] == [4, 9, 16]
        with pytest.raises(WorkerError, match="TypeError"):
            processes.call(None)
        assert processes.call(5) == 25
    (tmp_path / "always").touch()
    with Lasting(Task(die_at_three, str(tmp_path), attempts=2), 1) as processes:
        with pytest.raises(WorkerLostError, match=r"a process ended \(signal 9\) while it was asked, 2 times"):
            processes.call(3)
        assert processes.call(6) == 36


def _questions(*texts: str) -> list:
    return [((np.zeros((2, 2, 3), np.uint8),), text) for text in texts]


def test_a_spread_model_is_asked_the_batches_of_one_process(tmp_path):
    questions = _questions("a", "b", "c", "die", "e", "f", "g")
    expected = ["a in a b", "b in a b", "c in c die", "die in c die", "e in e f", "f in e f", "g in g"]
    model = SpreadVLM(BatchVLM(str(tmp_path)), 2)
    assert model.answer_many(questions) == expected  # one process was killed meanwhile
    model.release()
    assert model.answer_many(questions[:1]) == ["a in a"]  # a later question starts them again
    model.release()


def test_what_was_answered_before_a_run_broke_off_is_not_asked_again(tmp_path):
    (tmp_path / "always").touch()
    questions = _questions("a", "b", "c", "d", "e", "die", "g")
    for _ in range(2):
        model = CachedVLM(SpreadVLM(BatchVLM(str(tmp_path)), 2), tmp_path / "answers.sqlite")
        with pytest.raises(WorkerLostError):
            model.answer_many(questions)
        model.release()
    assert (model.hits, model.misses) == (4, 3)
    (tmp_path / "always").unlink()
    assert model.answer_many(questions)[:4] == ["a in a b", "b in a b", "c in c d", "d in c d"]
    model.release()


@pytest.mark.slow
def test_probing_over_gpus_gives_the_rows_of_one_process(tiny_folder, tmp_path, scenes, monkeypatch):
    actions = ["open the cup", "take lamp", "close the red cup"]
    items = [Trajectory(scenes[row], actions[row], scenes[row + 4], "NA", f"0{row}") for row in range(3)]
    tables = []
    for count in (1, 2):
        monkeypatch.setattr(gpus, "count_gpus", lambda count=count: count)
        settings = {"definitions": ("auto",), "draws": 1, "shared_prefixes": False, "batch_size": 64}
        (folder := tmp_path / str(count)).mkdir()
        stage = SimpleNamespace(
            params=SimpleNamespace(models=(str(tiny_folder), "models/absent"), **settings),
            settings=SimpleNamespace(runtime=SimpleNamespace(log_seconds=9.0), prompts=SENTENCES),
            seed=0,
            device="cpu",
            in_chains=lambda name: [(chain, name) for chain in (0, 1)],
            scratch=lambda key, folder=folder: folder,
        )
        tables.append(probe_models(stage, items))
    for one, two in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(two, one, check_exact=True)
    assert sorted(tables[0][0]["chain"].unique()) == [0, 1]
    assert tables[0][1]["model"].tolist() == ["absent"]


@pytest.mark.slow
def test_questions_over_gpus_give_the_answers_of_one_process(tiny_folder, tmp_path, scenes, monkeypatch):
    for row in (1, 2):
        Image.fromarray(scenes[row]).save(tmp_path / f"{row}.png")
    questions = [
        SpatialQuestion(tmp_path / f"{row}.png", "where?", ("the cup", "the lamp"), 0, "kitchen", "", "on", str(row))
        for row in range(3)
    ]
    tables = []
    for count in (1, 2):
        monkeypatch.setattr(gpus, "count_gpus", lambda count=count: count)
        (folder := tmp_path / str(count)).mkdir()
        stage = SimpleNamespace(
            params=SimpleNamespace(models=(str(tiny_folder),), modes=("likelihood", "generation"), max_new_tokens=2),
            device="cpu",
            in_chains=lambda name: [(chain, name) for chain in (0, 1)],
            scratch=lambda key, folder=folder: folder,
        )
        bad = Quarantine()
        tables.append((*ask_all(stage, questions, bad), pd.DataFrame(list(bad))))
    for one, two in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(two, one, check_exact=True)
    assert len(tables[0][2]) == 4  # one image cannot be read: in two modes, by two models


@pytest.mark.slow
def test_a_judge_on_several_gpus_replies_as_one_does(tmp_path, scenes):
    folder = save_tiny("qwen2_vl", tmp_path)
    items = [JudgedItem("ours", str(row), scenes[0], scenes[row], "open it") for row in (1, 2, 3)]
    prompt, tables = load_prompt("kit", "editing"), []
    for count in (1, 2):
        sampling = {"max_tokens": 4, "temperature": 1.0}
        settings = LocalSettings(str(folder), sampling, device="cpu", dtype="float32", concurrency=count)
        with LocalEndpoint(settings) as endpoint:
            store = ReplyStore(tmp_path / str(count))
            tables.append(judge_items(items, prompt, endpoint, store, 2, report=lambda line: None))
    pd.testing.assert_frame_equal(*tables)
    texts = [{key: store.get(key).text for key in tables[0]["key"]} for store in
             (ReplyStore(tmp_path / "1"), ReplyStore(tmp_path / "2"))]  # fmt: skip
    assert texts[0] == texts[1]
    assert len(set(texts[0].values())) > 1


@pytest.mark.slow
def test_captions_over_gpus_are_those_of_one_process(tmp_path, scenes):
    folder = save_blip(tmp_path / "blip", ["a", "cat", "open", "door", "the", "red", "cup"])
    alone, spread = (Captioner(str(folder), cache=tmp_path / f"{n}.sqlite", processes=n) for n in (1, 2))
    alone.batch_size = spread.batch_size = 5
    assert spread(list(scenes)) == alone(list(scenes))
    assert len(Store(tmp_path / "2.sqlite").keys()) == len(scenes)


@torch.no_grad()
def test_an_encoder_travels_by_the_cpu_and_goes_back_to_its_device(scenes):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ViTModel(ViTConfig(**shape, image_size=32, patch_size=16), add_pooling_layer=False)
    # Another name of the same place, as `cuda` is one of whichever GPU a process sees.
    encoder = ImageEncoder(model, preset_of(DINO_PRESETS, "embedded").at_size(32), "cpu:0")
    state = encoder.__getstate__()
    assert state["model"] is not encoder.model
    again = pickle.loads(pickle.dumps(encoder))
    assert np.array_equal(again.embed_images(list(scenes[:3])), encoder.embed_images(list(scenes[:3])))
    assert again.device == "cpu:0"
