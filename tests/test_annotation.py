"""Synthetic labels: the IDM's actions with its confidence, over processes, and the selection among them."""

from __future__ import annotations

import copy
import math
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from visdyn.compute.rows import Execution
from visdyn.datasets.annotated import read_annotated, write_annotated
from visdyn.inference import annotation
from visdyn.inference.annotation import (
    Annotation,
    Decoding,
    Labeller,
    annotate,
    annotate_pairs,
)
from visdyn.mining.mined_files import ImagePair
from visdyn.models.token.tokens import IMAGE
from visdyn.models.token.unified import UnifiedModel
from visdyn.quarantine import Quarantine
from visdyn.stages.annotation import mining_summary, pairs_table, select


class _Labeller:
    """An IDM with given answers."""

    def __init__(self, answers, scores):
        self.model, self.answers = self, (answers, torch.tensor(scores))

    def encode(self, images):
        return images

    def predict_codes(self, sources, targets, max_new_tokens):
        return self.answers


def test_an_empty_answer_is_never_likely():
    labels = annotate(_Labeller(["open", " ", "close "], [-1.5, 0.0, -0.25]), [1, 2, 3], [4, 5, 6])
    assert labels == [
        Annotation("open", -1.5),
        Annotation("", float("-inf")),
        Annotation("close", -0.25),
    ]


@pytest.fixture(scope="module")
def wordy(tiny):
    """The tiny model, that never writes a token which is no word."""
    lm, tokenizer = copy.deepcopy(tiny.lm), tiny.builder.tokenizer
    lm.lm_head.weight.data[[tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids(IMAGE)]] = 0.0
    return UnifiedModel(lm, tiny.builder, tiny.vqgan)


@pytest.mark.parametrize("decoding", [Decoding(), Decoding("sample", 0.7, 5, seed=3)])
def test_the_score_is_the_log_likelihood_of_the_label(wordy, scenes, decoding):
    """The confidence that selects a label is the number that `log_likelihood` gives for it, however it was decoded."""
    idm, sources, targets = wordy.inverse_dynamics, scenes[:4], scenes[4:8]
    labels = annotate(idm, sources, targets, decoding)
    said = [index for index, label in enumerate(labels) if label.action]
    actions = [labels[index].action for index in said]
    likelihoods = idm.log_likelihood(sources[said], targets[said], actions)
    assert [labels[index].score for index in said] == pytest.approx(likelihoods.tolist(), abs=1e-4)
    if decoding.kind == "greedy":
        assert [label.action for label in labels] == replace(idm, max_new_tokens=16).predict(sources, targets)


def test_samples_are_seeded_by_pair_and_differ_from_greedy(wordy, scenes):
    idm, names = wordy.inverse_dynamics, ["a", "b", "c", "d"]
    sample = Decoding("sample", 2.0, 5, seed=1)
    together = annotate(idm, scenes[:4], scenes[4:8], sample, names)
    alone = annotate(idm, scenes[2:3], scenes[6:7], sample, ["c"])
    assert [label.action for label in together] != [label.action for label in annotate(idm, scenes[:4], scenes[4:8])]
    assert alone[0].action == together[2].action
    assert annotate(idm, scenes[:4], scenes[4:8], replace(sample, seed=2), names) != together
    assert max(len(label.action.split()) for label in together) <= 5


def test_a_cold_sample_is_greedy(wordy, scenes):
    cold = annotate(wordy.inverse_dynamics, scenes[:4], scenes[4:8], Decoding("sample", 1e-4))
    assert [label.action for label in cold] == replace(wordy.inverse_dynamics, max_new_tokens=16).predict(
        scenes[:4], scenes[4:8]
    )


@pytest.mark.parametrize(("kind", "temperature", "message"), [("beam", 1.0, "greedy"), ("sample", 0.0, "above 0")])
def test_senseless_decodings_are_refused(kind, temperature, message):
    with pytest.raises(ValueError, match=message):
        Decoding(kind, temperature)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, scenes):
    """Seven pairs of image files, one of them damaged."""
    folder = tmp_path_factory.mktemp("pairs")
    for index, scene in enumerate(scenes):
        Image.fromarray(scene).save(folder / f"{index}.png")
    found = [
        ImagePair(str(folder / f"{i}.png"), str(folder / f"{i + 1}.png"), "d", f"c{i % 2}", f"v{i}", 0, 9)
        for i in range(7)
    ]
    damaged = folder / "damaged.png"
    damaged.write_bytes(b"no image")
    return [*found[:4], replace(found[4], target=str(damaged)), *found[5:]]


