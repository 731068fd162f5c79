"""Judges and captions by models on this machine, with tiny random checkpoints."""

from __future__ import annotations

import csv
import pickle

import numpy as np
import pytest
import torch
from tiny_metrics import save_blip
from tiny_vlms import save_tiny

from visdyn.compute.store import Store
from visdyn.endpoint.local_server import LocalEndpoint, LocalSettings
from visdyn.endpoint.replies import Question, ReplyStore
from visdyn.evaluation.judges.ask import JudgedItem, judge_items
from visdyn.evaluation.judges.judge_prompts import load_prompt
from visdyn.evaluation.metrics.captions import Captioner, captions_of, read_captions
from visdyn.models.understanding.chat import TransformersVLM

PROMPT = load_prompt("kit", "editing")
PICTURES = [np.full((20, 30, 3), shade, np.uint8) for shade in (10, 90, 200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny("qwen2_vl", tmp_path_factory.mktemp("qwen"))


def local(folder, **sampling):
    return LocalEndpoint(LocalSettings(str(folder), {"max_tokens": 4, **sampling}, device="cpu", dtype="float32"))


def test_a_local_judge_is_asked_once_and_its_words_are_kept(folder, tmp_path, monkeypatch):
    items = [JudgedItem("ours", str(n), PICTURES[0], PICTURES[n], "open it") for n in (1, 2)]
    with local(folder) as endpoint:
        table = judge_items(items, PROMPT, endpoint, ReplyStore(tmp_path), 2, report=lambda line: None)
        assert len(table) == 2 * 2 * 3
        assert set(table["outcome"]) == {"unparsable"}  # random words are no score, and no zero
        assert table["value"].isna().all()
        monkeypatch.setattr(endpoint, "ask", None)  # a second run has nothing to ask
        again = judge_items(items, PROMPT, endpoint, ReplyStore(tmp_path), 2, report=lambda line: None)
    assert again.equals(table)


def test_replies_say_their_length_and_repeats_are_drawn_with_their_own_seed(folder):
    greedy, drawn = local(folder, temperature=0.0), local(folder, temperature=1.0)
    reply = greedy.ask(Question((PICTURES[0],), "what?"))
    assert reply.text == TransformersVLM(str(folder), 4, dtype="float32").answer_many([((PICTURES[0],), "what?")])[0]
    assert (reply.finish_reason, reply.usage.completion_tokens) == ("length", 4)
    assert greedy.settings.sampling_of(1) == {"max_tokens": 4, "temperature": 0.0}
    assert drawn.settings.sampling_of(1)["seed"] == 1
    state = torch.random.get_rng_state()
    first, second, other = (drawn.ask(Question((PICTURES[0],), "what?"), repeat).text for repeat in (0, 0, 1))
    assert first == second != other
    assert torch.equal(state, torch.random.get_rng_state())  # the caller's random numbers are its own


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return save_blip(tmp_path_factory.mktemp("blip"), ["a", "cat", "open", "door", "the", "red", "cup"])


def test_captions_come_from_the_file_then_from_the_model(blip, tmp_path):
    model = Captioner(str(blip), "cpu", tmp_path / "captions.sqlite")
    with open(tmp_path / "known.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "subset", "id", "caption"], ["target", "ag", "1", "a red cup"]])
    known = read_captions(tmp_path / "known.csv")
    keys = [("ag", "0"), ("ag", "1"), ("ag", "2")]
    found = captions_of("target", keys, [PICTURES[0], PICTURES[1], None], known, model)
    assert found[1:] == ["a red cup", None]
    assert found[0] == model([PICTURES[0]])[0] != ""
    assert captions_of("target", keys, PICTURES, known, None) == [None, "a red cup", None]
    assert len(Store(tmp_path / "captions.sqlite").keys()) == 1  # asked for once
    assert pickle.loads(pickle.dumps(model))([PICTURES[0]]) == found[:1]  # other processes are handed its name


def test_bad_caption_files_are_refused(tmp_path):
    path = tmp_path / "c.csv"
    head = "image,subset,id,caption\n"
    cases = {"image,id\n": "lacks the column subset, caption", f"{head}other,a,1,x\n": "image 'other'",
             f"{head}end,,1,x\nend,,1,y\n": "names an item again"}  # fmt: skip
    for text, reason in cases.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_captions(path)
    with pytest.raises(FileNotFoundError, match="correct evaluation"):
        read_captions(tmp_path / "none.csv")
