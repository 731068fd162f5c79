"""The paper profile end to end on tiny checkpoints: every stage, by parameters alone."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml
from checkouts import copy_checkout, dvc
from rehearsal import FAMILIES, write_profile

from visdyn.params import load_params


def test_every_probed_checkpoint_has_a_stand_in():
    assert set(load_params("profiles/paper").probing.models) == set(FAMILIES)


@pytest.mark.slow
def test_the_paper_profile_runs_on_tiny_checkpoints_of_the_public_classes(tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    profile = write_profile(checkout, tmp_path / "workshop")
    dvc(checkout, "repro", "profiles/rehearsal/dvc.yaml")
    stages = set(yaml.safe_load((checkout / "dvc.yaml").read_text())["stages"])
    assert set(yaml.safe_load((profile / "dvc.lock").read_text())["stages"]) == stages
    results = profile / "reports/results"
    probed = pd.read_csv(results / "probing/likelihoods.csv")
    assert set(probed[probed["task"] == "fdp"]["definition"]) == {"D1", "D2"}
    assert probed["log_likelihood"].notna().all()
    assert (
        profile / "models/idm/s0/adapter_model.safetensors"
    ).stat().st_size < 2**20  # an adapter, not the base again
    scores = pd.read_csv(results / "evaluation/fdm_scores.csv")
    assert {"copy", "oracle", "shuffled", "zero_shot", "supervised", "synthetic_weighted"} <= set(scores["system"])
    doundo = pd.read_csv(results / "evaluation_doundo/doundo_scores.csv")
    assert {"copy", "oracle", "shuffled", "base", "doundo", "doundo_c"} <= set(doundo["system"])
    assert (profile / "reports/index.html").is_file()
