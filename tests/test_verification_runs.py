"""Verification of whole runs: parts survive a kill, two adapters share a base, images of several sizes are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_tokens import save_adapted

from visdyn.evaluation.benches.bench import AURORA_BENCH
from visdyn.evaluation.systems.outputs import FORWARD
from visdyn.images import load
from visdyn.inference import verification
from visdyn.inference.candidates import candidate_folder
from visdyn.inference.generation import generate
from visdyn.inference.verification import (
    agreement,
    best_of_k,
    score_candidates,
    score_candidates_in_parts,
    select_best_candidates,
)
from visdyn.models.dynamics_pair import load_dynamics
from visdyn.params import load_params
from visdyn.stages import verification as verification_runs
from visdyn.trajectory import Trajectory

ACTIONS = ["open the cup", "close the red cup", "take lamp", "open the lamp"]
SIZES = [(20, 33), (16, 16), (41, 24), (18, 18)]


@pytest.fixture(scope="module")
def items():
    """Four trajectories whose images have four sizes."""
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES * 2]
    return [Trajectory(images[row], ACTIONS[row], images[row + 4], "ag", str(row)) for row in range(4)]


@pytest.fixture(scope="module", params=["chameleon", "liquid"])
def runs(request, tiny_folder, tmp_path_factory):
    """Folders of a base, of an FDM and of an IDM (adapters)."""
    return save_adapted(tmp_path_factory.mktemp("models"), request.param, tiny_folder)


def _job(root, tmp_path, rivals=None, **changes):
    settings = replace(load_params().verification, candidates=(1, 2), batch_size=1)
    settings = replace(settings, **changes)
    folders = {"folder": root / "fdm", "idm": root / "idm", "scratch": tmp_path}
    rest = {"seed": 3, "settings": settings, "device": "cpu", "log_seconds": 9.0, "kept": tmp_path / "kept"}
    return verification_runs._Job("supervised", 1, draw=2, **folders, **rest, rivals=rivals or {})


def test_candidates_have_their_sources_geometry_and_are_kept(runs, items, tmp_path):
    table = verification_runs._candidate_table(items, _job(runs, tmp_path))
    assert table.groupby("candidate").size().to_dict() == {0: 4, 1: 4}
    assert set(table["draw"]) == {2}
    roles = load_dynamics(runs / "fdm", runs / "idm", batch_size=1)
    scored = score_candidates(*roles, items, 2, seed=3)
    restored = type(roles[0].model).__name__ == "LiquidModel"
    shapes = [[image.shape[:2] for image in row] for row in scored.images]
    assert (
        shapes == [[(9, 16)] * 2, [(16, 16)] * 2, [(16, 8)] * 2, [(16, 16)] * 2] if restored else [[(16, 16)] * 2] * 4
    )
    for row, item in enumerate(items):
        for candidate in range(2):
            folder = candidate_folder(tmp_path / "kept", "supervised", 1, 2, candidate)
            kept = np.asarray(load(folder / AURORA_BENCH.file(item, FORWARD)))
            np.testing.assert_array_equal(kept, scored.images[row][candidate])
    first = table[table["candidate"] == 0]
    np.testing.assert_allclose(first["idm_log_likelihood"], scored.inverse[:, 0], atol=1e-4)
    for row, item in enumerate(items):
        alone = roles[1].log_likelihood([item.source] * 2, list(scored.images[row]), [item.action] * 2)
        np.testing.assert_allclose(scored.inverse[row], alone, atol=1e-4)


def test_rivals_score_the_same_images_and_one_that_is_not_there_says_nothing(runs, items, tmp_path):
    job = _job(runs, tmp_path / "a", rivals={"idm_same_labels": runs / "idm"})
    table = verification_runs._candidate_table(items, job)
    np.testing.assert_allclose(table["idm_same_labels_log_likelihood"], table["idm_log_likelihood"], atol=1e-4)
    assert table["zero_shot_log_likelihood"].isna().all()
    other = verification_runs._candidate_table(items, _job(runs, tmp_path / "b", rivals={"zero_shot": runs / "fdm"}))
    assert not np.allclose(other["zero_shot_log_likelihood"], table["idm_log_likelihood"], atol=1e-2)
    assert other["zero_shot_log_likelihood"].notna().all()
    assert set(agreement(table, [2])["verifier"]) == {"likelihood", "idm_same_labels", "random"}


def test_shared_prefixes_do_not_change_what_is_chosen(runs, items, tmp_path):
    plain, shared = (
        verification_runs._candidate_table(items, _job(runs, tmp_path / str(flag), shared_prefixes=flag))
        for flag in (False, True)
    )
    columns = ["idm_log_likelihood", "fdm_log_likelihood"]
    np.testing.assert_allclose(plain[columns], shared[columns], atol=1e-4)


def test_draft_decoding_draws_other_samples_of_the_same_items(runs, items, tmp_path):
    tables = [
        verification_runs._candidate_table(items, _job(runs, tmp_path / way, decoding=way))
        for way in ("plain", "draft")
    ]
    assert (tables[0]["fdm_log_likelihood"] != tables[1]["fdm_log_likelihood"]).any()
    assert tables[0][["subset", "id", "candidate"]].equals(tables[1][["subset", "id", "candidate"]])
    with pytest.raises(ValueError, match="unknown decoding 'free'; one of plain, draft"):
        verification_runs._candidate_table(items, _job(runs, tmp_path / "free", decoding="free"))


def test_a_killed_run_goes_on_where_it_was(runs, items, tmp_path, monkeypatch):
    roles = load_dynamics(runs / "fdm", runs / "idm")
    whole = score_candidates_in_parts(*roles, items, 2, 3, tmp_path / "whole", 3)
    calls = []

    def once(forward, inverse, part, k, seed):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(part))
        return score_candidates(forward, inverse, part, k, seed)

    monkeypatch.setattr(verification, "score_candidates", once)
    with pytest.raises(KeyboardInterrupt):
        score_candidates_in_parts(*roles, items, 2, 3, tmp_path / "cut", 3)
    monkeypatch.setattr(verification, "score_candidates", lambda *a: calls.append(len(a[2])) or score_candidates(*a))
    again, told = None, []
    again = score_candidates_in_parts(*roles, items, 2, 3, tmp_path / "cut", 3, told.append)
    assert calls == [3, 1]
    assert told == [3, 1]
    for name in ("codes", "inverse", "forward"):
        assert np.array_equal(getattr(again, name), getattr(whole, name))
    pairs = [
        (left, right)
        for rows in zip(again.images, whole.images, strict=True)
        for left, right in zip(*rows, strict=True)
    ]
    assert all(np.array_equal(left, right) for left, right in pairs)


def test_equal_candidates_are_scored_once(runs, items, tmp_path, monkeypatch):
    forward, inverse = load_dynamics(runs / "fdm", runs / "idm", batch_size=1)
    alone = score_candidates(forward, inverse, items, 2, seed=3)

    def draw_twice(model, trajectories, k, seed):
        images, codes = generate(model, trajectories, k // 2, seed)
        return images.repeat(2, 1), codes.repeat(2, 1)

    seen = []
    score = type(inverse).score_codes
    monkeypatch.setattr(verification, "generate", draw_twice)
    monkeypatch.setattr(type(inverse), "score_codes", lambda self, *a: seen.append(len(a[0])) or score(self, *a))
    scored = score_candidates(forward, inverse, items, 4, seed=3)
    assert seen[0] == len({(row, codes.tobytes()) for row, some in enumerate(alone.codes) for codes in some})
    np.testing.assert_allclose(scored.inverse, alone.inverse.repeat(2, 1), atol=1e-4)
    np.testing.assert_allclose(scored.forward, alone.forward.repeat(2, 1), atol=1e-4)


def test_agreement_counts_the_items_where_two_choices_are_one():
    keys = {"arm": "a", "chain": 0, "draw": 0, "subset": "ag"}
    favourites = [(1, 0), (1, 1)]  # of the IDM and of the FDM, of each item
    rows = [(str(item), candidate, float(candidate == idm), float(candidate == fdm))
            for item, (idm, fdm) in enumerate(favourites) for candidate in (0, 1)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["id", "candidate", "idm_log_likelihood", "fdm_log_likelihood"]).assign(**keys)
    found = agreement(table, [1, 2]).set_index(["verifier", "k"])["share"]
    assert found.to_dict() == {("likelihood", 1): 1, ("random", 1): 1, ("likelihood", 2): 0.5, ("random", 2): 0.5}


def test_an_unknown_value_is_never_chosen_before_a_known_one():
    rows = {"arm": "a", "chain": 0, "draw": 0, "subset": "ag", "id": "1"}
    table = pd.DataFrame(
        [{**rows, "candidate": index, "score": value} for index, value in enumerate([np.nan, 1.0, 2.0])]
    )
    assert select_best_candidates(table, 2, "score")["candidate"].tolist() == [1]
    assert select_best_candidates(table, 1, "score")["candidate"].tolist() == [0]
    assert list(select_best_candidates(table, 3, "score")) == list(table)


def test_best_of_k_returns_an_image_like_its_source(runs, items):
    forward, inverse = load_dynamics(runs / "fdm", runs / "idm", shared_prefixes=True)
    verified = best_of_k(forward, inverse, items[0].source, items[0].action, 3, torch.Generator().manual_seed(0))
    assert verified.image.shape[:2] == ((9, 16) if type(forward.model).__name__ == "LiquidModel" else (16, 16))
    assert verified.index == int(verified.rewards.argmax())
