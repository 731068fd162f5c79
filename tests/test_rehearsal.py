"""The paper profile end to end on tiny checkpoints: every stage, by its own names and parameters."""

from __future__ import annotations

import pandas as pd
import pytest
import rehearsal
import yaml
from checkouts import copy_checkout, dvc
from fake_endpoint import KEY

from visdyn.params import load_params
from visdyn.paths import repository_root
from visdyn.pipeline.doctor import named_checkpoints

ROOT = repository_root()


def test_every_checkpoint_of_the_profile_has_a_stand_in_under_its_name(tmp_path):
    described = yaml.safe_load((ROOT / "data/external/models.yaml").read_text())["models"]
    named = named_checkpoints(load_params("profiles/paper"), {entry["id"] for entry in described})
    held = rehearsal.stand_ins(tmp_path)
    assert set(named) - set(held) == {f"$VISDYN_DATA/{rehearsal.CLASSIFIER}"}  # which lies among the data


def test_what_is_left_out_is_listed():
    values = yaml.safe_load((ROOT / "profiles/paper/params.yaml").read_text())
    changed = rehearsal.change(values, "http://127.0.0.1:1/v1", "")
    listed = rehearsal.report(values, changed)
    differing = rehearsal.differences(values, changed)
    assert all(f"| {key} | {there} | {here} |" in listed for key, there, here in differing)
    assert "| doundo.training.steps | 14000 | 2 | 2 steps instead of 14,000 |" in listed
    assert rehearsal.differences({"a": [{"b": 1}], "c": 2}, {"a": [{"b": 3}], "d": 4}) == [
        ("a[0].b", 1, 3), ("c", 2, None), ("d", None, 4)
    ]  # fmt: skip
    # None of these is taken out: editors, judges, curators, captions, BERTScore, flow, benchmarks.
    kept = ("editors", "judges", "curator", "expansion", "captions", "bert_score", "backend", "spatial", "classifier")
    gone = {key for key, _, here in differing if any(name in key for name in kept) and here in (None, "", [], {})}
    assert gone == set()


@pytest.mark.slow
def test_the_paper_profile_runs_on_tiny_checkpoints_of_the_public_classes(tmp_path, serve, monkeypatch):
    judge = serve(lambda text, nth, repeat: rehearsal.judged(text))
    checkout = copy_checkout(tmp_path / "checkout")
    profile, environment = rehearsal.write_profile(checkout, tmp_path / "workshop", judge.url)
    print((profile / "rehearsal.md").read_text())
    dvc(checkout, "repro", "profiles/rehearsal/dvc.yaml", OPENAI_API_KEY=KEY, GEMINI_API_KEY=KEY, **environment)
    stages = set(yaml.safe_load((checkout / "dvc.yaml").read_text())["stages"])
    assert set(yaml.safe_load((profile / "dvc.lock").read_text())["stages"]) == stages
    results = profile / "reports/results"

    def read(name):
        return pd.read_csv(results / f"{name}.csv", dtype={"id": str})

    probed = read("probing/likelihoods")
    assert probed["model"].nunique() == 9
    assert set(probed[probed["task"] == "fdp"]["definition"]) == {"D1", "D2"}
    assert probed["log_likelihood"].notna().all()
    assert len(read("probing/missing")) == 0
    adapter = profile / "models/idm/s0/adapter_model.safetensors"
    assert adapter.stat().st_size < 2**20  # an adapter, not the base again
    texts = read("idm_evaluation/text_metrics")
    assert texts.loc[texts["metric"] == "bert_score", "value"].notna().all()
    assert set(read("mining/prompts")["num_words"]) >= {len(rehearsal.PROMPT.split())}  # the curator's own words

    scores, doundo = read("evaluation/fdm_scores"), read("evaluation_doundo/doundo_scores")
    assert {"copy", "oracle", "shuffled", "zero_shot", "supervised", "synthetic_weighted", "InstructPix2Pix"} <= set(
        scores["system"]
    )
    assert {
        "copy",
        "oracle",
        "shuffled",
        "base",
        "doundo",
        "doundo_c",
        "FLUX Kontext",
        "Qwen-Image",
        "base_think",
    } <= set(doundo["system"])
    for table, metrics in ((scores, ("clip_t", "clip_t_edited", "dino")),
                           (doundo, ("clip_prompt", "epe_f", "action_accuracy", "noun_accuracy"))):  # fmt: skip
        for metric in metrics:
            values = table.loc[table["metric"] == metric, "value"]
            assert len(values), metric
            assert values.notna().all(), metric
    for name in ("evaluation", "evaluation_doundo"):
        runs = read(f"{name}/judge_runs")
        assert len(runs)
        assert (runs[["invalid", "refused", "failed"]] == 0).all(axis=None)
        assert (runs["asked"] > 0).all()
    assert judge.seen

    asked = read("spatial/accuracy")
    assert {"spatialmqa", "embspatial"} == set(asked["benchmark"])
    assert {"zero_shot", "liquid"} <= set(asked["model"])
    assert (profile / "reports/index.html").is_file()
