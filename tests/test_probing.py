"""Probing: the contract's table, the negatives behind it, and the preference rates."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from visdyn.inference.probing import KINDS, encode_once, preferences, probe
from visdyn.trajectory import Trajectory, negatives

COLUMNS = ["model", "definition", "task", "subset", "id", "kind", "log_likelihood", "num_tokens"]
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


def _likelihoods(kind, values):
    constants = {"model": "m", "definition": "D1", "task": "fdp", "subset": "ag", "kind": kind}
    return pd.DataFrame({**constants, "id": [str(row) for row in range(len(values))], "log_likelihood": values})


def test_preferences_count_strictly_likelier_references_and_ties():
    reference = _likelihoods("reference", [-1.0, -2.0, -3.0, -4.0])
    copy = _likelihoods("copy_observation", [-1.0, -2.5, -2.0, -1.0])
    inverse = _likelihoods("inverse_observation", [-9.0, -9.0, -9.0, -4.0])
    rates = preferences(pd.concat([copy, reference, inverse])).set_index("kind")
    assert list(rates) == ["model", "definition", "task", "preferred", "ties", "n"]
    assert rates.loc["copy_observation", ["preferred", "ties", "n"]].tolist() == [25, 25, 4]
    assert rates.loc["inverse_observation", ["preferred", "ties", "n"]].tolist() == [75, 25, 4]


def test_preferences_compare_within_a_model_task_and_item():
    first = pd.concat([_likelihoods("reference", [-1.0, -5.0]), _likelihoods("random_action", [-2.0, -4.0])])
    second = first.assign(task="idp", log_likelihood=-first["log_likelihood"])
    other = first.assign(model="n", subset="kubric", log_likelihood=first["log_likelihood"] * 2)
    rates = preferences(pd.concat([first, second, other], ignore_index=True))
    assert rates["preferred"].tolist() == [50, 50, 50]
    assert rates[["model", "task"]].to_numpy().tolist() == [["m", "fdp"], ["m", "idp"], ["n", "fdp"]]
    assert rates["n"].tolist() == [2, 2, 2]
