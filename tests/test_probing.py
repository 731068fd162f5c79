"""Probing: the contract's table, the negatives behind it, and the preference rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import build_tiny_model
from PIL import Image
from tiny_tokens import tiny_liquid

from visdyn.datasets.aurora import PAPER_SUBSETS, load_bench
from visdyn.images import load
from visdyn.inference.probing import KINDS, encode_once, preferences, probe, supported_definitions
from visdyn.paths import shared_data
from visdyn.quarantine import Quarantine
from visdyn.trajectory import Trajectory, negatives

COLUMNS = ["model", "chain", "definition", "task", "subset", "id", "kind", "log_likelihood", "num_tokens"]
ACTIONS = ["open the cup", "close the red cup", "take lamp", "put the cup on the blue drawer"]


@pytest.fixture(scope="module")
def items(scenes):
    return [
        Trajectory(scenes[row], action, scenes[row + 4], "ag" if row < 2 else "kubric", str(row))
        for row, action in enumerate(ACTIONS)
    ]


@pytest.fixture(scope="module")
def table(tiny, items):
    return probe(tiny, items, seed=0)


def _values(table, task, kind):
    return table[(table["task"] == task) & (table["kind"] == kind)]["log_likelihood"].to_numpy()


def test_the_table_has_the_columns_of_the_contract(table, items):
    assert list(table) == COLUMNS
    assert len(table) == 2 * len(KINDS) * len(items)
    assert set(table["model"]) == {"tiny"}
    assert table.groupby("task")["definition"].unique().map(list).to_dict() == {"fdp": ["D1"], "idp": ["action"]}
    assert set(table["kind"]) == {
        "reference",
        "random_action",
        "random_observation",
        "copy_observation",
        "inverse_observation",
    }
    assert (table["log_likelihood"] < 0).all()
    assert set(table[table["task"] == "fdp"]["num_tokens"]) == {16}
    reference = table[(table["task"] == "idp") & (table["kind"] == "reference")]
    assert reference["num_tokens"].tolist() == [3, 4, 2, 7]


def test_every_kind_scores_its_own_negative(tiny, table, items):
    for kind in KINDS:
        wanted = items if kind == "reference" else negatives(items, kind, seed=0)
        sources, actions, targets = (
            [getattr(item, name) for item in wanted] for name in ("source", "action", "target")
        )
        forward = tiny.forward_dynamics.log_likelihood(sources, actions, targets)
        inverse = tiny.inverse_dynamics.log_likelihood(sources, targets, actions)
        np.testing.assert_allclose(_values(table, "fdp", kind), forward, atol=1e-4)
        np.testing.assert_allclose(_values(table, "idp", kind), inverse, atol=1e-4)


def test_a_copy_negative_has_the_source_as_target(tiny, table, scenes):
    copied = tiny.forward_dynamics.log_likelihood(list(scenes[:4]), ACTIONS, list(scenes[:4]))
    np.testing.assert_allclose(_values(table, "fdp", "copy_observation"), copied, atol=1e-4)
    assert not np.allclose(copied, _values(table, "fdp", "reference"), atol=1e-3)


def test_the_name_can_be_given(tiny, items):
    assert set(probe(tiny, items, seed=0, name="other")["model"]) == {"other"}


def test_paths_and_images_in_memory_give_the_same_codes(tiny, items, tmp_path):
    """Every kind of image reference, each image encoded once."""
    on_disk = []
    for item in items:
        paths = [tmp_path / f"{item.id}-{end}.png" for end in ("source", "target")]
        for path, image in zip(paths, (item.source, item.target), strict=True):
            Image.fromarray(image).save(path)
        on_disk.append(Trajectory(str(paths[0]), item.action, paths[1], item.subset, item.id))
    codes = encode_once(tiny, [*on_disk, *on_disk])
    assert set(codes) == {str(tmp_path / f"{row}-{end}.png") for row in range(4) for end in ("source", "target")}
    pd.testing.assert_frame_equal(probe(tiny, on_disk, seed=0), probe(tiny, items, seed=0))


def test_shared_prefixes_give_the_same_scores_item_by_item(tiny, items, table):
    told = []
    model = replace(tiny, shared_prefixes=True, batch_size=3)
    shared = probe(model, items, seed=0, report=told.append)
    assert told == [3, 1]
    keys = ["task", "kind", "id"]
    left, right = (rows.set_index(keys).sort_index() for rows in (table, shared))
    np.testing.assert_allclose(left["log_likelihood"], right["log_likelihood"], atol=1e-4)
    assert left["num_tokens"].equals(right["num_tokens"])


def test_more_draws_are_more_random_negatives_of_other_seeds(tiny, items):
    one = [replace(item, subset="ag") for item in items]  # so that there are three others to draw from
    more = probe(tiny, one, seed=0, draws=3)
    counts = more.groupby(["task", "kind"]).size().unstack(0)
    assert (counts.loc[["random_action", "random_observation"]] == 12).all(axis=None)
    assert (counts.loc[["reference", "copy_observation", "inverse_observation"]] == 4).all(axis=None)
    drawn = _values(more, "fdp", "random_observation").reshape(3, 4)
    for draw in range(3):
        alone = probe(tiny, one, seed=draw)
        np.testing.assert_allclose(drawn[draw], _values(alone, "fdp", "random_observation"), atol=1e-4)
    assert (np.abs(drawn[1:] - drawn[0]) > 1e-3).any(1).all()
    rates = preferences(more).set_index(["task", "kind"])["n"]
    assert (rates["fdp", "random_action"], rates["fdp", "copy_observation"]) == (12, 4)


def test_definitions_are_those_that_a_model_has(tiny):
    assert supported_definitions(tiny, ["auto", "D3", "D1"]) == ("D1",)
    assert supported_definitions(tiny, ["D2"]) == ()
    with pytest.raises(ValueError, match="unknown definition 'D9' of next-observation likelihood; one of auto, D1, D2"):
        supported_definitions(tiny, ["auto", "D9"])


def _likelihoods(kind, values):
    constants = {"model": "m", "chain": 0, "definition": "D1", "task": "fdp", "subset": "ag", "kind": kind}
    return pd.DataFrame({**constants, "id": [str(row) for row in range(len(values))], "log_likelihood": values})


def test_preferences_count_strictly_likelier_references_and_ties():
    reference = _likelihoods("reference", [-1.0, -2.0, -3.0, -4.0])
    copy = _likelihoods("copy_observation", [-1.0, -2.5, -2.0, -1.0])
    inverse = _likelihoods("inverse_observation", [-9.0, -9.0, -9.0, -4.0])
    rates = preferences(pd.concat([copy, reference, inverse])).set_index("kind")
    assert list(rates) == ["model", "chain", "definition", "task", "preferred", "ties", "n", "unmeasured"]
    assert (rates["unmeasured"] == 0).all()
    assert rates.loc["copy_observation", ["preferred", "ties", "n"]].tolist() == [25, 25, 4]
    assert rates.loc["inverse_observation", ["preferred", "ties", "n"]].tolist() == [75, 25, 4]


@pytest.mark.parametrize("none", [np.nan, np.inf, -np.inf])
def test_likelihoods_that_are_no_numbers_are_unmeasured_not_lost_comparisons(none):
    reference = _likelihoods("reference", [-1.0, none, -3.0, -4.0])
    copy = _likelihoods("copy_observation", [-2.0, -2.5, none, -1.0])
    rates = preferences(pd.concat([copy, reference]))
    assert rates[["preferred", "ties", "n", "unmeasured"]].to_numpy().tolist() == [[50, 0, 2, 2]]
    rates = preferences(pd.concat([copy.assign(log_likelihood=none), reference]))
    assert rates[["preferred", "ties"]].isna().all(axis=None)
    assert rates[["n", "unmeasured"]].to_numpy().tolist() == [[0, 4]]


def test_what_a_model_answers_without_a_number_is_an_empty_cell(tiny, items, monkeypatch):
    from visdyn.models.token.scoring import Scores
    from visdyn.models.token.unified import UnifiedModel

    scored = UnifiedModel.score

    def spoil(self, *arguments, **options):
        found = scored(self, *arguments, **options)
        return Scores(found.mean.index_fill(0, torch.tensor([0]), -torch.inf), found.total, found.num_tokens)

    monkeypatch.setattr(UnifiedModel, "score", spoil)
    table = probe(tiny, items, seed=0)
    assert table["log_likelihood"].isna().sum() == 2 * len(KINDS)  # the first of each batch
    assert not np.isinf(table["log_likelihood"]).any()


def test_preferences_compare_within_a_model_task_and_item():
    first = pd.concat([_likelihoods("reference", [-1.0, -5.0]), _likelihoods("random_action", [-2.0, -4.0])])
    second = first.assign(task="idp", log_likelihood=-first["log_likelihood"])
    other = first.assign(model="n", subset="kubric", log_likelihood=first["log_likelihood"] * 2)
    rates = preferences(pd.concat([first, second, other], ignore_index=True))
    assert rates["preferred"].tolist() == [50, 50, 50]
    assert rates[["model", "task"]].to_numpy().tolist() == [["m", "fdp"], ["m", "idp"], ["n", "fdp"]]
    assert rates["n"].tolist() == [2, 2, 2]


BENCH = shared_data() / "data" / "aurora-bench" if shared_data() else None


@pytest.mark.skipif(
    BENCH is None or not (BENCH / "test.json").is_file(), reason="the public AURORA-Bench is not at hand"
)
@pytest.mark.parametrize("build", [build_tiny_model, tiny_liquid])
def test_real_images_of_every_size_are_probed(build):
    """All five subsets: 480 x 270 and portrait, 1280 x 960, 500 against 1024 pixels within one item."""
    quarantine = Quarantine()
    bench = load_bench(BENCH, quarantine=quarantine)
    assert (len(bench), len(quarantine)) == (248, 2)
    chosen = [item for row, item in enumerate(bench) if row % 31 == 0] + bench[-3:]
    chosen += [next(item for item in bench if item.subset == subset and item not in chosen) for subset in PAPER_SUBSETS]
    sizes = {load(ref).size for item in chosen for ref in (item.source, item.target)}
    assert len(sizes) > 4
    model = build()
    table = probe(model, chosen, seed=0, name="tiny")
    model.shared_prefixes, model.batch_size = True, 4
    shared = probe(model, chosen, seed=0, name="tiny")
    assert len(table) == len(chosen) * len(KINDS) * 2
    assert set(table["subset"]) == set(PAPER_SUBSETS)
    keys = ["task", "subset", "id", "kind"]
    left, right = (rows.set_index(keys)["log_likelihood"].sort_index() for rows in (table, shared))
    np.testing.assert_allclose(left, right, atol=1e-4)
    assert preferences(table)["n"].eq(len(chosen)).all()
