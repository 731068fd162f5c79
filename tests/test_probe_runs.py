"""Probing many models: what is finished is kept bit for bit, what is absent is listed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from visdyn.inference.probing import COLUMNS, preferences, probe
from visdyn.params.prompts import SENTENCES
from visdyn.stages import probing as probe_runs
from visdyn.stages.probing import labels, probe_models, read_rows, write_rows
from visdyn.trajectory import Trajectory


@pytest.fixture
def items(scenes):
    actions = ["open the cup", "take lamp", "close the red cup"]
    return [Trajectory(scenes[row], action, scenes[row + 4], "NA", f"0{row}") for row, action in enumerate(actions)]


@pytest.fixture
def stage(tiny_folder, tmp_path):
    """What `probe_models` asks of a stage."""
    settings = {"definitions": ("auto",), "draws": 1, "shared_prefixes": False, "batch_size": 64}
    return SimpleNamespace(
        params=SimpleNamespace(models=(str(tiny_folder),), **settings),
        settings=SimpleNamespace(runtime=SimpleNamespace(log_seconds=9.0), prompts=SENTENCES),
        seed=0,
        device="cpu",
        in_chains=lambda name: [(0, name)],
        scratch=lambda key: tmp_path,
    )


def test_the_rows_are_those_of_the_probe_and_survive_a_kill(stage, tiny, items, monkeypatch):
    expected = probe(tiny, items, seed=0)
    found, missing = probe_models(stage, items)
    assert missing.empty
    keys = ["task", "kind", "id"]
    left, right = (table.sort_values(keys, ignore_index=True) for table in (found, expected))
    pd.testing.assert_frame_equal(left, right, check_dtype=False, check_exact=True)
    monkeypatch.setattr(probe_runs, "load_model", lambda *a, **k: pytest.fail("a finished model is loaded again"))
    again, _ = probe_models(stage, items)
    pd.testing.assert_frame_equal(again, found)


def test_each_chain_s_model_is_probed_and_named(stage, items, tiny_folder):
    stage.in_chains = lambda name: [(chain, name) for chain in (0, 2)]
    found, _ = probe_models(stage, items)
    assert found.groupby("chain").size().to_dict() == {0: len(found) / 2, 2: len(found) / 2}
    rates = preferences(found)
    assert rates["n"].eq(len(items)).all()  # chains are not pooled as items
    assert len(rates) == 2 * len(rates.drop(columns="chain").drop_duplicates())


def test_nothing_at_hand_gives_the_empty_table_that_the_notebook_shows(stage, items):
    stage.params.models = ("models/absent", "org/also-absent")
    found, missing = probe_models(stage, items)
    assert list(found) == list(COLUMNS)
    assert found.empty
    assert missing["model"].tolist() == ["absent", "also-absent"]
    assert preferences(found).empty


def test_models_of_one_name_are_told_apart():
    assert labels(("a/base", "b/base", "org/x")) == {"a/base": "a/base", "b/base": "b/base", "x": "org/x"}
    assert labels(("/one/place/tiny", "/one/place/tiny")) == {"tiny": "/one/place/tiny"}
    assert labels(("/one/place/tiny", "/one/other/tiny")) == {
        "place/tiny": "/one/place/tiny",
        "other/tiny": "/one/other/tiny",
    }


def test_rows_come_back_bit_for_bit(tmp_path):
    draw = np.random.default_rng(0)
    values = np.float32(draw.normal(size=200))
    table = pd.DataFrame({"id": [f"{row:04d}" for row in range(200)], "subset": "nan", "value": values})
    table.loc[3, "value"] = np.nan
    write_rows(table, tmp_path / "rows.csv")
    again = read_rows(tmp_path / "rows.csv")
    assert again["id"].tolist() == table["id"].tolist()
    assert set(again["subset"]) == {"nan"}
    assert np.array_equal(again["value"], table["value"].astype(float), equal_nan=True)


def test_a_model_of_which_no_likelihood_is_a_number_is_listed_not_scored(stage, items, tiny_folder, monkeypatch):
    real, spoiled = probe_runs.probe, []

    def spoil(*arguments, **options):
        table = real(*arguments, **options)
        rows = table.index if not spoiled else table.index[:1]
        spoiled.append(len(rows))
        return table.assign(log_likelihood=table["log_likelihood"].where(~table.index.isin(rows)))

    monkeypatch.setattr(probe_runs, "probe", spoil)
    stage.in_chains = lambda name: [(chain, name) for chain in (0, 1)]
    found, missing = probe_models(stage, items)
    assert missing["reason"].tolist() == ["none of its likelihoods is a finite number"]
    assert set(found["chain"]) == {1}  # of which one likelihood is unmeasured
    assert preferences(found)["unmeasured"].sum() in (1, 4)  # a negative's, or a reference's of four negatives
