"""The Copy row of Table 6 from the real AURORA-Bench, and the three baselines."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visdyn.evaluation.benches.aurora_copy import PUBLISHED_COPY_L1, copy_rows, crop_rows
from visdyn.evaluation.measurements import FIXED
from visdyn.evaluation.systems.baselines import BASELINES, baseline, copy, oracle, shuffled
from visdyn.paths import shared_data
from visdyn.quarantine import Quarantine
from visdyn.trajectory import Trajectory


def _aurora():
    root = shared_data()
    if root is None or not (root / "data/aurora-bench/test.json").is_file():
        pytest.skip("needs AURORA-Bench: set VISDYN_SHARED to a folder with data/aurora-bench")
    return root / "data/aurora-bench"


def _items(targets, subset="kubric"):
    return [Trajectory(f"s{i}.png", "push it", target, subset, str(i)) for i, target in enumerate(targets)]


def test_copy_row_of_table_6_to_the_third_decimal():
    quarantine = Quarantine()
    rows = copy_rows(_aurora(), quarantine)
    assert list(rows.columns) == ["subset", "geometry", "n", "l1", "published"]
    paper = rows[rows.geometry == "paper"].set_index("subset")
    assert {subset: round(value, 3) for subset, value in paper.l1.items()} == PUBLISHED_COPY_L1
    assert paper.n.to_dict() == {"magicbrush": 50, "ag": 50, "something": 48, "whatsup": 50, "kubric": 50}
    assert paper.published.to_dict() == PUBLISHED_COPY_L1
    assert rows[rows.geometry == "matched"].published.isna().all()
    assert len(quarantine) == 2


def test_most_of_the_l1_of_a_cropping_model_is_its_crop():
    rows = crop_rows(_aurora()).set_index("subset")
    printed = {"ag": 0.170, "something": 0.184, "whatsup": 0.066}  # C-FT, Table 6
    costs = rows.loc[list(printed), "crop"].round(3)
    assert costs.to_dict() == {"ag": 0.162, "something": 0.173, "whatsup": 0.064}
    assert (costs / pd.Series(printed) > 0.9).all()
    assert rows["copy"].round(3).to_dict() == PUBLISHED_COPY_L1
    assert (rows.loc[list(printed), "crop_both"] < rows.loc[list(printed), "crop"] * 0.9).all()


def test_a_square_image_loses_nothing_by_the_crop(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("wide", (96, 64)), ("square", (64, 64))):
        for end in ("source", "target"):
            Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), np.uint8)).save(tmp_path / f"{name}-{end}.png")
    items = [{"instruction": "push it", "input": f"{name}-source.png", "output": f"{name}-target.png", "task": task}
             for name, task in (("wide", "ag"), ("square", "kubric"))]  # fmt: skip
    items += [{**items[1], "task": task} for task in ("magicbrush", "something", "whatsup")]
    (tmp_path / "test.json").write_text(json.dumps(items))
    rows = crop_rows(tmp_path, size=64).set_index("subset")
    square = rows.loc["kubric"]
    assert square["copy"] == square["crop"] == square["crop_both"]
    wide = rows.loc["ag"]
    assert len({round(wide[name], 6) for name in ("copy", "crop", "crop_both")}) == 3


def test_copy_and_oracle():
    items = _items(["a.png", "b.png"])
    assert copy(items) == baseline("copy", items, 0) == ["s0.png", "s1.png"]
    assert oracle(items) == baseline("oracle", items, 0) == ["a.png", "b.png"]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 1000))
def test_shuffled_is_a_derangement_within_each_subset(first, second, seed):
    items = _items([f"k{i}.png" for i in range(first)]) + _items([f"a{i}.png" for i in range(second)], "ag")
    drawn = shuffled(items, seed)
    assert drawn == shuffled(items, seed)
    assert sorted(drawn[:first]) == sorted(oracle(items[:first]))
    assert sorted(drawn[first:]) == sorted(oracle(items[first:]))
    assert all(prediction != item.target for prediction, item in zip(drawn, items, strict=True))


def test_shuffled_depends_on_the_seed_but_not_on_other_subsets():
    items = _items([f"k{i}.png" for i in range(20)])
    assert shuffled(items, 0) != shuffled(items, 1)
    assert shuffled(items + _items(["a.png", "b.png"], "ag"), 0)[:20] == shuffled(items, 0)


def test_shuffled_gives_no_item_an_equal_image():
    image = np.zeros((2, 2, 3), np.uint8)
    items = _items([image, image.copy(), image + 1, image + 2])
    assert all(not np.array_equal(drawn, item.target) for drawn, item in zip(shuffled(items, 3), items, strict=True))


@pytest.mark.parametrize("targets", [["a.png"], ["a.png", "a.png", "b.png"]])
def test_shuffled_refuses_what_cannot_be_exchanged(targets):
    with pytest.raises(ValueError, match="targets of subset kubric cannot be exchanged"):
        shuffled(_items(targets), 0)


def test_the_blend_is_halfway_and_blurring_keeps_the_brightness_but_no_edge():
    source, target = np.full((64, 64, 3), 40, np.uint8), np.full((64, 64, 3), 40, np.uint8)
    target[:, 32:] = 200
    items = [Trajectory(source, "push it", target, "kubric", "0")]
    blend, blurred = (np.asarray(baseline(name, items, 0)[0], float) for name in ("blend", "blurred"))
    assert np.unique(blend).tolist() == [40, 120]
    assert abs(blurred.mean() - target.mean()) < 1
    assert np.abs(np.diff(blurred[0, :, 0])).max() < 80  # the target's own edge is a step of 160
    assert np.array_equal(blurred[0, [0, -1], 0], [40, 200])


def test_the_blend_of_two_sizes_stands_on_the_frame_that_both_share():
    items = [Trajectory(np.zeros((32, 48, 3), np.uint8), "push it", np.zeros((32, 32, 3), np.uint8), "kubric", "0")]
    assert baseline("blend", items, 0)[0].size == (32, 32)


def test_claims_know_that_no_chain_draws_the_baselines():
    assert FIXED == BASELINES


def test_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="unknown baseline 'identity'"):
        baseline("identity", _items(["a.png"]), 0)
