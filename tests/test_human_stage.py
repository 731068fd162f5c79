"""From the pipeline's images to a study, and from simulated annotators to the tables of stage `human_study`."""

from __future__ import annotations

import random

import nbformat
import numpy as np
import pandas as pd
import pytest
import toy_study
import yaml
from PIL import Image
from toy import make_repository

from visdyn.datasets.aurora import load_bench
from visdyn.datasets.doundo_bench import load
from visdyn.human_study.analysis import AnswersError
from visdyn.human_study.export import export
from visdyn.human_study.plan import plan
from visdyn.human_study.study import load_study
from visdyn.human_study.study_store import Choice, Store
from visdyn.kitchen.write import KitchenSizes, write_kitchen
from visdyn.paths import repository_root
from visdyn.pipeline import open_stage
from visdyn.pipeline.errors import StageError
from visdyn.stages.human_study import COLUMNS, tables
from visdyn.stages.human_study_outputs import main as prepare

NOTEBOOK = repository_root() / "notebooks/08c_human_study.ipynb"


def _run_notebook(monkeypatch, root) -> dict:
    """Run the notebook's own calls against a toy repository."""
    monkeypatch.setenv("VISDYN_ROOT", str(root))
    names: dict = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    return names


def _parameters(root, **section) -> None:
    path = root / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["human_study"] |= section
    path.write_text(yaml.safe_dump(values))


def _simulated(folder, annotators: int, best_of) -> str:
    """Let simulated annotators answer a study through its store, and return the export."""
    study = load_study(folder)
    store = Store(folder / "answers.sqlite", study.fingerprint)
    for annotator in range(annotators):
        number = store.join(f"simulated {annotator}", f"form-{annotator}")[0].number
        for task in plan(study, number, store.draw):
            best, worst = best_of(task.shown, random.Random(f"{number}:{task.key}"))
            store.record(number, task.key, task.shown, {"overall": (Choice(best, worst), 0)})
    export(study, store, folder / "export.csv")
    return str(folder / "export.csv")


def _prefers_zebra(shown, draw):
    rest = [name for name in shown if name != "Zebra-Net"]
    best = "Zebra-Net" if "Zebra-Net" in shown and draw.random() < 0.8 else draw.choice(rest)
    return best, draw.choice([name for name in shown if name != best])


def _has_preference(shown, draw):
    """The answer as the pages store it: the one preferred and the other one, or neither."""
    if draw.random() < 0.1:
        return "", ""
    best = _prefers_zebra(shown, draw)[0]
    return best, next(name for name in shown if name != best)


@pytest.fixture
def root(tmp_path):
    return make_repository(tmp_path / "toy")


def test_fifty_simulated_annotators_become_both_tables(root, tmp_path, monkeypatch):
    exports = [
        _simulated(toy_study.best_worst(tmp_path / "best", items_per_subset=2), 50, _prefers_zebra),
        _simulated(toy_study.pairwise(tmp_path / "pairs", items_per_subset=2), 50, _has_preference),
    ]
    named = [str(tmp_path / "best.csv"), str(tmp_path / "pairs.csv")]
    for source, target in zip(exports, named, strict=True):
        pd.read_csv(source, keep_default_na=False).to_csv(target, index=False)
    _parameters(root, exports=named, reference="Zebra-Net")
    _run_notebook(monkeypatch, root)
    results = root / "reports/results/human_study"
    table5 = pd.read_csv(results / "table5.csv")
    assert list(table5.columns) == COLUMNS["table5"]
    everything = table5[table5["subset"] == "All"].set_index("system")
    assert set(everything["annotators"]) == {50}
    assert set(everything["n"]) == {200}
    assert everything["score"].sum() == pytest.approx(0)
    assert everything["score"].idxmax() == "Zebra-Net"
    others = everything.drop(index="Zebra-Net")
    assert (others["significant"] == 1).all()
    assert (others["p_sign_flip"] < 0.01).all()
    assert pd.isna(everything.loc["Zebra-Net", "significant"])
    assert (others["nonzero"] < 200).all()  # ties are counted, and left out of Wilcoxon's ranks
    table7 = pd.read_csv(results / "table7.csv").set_index("system")
    assert table7.index[0] == "Zebra-Net"
    assert table7.loc["Zebra-Net", "low"] > 50
    assert 0 < table7.loc["Zebra-Net", "ties"] < 20
    people = pd.read_csv(results / "participation.csv").set_index("kind")
    assert people.loc[["best_worst", "pairwise"], "finished"].tolist() == [50, 50]
    assert people.loc["best_worst", ["study", "items"]].tolist() == ["best", 6]
    assert pd.read_csv(results / "comparisons.csv")["n"].sum() == table7["n"].sum() / 2


