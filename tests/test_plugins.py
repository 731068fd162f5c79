"""A model, editor, judge or metric in a file outside the kit works wherever the docs say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from visdyn import plugins
from visdyn.evaluation.metrics import registry
from visdyn.inference.annotation import annotate
from visdyn.inference.generation import generate
from visdyn.inference.probing import preferences, probe
from visdyn.inference.rollout import roll_out
from visdyn.inference.verification import best_of_k, score_candidates, score_candidates_in_parts
from visdyn.models import load_model
from visdyn.models.dynamics_pair import load_dynamics
from visdyn.models.editors import load_editor
from visdyn.models.protocols import ForwardDynamics, InverseDynamics
from visdyn.plugins import PluginError, find_plugin, import_file
from visdyn.trajectory import Trajectory

FILE = Path(__file__).with_name("own_models.py")


def own(name):
    return f"{FILE}:{name}"


@pytest.fixture(scope="module")
def items():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 200, (8, 16, 16, 3), dtype=np.uint8)
    actions = ["open the cup", "close the cup", "take lamp", "open the lamp"]
    return [Trajectory(images[row], actions[row], images[row + 4], "ag", str(row)) for row in range(4)]


def test_a_file_names_models_in_their_roles():
    assert isinstance(load_model(own("Brightener"), "fdp"), ForwardDynamics)
    assert isinstance(load_model(own("Reader"), "idp"), InverseDynamics)
    assert load_model(own("Reader"), "idp", device="cuda").device == "cuda"
    both = load_model(own("Both"))
    assert load_model(own("Both"), "idp") is type(both).inverse_dynamics
    assert load_model("own_models:Both", "fdp") is not None


@pytest.mark.parametrize(
    ("reference", "task", "message"),
    [
        (own("Brightener"), "idp", "Brightener is no InverseDynamics"),
        (own("Sampleless"), "fdp", "Sampleless is no ForwardDynamics"),
        (own("Missing"), None, "has no Missing"),
        (str(FILE), None, "name one of them"),
        ("/nowhere/mine.py:Mine", None, "there is no file /nowhere/mine.py"),
        ("nowhere_at_all:Mine", None, "cannot be imported"),
    ],
)
def test_what_leads_nowhere_is_refused_in_a_sentence(reference, task, message):
    with pytest.raises(ValueError, match=message):
        load_model(reference, task)


def test_a_file_that_breaks_says_which_and_why(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import nothing_of_that_name\n")
    with pytest.raises(PluginError, match=r"broken.py cannot be imported: ModuleNotFoundError"):
        import_file(path)


def test_hub_ids_and_folders_are_no_plugins():
    for name in ("models/base", "leloy/Anole-7b-v0.1-hf", "/data/models/base"):
        assert find_plugin("models", name) is None


def test_an_entry_point_names_a_model(monkeypatch):
    class Point:
        name, value = "mine", "own_models:Both"

        def load(self):
            return import_file(FILE).Both

    monkeypatch.setattr(plugins, "entry_points", lambda group: [Point()] if group == "visdyn.models" else [])
    plugins.installed.cache_clear()
    try:
        assert isinstance(load_model("mine", "fdp"), ForwardDynamics)
    finally:
        plugins.installed.cache_clear()


def test_candidates_of_own_models_are_drawn_scored_and_found_again(items, tmp_path):
    forward, inverse = load_dynamics(own("Brightener"), own("Reader"))
    scored = score_candidates(forward, inverse, items, 3, seed=1)
    assert scored.images.shape == (4, 3, 16, 16, 3)
    assert scored.codes is None
    assert scored.inverse.shape == scored.forward.shape == (4, 3)
    # Brighter is likelier for the reader, farther from the source and so less likely for the brightener.
    means = scored.images.astype(float).mean(axis=(2, 3, 4))
    assert (means.argmax(1) == scored.inverse.argmax(1)).all()
    assert (means.argmax(1) == scored.forward.argmin(1)).all()
    parts = score_candidates_in_parts(forward, inverse, items, 3, 1, tmp_path, 3)
    kept = score_candidates_in_parts(None, None, items, 3, 1, tmp_path, 3)
    for found in (parts, kept):
        assert np.array_equal(found.images, scored.images)
        np.testing.assert_array_equal(found.inverse, scored.inverse)


def test_own_models_stand_beside_those_of_the_kit(items, tiny):
    mine, theirs = load_model(own("Brightener"), "fdp"), tiny.inverse_dynamics
    scored = score_candidates(mine, theirs, items[:2], 2, seed=1)
    alone = theirs.log_likelihood([items[0].source] * 2, list(scored.images[0]), [items[0].action] * 2)
    np.testing.assert_allclose(scored.inverse[0], alone, atol=1e-4)
    other = score_candidates(tiny.forward_dynamics, load_model(own("Reader"), "idp"), items[:2], 2, seed=1)
    assert other.codes.shape[:2] == (2, 2)
    np.testing.assert_allclose(other.inverse, other.images.astype(float).mean(axis=(2, 3, 4)) / 255 - 2, atol=1e-5)


def test_sampling_by_name_does_not_depend_on_the_other_items(items):
    model = load_model(own("Brightener"), "fdp")
    images, _ = generate(model, items, 2, seed=4)
    assert np.array_equal(generate(model, items[2:], 2, seed=4)[0], images[2:])
    assert not np.array_equal(images[0, 0], images[0, 1])


def test_rollout_best_of_k_and_annotation_take_own_models(items):
    model, reader = load_model(own("Brightener"), "fdp"), load_model(own("Reader"), "idp")
    steps = roll_out(model, [items[0].source], [["open", "close"]])
    assert steps.shape == (1, 2, 16, 16, 3)
    assert steps[0, 1].mean() > steps[0, 0].mean() > items[0].source.mean()
    best = best_of_k(model, reader, items[0].source, "open", 4, torch.Generator().manual_seed(0))
    assert best.index == int(best.rewards.argmax())
    assert [one.action for one in annotate(reader, [items[0].source], [items[0].target])] == ["brighten"]


def test_probing_asks_a_model_in_the_roles_that_it_has(items):
    table = probe(load_model(own("Brightener")), items, seed=0)
    assert set(table["task"]) == {"fdp"}
    assert set(table["definition"]) == {"own"}
    assert table["num_tokens"].isna().all()
    rates = preferences(table).set_index("kind")["preferred"]
    assert rates["copy_observation"] == 0  # a copy is the likeliest target of all
    both = probe(load_model(own("Both")), items, seed=0, name="mine")
    assert set(both["task"]) == {"fdp", "idp"}
    assert set(both["model"]) == {"mine"}
    with pytest.raises(ValueError, match="no ForwardDynamics"):
        probe(object(), items, seed=0)


def test_an_own_model_edits_where_editors_do(items):
    negative = load_editor(own("Negative"))
    assert np.array_equal(negative.edit([items[0].source], ["x"], [0])[0], 255 - items[0].source)
    sampler = load_editor(own("Brightener"))
    first, again, other = (sampler.edit([items[0].source], ["open"], [seed])[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_installed_metric_is_measured_last(monkeypatch):
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))
    monkeypatch.setattr(registry, "installed", lambda group: {"rmse": import_file(FILE).RMSE})
    registry._add_installed.cache_clear()
    try:
        assert registry.metrics(registry.AURORA)[-1].name == "rmse"
        black = np.zeros((4, 4, 3), np.uint8)
        assert registry.metric("rmse", registry.AURORA).compute(black, black + 255) == 1
        monkeypatch.setattr(registry, "installed", lambda group: {"wrong": 3})
        registry._add_installed.cache_clear()
        with pytest.raises(PluginError, match="is no Metric"):
            registry.metrics(registry.AURORA)
    finally:
        monkeypatch.undo()
        registry._add_installed.cache_clear()


def test_an_own_judge_is_asked_and_its_replies_kept(items, tmp_path):
    from visdyn.evaluation.benches.bench import AURORA_BENCH
    from visdyn.evaluation.judges.run import judge_bench
    from visdyn.evaluation.systems.outputs import FORWARD, SystemImages
    from visdyn.params.evaluation import JudgeEntry

    images = [np.clip(item.source.astype(int) + change, 0, 255).astype(np.uint8)
              for item, change in zip(items, (40, -40, 40, -40), strict=True)]  # fmt: skip
    system = SystemImages("aurora", "mine", 0, "imported", "", {FORWARD: images}, "")
    entry = JudgeEntry(kind="plugin", model=own("Fair"), name="Fair")
    scores, runs = judge_bench(entry, AURORA_BENCH, items, [system], tmp_path, report=lambda line: None)
    assert dict(zip(runs["asked"], runs["reused"], strict=True)) == {4: 0}
    values = scores[scores["criterion"] == "editing_success"].set_index("id")["value"]
    assert values.to_dict() == {"0": 7, "1": 2, "2": 7, "3": 2}
    _, again = judge_bench(entry, AURORA_BENCH, items, [system], tmp_path, report=lambda line: None)
    assert again["reused"].tolist() == [4]
    assert pd.isna(again["cost_usd"]).all() or (again["cost_usd"] == 0).all()
