"""The notebooks to learn from: what they measure on made-up rows, and that they run from the pack in a plain clone."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from visdyn.explorer import lessons
from visdyn.inference.candidates import VERIFIERS
from visdyn.paths import repository_root
from visdyn.pipeline.notebooks import LESSONS, lint
from visdyn.trajectory import Trajectory

ROOT = repository_root()
NOTEBOOKS = sorted((ROOT / "notebooks" / LESSONS).glob("*.ipynb"))
LARGEST = 300_000  # bytes of a notebook with its outputs
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def likelihoods(better):
    """Return two chains' likelihoods of four items; `better` says of chain and item whether the real one wins."""
    rows = []
    for chain, item in itertools.product(range(2), range(4)):
        for kind, value in (("reference", -1.0), ("random_action", -2.0 if better(chain, item) else -0.5)):
            rows.append({"model": "base", "chain": chain, "definition": "D1", "task": "fdp", "subset": "ag",
                         "id": str(item), "kind": kind, "log_likelihood": value, "num_tokens": 64})  # fmt: skip
    return pd.DataFrame(rows)


def test_a_preference_is_the_share_of_items_whose_real_trajectory_is_likelier():
    (row,) = lessons.estimate_preferences(likelihoods(lambda chain, item: item < 3)).to_dict("records")
    assert (row["task"], row["kind"], row["chains"], row["n"]) == ("fdp", "random_action", 2, 4)
    assert row["estimate"] == 0.75
    (other,) = lessons.estimate_preferences(likelihoods(lambda chain, item: item + chain < 3)).to_dict("records")
    assert other["estimate"] == 0.625
    assert other["high"] - other["low"] > row["high"] - row["low"]  # the chains disagree


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.6, 0.8, "above 0.5"), (0.1, 0.4, "below 0.5"), (0.4, 0.9, "not told apart from 0.5"),
     (np.nan, np.nan, "not told apart from 0.5")],
)  # fmt: skip
def test_a_sentence_takes_its_side_from_the_interval(low, high, said):
    row = pd.Series({"estimate": 0.7, "low": low, "high": high})
    assert lessons.describe_side(row, 0.5).endswith(said)


def candidates(order):
    """Return four candidates of three items in two chains; each verifier says `order(verifier, score)`."""
    rows = []
    for chain, item, candidate in itertools.product(range(2), range(3), range(4)):
        score = float((candidate + item) % 4)
        said = {column: order(name, score) for name, column in VERIFIERS.items()}
        rows.append({"arm": "supervised", "chain": chain, "draw": 0, "subset": "ag", "id": str(item),
                     "candidate": candidate, "score": score, **said})  # fmt: skip
    return pd.DataFrame(rows)


def test_who_orders_as_the_judge_does_wins_what_the_oracle_wins():
    drawn = candidates(lambda name, score: {"idm": score, "likelihood": -score}.get(name, 0.0))
    ranks = lessons.rank_with_judge(drawn).set_index("selector")["estimate"]
    assert ranks["idm"] == pytest.approx(1)
    assert ranks["likelihood"] == pytest.approx(-1)
    assert ranks["zero_shot"] == 0  # all alike to it
    gains = lessons.gain_of_choosing(drawn, 4).set_index("selector")
    assert gains.loc["idm", "estimate"] == gains.loc["oracle", "estimate"] == 1.5
    assert gains.loc["likelihood", "estimate"] == -1.5
    assert set(gains["chains"]) == {2}
    assert lessons.gain_of_choosing(drawn, 1)["estimate"].abs().max() == 0


def test_the_share_of_the_weight_on_the_change_follows_weights_and_floor():
    inside = np.array([[1.0, 0.0, 0.0, 0.0]])
    weights = np.array([[3.0, 1.0, 0.0, 0.0]], dtype=np.float32)
    assert lessons.share_inside(weights, inside) == pytest.approx([0.75])
    assert lessons.share_inside(weights, inside, 1.0) == pytest.approx([0.25])
    assert lessons.share_inside(weights, inside, 0.5) == pytest.approx([0.5])


def test_the_change_is_where_the_pixels_differ():
    before = np.full((64, 64, 3), 120, np.uint8)
    after = before.copy()
    after[40:64, 0:24] = 250  # rows first
    item = Trajectory(Image.fromarray(before), "open it", Image.fromarray(after), "ag", "0")
    covered = lessons.cover_change([item], 8).reshape(8, 8)
    assert covered[5:, :3].min() == 1
    assert covered[:4].max() == covered[:, 4:].max() == 0


def make_clone(folder: Path) -> Path:
    """Make a profile that has what a plain clone has: parameters, results and the pack, no models and no data."""
    shutil.copy(ROOT / "params.yaml", folder)
    for name in ("data/pack", "reports/results", "reports/claims.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.slow
@each_notebook
def test_a_lesson_runs_from_the_pack(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    space: dict = {}
    for cell in cells:
        source = "".join(cell["source"])
        exec(compile(source, f"{path.name}: {cell['id']}", "exec"), space)
        if "parameters" in cell["metadata"].get("tags", []):
            space["profile"] = str(make_clone(tmp_path))
    assert "packed checkpoints" in space["opened"].note


@each_notebook
def test_a_lesson_keeps_its_outputs_and_the_other_rules(path):
    assert lint(path) == []
    text = path.read_text()
    assert len(text) < LARGEST
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    shows = {cell["id"]: bool(cell["outputs"]) for cell in cells if cell["id"] != "parameters"}
    assert all(shows.values()), f"{path.name} was not run to its end: {shows}; run all cells and save"
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])


def test_every_lesson_is_named_where_readers_look():
    assert len(NOTEBOOKS) == 3
    for page in ("docs/index.md", "docs/tutorial.md"):
        text = (ROOT / page).read_text()
        assert [path.name for path in NOTEBOOKS if f"learn/{path.name}" not in text] == []