def test_without_an_export_there_are_headers_alone(root, monkeypatch):
    _run_notebook(monkeypatch, root)
    for name, columns in COLUMNS.items():
        text = (root / f"reports/results/human_study/{name}.csv").read_text()
        assert text == ",".join(columns) + "\n"


def test_the_default_run_has_no_export():
    for profile in (".", "profiles/smoke", "profiles/paper"):
        assert yaml.safe_load((repository_root() / profile / "params.yaml").read_text())["human_study"]["exports"] == []


def test_a_missing_export_and_two_of_one_name_are_told(root, tmp_path, monkeypatch):
    _parameters(root, exports=["nowhere.csv"])
    with pytest.raises(StageError, match=r"names .*nowhere\.csv, which is no file"):
        _run_notebook(monkeypatch, root)
    path = _simulated(toy_study.best_worst(tmp_path / "study", items_per_subset=1), 2, _prefers_zebra)
    with pytest.raises(AnswersError, match="two exports are called export"):
        tables([path, path], "Zebra-Net", 0)
    with pytest.raises(AnswersError, match="no answer is about 'C-FDM'"):
        tables([path], "C-FDM", 0)


@pytest.fixture
def outputs(root, monkeypatch):
    """A tiny kitchen with images of three systems, as stage `evaluation` keeps them; one image is missing."""
    monkeypatch.setenv("VISDYN_ROOT", str(root))
    write_kitchen(root / "data/kitchen", KitchenSizes(2, 2, 20, 20, 1, 2, 2, 2))
    stage, folder = open_stage("human_study"), root / "data/generated/outputs"
    picture = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    for system in ("supervised", "synthetic_weighted", "zero_shot"):
        for item in load_bench(stage.data("aurora")):
            path = folder / "aurora" / system / item.subset / f"{item.id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    for system in ("base", "doundo"):
        for pair in load(stage.data("doundo") / "annotations_test.json", stage.data("epic") / "frames"):
            (folder / "doundo" / system / "short").mkdir(parents=True, exist_ok=True)
            for end in ("fwd", "rev_generated"):
                picture.save(folder / "doundo" / system / "short" / f"{pair.id}_{end}.png")
    next((folder / "aurora/supervised/ag").iterdir()).unlink()
    return root


def test_a_study_is_made_of_the_pipeline_s_images(outputs, tmp_path, capsys):
    assert prepare(["--out", str(tmp_path / "study"), "--items-per-subset", "1"]) == 0
    assert "1 quarantined, first: item" in capsys.readouterr().out
    study = load_study(tmp_path / "study")
    assert study.systems == ("supervised", "synthetic_weighted")  # the paper's that are there; C-ZS was not compared
    assert len(study.items) == 9
    assert len(plan(study, 1)) == 5
    assert prepare(["--out", str(tmp_path / "study")]) == 2
    assert "holds a study already" in capsys.readouterr().err


def test_a_pairwise_study_shows_one_chain(outputs, tmp_path, capsys):
    values = yaml.safe_load((outputs / "params.yaml").read_text())
    values["evaluation_doundo"]["annotations"] = "data/kitchen/doundo/annotations_test.json"
    (outputs / "params.yaml").write_text(yaml.safe_dump(values))
    assert prepare(["--out", str(tmp_path / "study"), "--kind", "pairwise"]) == 0
    study = load_study(tmp_path / "study")
    assert study.systems == ("base", "doundo")
    assert study.items[0].prompt
    assert study.items[0].reverse_prompt
    assert prepare(["--out", str(tmp_path / "b"), "--kind", "pairwise", "--systems", "base", "doundo_c"]) == 2
    assert "doundo_c has no folder in" in capsys.readouterr().err


def test_without_images_the_stage_that_makes_them_is_named(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISDYN_ROOT", str(root))
    assert prepare(["--out", str(tmp_path / "study")]) == 2
    assert "evaluation.keep_images and run stage evaluation" in capsys.readouterr().err