def test_processes_give_the_labels_of_one_process(tiny_folder, pairs, tmp_path):
    labeller = Labeller(str(tiny_folder), decoding=Decoding("sample", max_new_tokens=4))
    bad, also_bad = Quarantine(), Quarantine()
    alone = annotate_pairs(labeller, pairs, tmp_path / "one", 2, quarantine=bad)
    spread = annotate_pairs(labeller, pairs, tmp_path / "two", 2, Execution(processes=2), also_bad)
    assert spread == alone
    assert [item.pair for item in alone] == [*pairs[:4], *pairs[5:]]
    assert [entry.item for entry in bad] == [entry.item for entry in also_bad] == [pairs[4].id]
    assert "damaged.png cannot be decoded" in bad.items[0].reason


def test_finished_batches_are_not_labelled_again(tiny_folder, pairs, tmp_path, monkeypatch):
    labeller, calls = Labeller(str(tiny_folder)), []
    whole = annotate_pairs(labeller, pairs[:4], tmp_path / "whole", 2)
    label_batch = annotation.label_batch

    def dies(state, batch):
        calls.append(batch[0].id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return label_batch(state, batch)

    monkeypatch.setattr(annotation, "label_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        annotate_pairs(labeller, pairs[:4], tmp_path / "killed", 2)
    assert annotate_pairs(labeller, pairs[:4], tmp_path / "killed", 2) == whole
    assert calls == [pairs[0].id, pairs[2].id, pairs[2].id]


def test_each_gpu_has_a_process_and_its_own_copy(monkeypatch):
    loaded = []
    monkeypatch.setattr(
        annotation, "load_model", lambda name, task, device, prompts: loaded.append((name, task, device))
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for place in (0, 1):
        Labeller("m", "cuda").load(place)
    Labeller("m", "cpu").load(1)
    assert loaded == [("m", "idp", "cuda:0"), ("m", "idp", "cuda:1"), ("m", "idp", "cpu")]
    assert multiprocessing.parent_process() is None


def test_table_7_of_real_clips_needs_no_truth(tiny_folder, pairs, tmp_path):
    labelled = annotate_pairs(Labeller(str(tiny_folder)), pairs[:4], tmp_path / "labels")
    table, triplets = pairs_table(labelled, select(labelled, 2), [""] * 4)
    table = table.assign(chain=0)
    write_annotated(triplets, tmp_path / "annotated")
    assert table["correct"].isna().all()
    keys = [("d", pair.class_name, pair.video) for pair in pairs[:4]] + [("d", "c0", "without a pair")]
    lengths = pd.DataFrame(
        [(*key, 100, 4.0) for key in keys], columns=["dataset", "class", "video", "frames", "seconds"]
    )
    (row,) = mining_summary(table, lengths).to_dict("records")
    assert (row["videos"], row["mean_seconds"], row["total_hours"]) == (4, 4.0, 20 / 3600)
    assert (row["observations_per_video"], row["actions_per_video"], row["pairs"]) == (2.0, 1.0, 4)
    rows = read_annotated(tmp_path / "annotated")
    pictures = {(Path(item.pair.source), Path(item.pair.target)) for item in select(labelled, 2)}
    assert {(Path(row["source"]), Path(row["target"])) for row in rows} == pictures
    assert str(tmp_path) not in (tmp_path / "annotated/triplets.jsonl").read_text()  # the same in every checkout
    empty, _ = pairs_table([], [], [])
    assert [*empty.columns, "chain"] == list(table.columns)
    assert mining_summary(empty.assign(chain=0), lengths.iloc[:0]).empty


def test_a_label_whose_likelihood_is_no_number_is_set_aside():
    assert annotation._label_row(Annotation("open", float("nan")), None)["error"].startswith("the likelihood")
    assert math.isnan(annotate(_Labeller([" "], [math.nan]), [1], [2])[0].score)
    assert annotation._label_row(Annotation("open", -1.0), None) == {"action": "open", "score": -1.0}
    assert annotation._label_row(Annotation("", float("-inf")), None) == {"action": "", "score": None}
