"""Choices: what is declared, what a trial makes and measures on the dev items, what is kept, and the page of it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml
from conftest import build_tiny_model
from tiny_tokens import PROMPTS, tiny_vqgan
from toy import make_repository

from visdyn.datasets.annotated import write_annotated
from visdyn.kitchen.text import vocabulary
from visdyn.kitchen.truth import load_truth
from visdyn.kitchen.write import KitchenSizes, write_dev, write_kitchen
from visdyn.models.autoencoder import tiny_autoencoder
from visdyn.params.base_models import GeneratorModel
from visdyn.params.choices import FILE, Choice, changed, current, read_choices, shown
from visdyn.params.reading import ParamsError, read_values
from visdyn.params.world import DevSizes
from visdyn.paths import repository_root
from visdyn.pipeline import open_stage
from visdyn.pipeline.errors import StageError
from visdyn.reporting.choices_page import PAGE, block, rewritten
from visdyn.result_tables import CHOICE, read_columns
from visdyn.stages import choices, trials
from visdyn.training.tiny.generator import GeneratorData, train_generator

ROOT = repository_root()
SMALL = {"steps": 2, "batch_size": 4, "warmup_steps": 0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A profile with a small kitchen, dev items, and a tiny base, IDM and generator of chain 1."""
    root = make_repository(tmp_path_factory.mktemp("choices") / "toy")
    write_kitchen(root / "data/kitchen", KitchenSizes(2, 2, 12, 4, 1, 8, 4, 2))
    write_dev(root / "data/dev", DevSizes(2, 4, 2, 2))
    shutil.copytree(ROOT / "hardware", root / "hardware")
    (root / "data/mined").mkdir()
    shutil.copy(root / "data/kitchen/doundo/annotations_train.json", root / "data/mined/doundo_train.json")
    write_annotated([], root / "data/annotated/s1")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"chains": [1, 2]}
    for section in ("idm", "fdm", "doundo"):
        values[section]["training"] |= SMALL
    for section in ("idm", "fdm"):
        values[section]["training"]["epochs"] = None
    for name in ("base", "generator"):
        values["base_models"][name] |= SMALL
        values["base_models"][f"{name}_model"] |= {"hidden_size": 32, "intermediate_size": 32, "num_layers": 1,
                                                   "num_heads": 2}  # fmt: skip
    values["evaluation_doundo"] |= {"flow_steps": 2}
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    words = sorted({*vocabulary(), *PROMPTS.split()})
    for name in ("base", "idm"):
        build_tiny_model(words=words, vqgan=tiny_vqgan(resolution=64, patch=16)).save(root / f"models/{name}/s1")
    torch.manual_seed(0)
    tiny_autoencoder(latent_channels=4, widths=(16,)).save_pretrained(root / "models/autoencoder")
    return root


@pytest.fixture
def stage(world, monkeypatch):
    monkeypatch.setenv("VISDYN_ROOT", str(world))
    yield open_stage("choices")
    shutil.rmtree(world / "reports", ignore_errors=True)


def choice_of(trial: str, *parameters: str, values: tuple, **options) -> Choice:
    return Choice(name="trial", trial=trial, parameters=parameters, values=values, **options)


RATES = choice_of("idm", "idm.training.learning_rate", values=((0.002,), (0.01,)))


def files_of(root) -> set[str]:
    folders = ("models", "data", "reports/results/idm")
    return {str(path.relative_to(root)) for folder in folders for path in (root / folder).rglob("*")}


def test_each_value_is_trained_from_the_chain_s_base_and_measured_on_the_dev_items(stage, world):
    before = files_of(world)
    table = choices.try_values(stage, RATES, [1])
    assert list(table.columns) == list(CHOICE)
    assert list(table["value"]) == ["0.002", "0.01"]
    assert set(table["metric"]) == {"exact"}
    assert set(table["n"]) == {10}  # two items in each of the five subsets
    assert set(table["chain"]) == {1}
    assert set(table["steps"]) == {2}
    assert list(table["chosen"]) == [1, 0]
    assert table["score"].between(0, 1).all()
    assert table["processor"].ne("").all()
    assert files_of(world) == before  # a trial writes nothing of the profile
    assert not (world / ".visdyn/choices/trial").exists()
    written = read_columns("choices/trial.csv", world / "reports/results/choices/trial.csv")
    assert list(written["value"]) == ["0.002", "0.01"]


def test_rows_that_are_there_are_kept_and_only_the_rest_is_tried(stage, world, monkeypatch):
    tried = []

    def run(kind, trials, first_chain):
        tried.append([(trial.value, trial.chain) for trial in trials])
        rows = [{"value": t.value, "chain": t.chain, "metric": "exact", "score": len(tried), "n": 5, "steps": 2}
                for t in trials]  # fmt: skip
        return pd.DataFrame(rows)

    monkeypatch.setattr(choices, "run_trials", run)
    choices.try_values(stage, RATES, [1], ["0.01"])
    choices.try_values(stage, RATES, [1, 2])
    assert tried == [[("0.01", 1)], [("0.002", 1), ("0.002", 2), ("0.01", 2)]]
    assert choices.try_values(stage, RATES, [1, 2])["score"].tolist() == [2, 2, 1, 2]
    assert len(tried) == 2
    again = choices.try_values(stage, RATES, [1], ["0.01"], force=True)
    assert again.set_index(["value", "chain"])["score"].to_dict() == {
        ("0.002", 1): 2, ("0.002", 2): 2, ("0.01", 1): 3, ("0.01", 2): 2,
    }  # fmt: skip
    values = yaml.safe_load((world / "params.yaml").read_text())
    values["idm"]["training"]["learning_rate"] = 0.01
    monkeypatch.setattr(choices, "read_values", lambda root: values)
    assert choices.try_values(stage, RATES, [1])["chosen"].tolist() == [0, 0, 1, 1]  # params.yaml says what was chosen


def open_trials(stage, choice, world):
    plain, folder, opened = read_values(stage.root), world / ".visdyn/choices/wiring", []
    for value in choice.values:
        settings = changed(choice, value, plain, world / "params.yaml")
        opened.append(trials.open_trial(stage, settings, shown(value), 1, folder, choice.arm, own=True))
    return opened


def test_only_the_parameter_differs_between_the_jobs_of_a_choice(stage, world):
    small, large = (trials.KINDS["idm"][0](trial)[0][0].arguments for trial in open_trials(stage, RATES, world))
    assert small["seed"] == large["seed"]
    assert small["data"] == large["data"]
    assert small["config"]["base"] == large["config"]["base"] == str(world / "models/base/s1")
    assert small["config"]["training"] | {"learning_rate": 0.01} == large["config"]["training"]
    assert (small["config"]["training"]["learning_rate"], large["config"]["training"]["learning_rate"]) == (0.002, 0.01)
    assert small["output"] != large["output"]
    floors = choice_of("fdm", "fdm.floor", values=((0.0,), (1.0,)), arm="supervised_weighted")
    jobs = [trials.KINDS["fdm"][0](trial)[0][0].arguments["data"] for trial in open_trials(stage, floors, world)]
    assert [(job["weighting"], job["floor"]) for job in jobs] == [("recognition", 0.0), ("recognition", 1.0)]
    shutil.rmtree(world / ".visdyn/choices")


def test_what_the_pipeline_trained_with_these_parameters_is_not_trained_again(stage, world):
    small, _ = open_trials(stage, RATES, world)
    assert trials.find_trained("idm", small) is None  # no dvc.lock says with what models/idm/s1 was trained
    now = read_values(world)["idm"]
    for used, found in ((now, str(world / "models/idm/s1")), (now | {"lora": {"rank": 4}}, None)):
        lock = {"stages": {"idm": {"params": {"params.yaml": {"seed": 0, "idm": used}}}}}
        (world / "dvc.lock").write_text(yaml.safe_dump(lock))
        assert trials.find_trained("idm", small) == found
        assert trials.find_trained("idm", replace(small, own=False)) is None
        assert trials.find_trained("fdm", small) is None
    (world / "dvc.lock").unlink()


def test_trials_train_on_training_scenes_and_are_measured_on_dev_scenes(stage, world):
    trial = open_trials(stage, RATES, world)[0]
    assert trial.data("aurora") == world / "data/kitchen/aurora"
    dev = trials.on_dev(trial)
    assert dev.kitchen == world / "data/dev"
    assert trial.kitchen == world / "data/kitchen"
    for name in ("aurora", "epic", "clips", "doundo"):
        assert dev.data(name) == world / "data/dev" / name
    assert load_truth(dev.kitchen, "aurora_test")[0]["scene"]["id"].startswith("dev-")
    assert load_truth(trial.kitchen, "aurora_train")[0]["scene"]["id"].startswith("train-")


@pytest.mark.parametrize(
    ("choice", "metrics"),
    [
        (choice_of("fdm", "fdm.floor", values=((0.5,),), arm="supervised_weighted"), {"score": 10, "success": 10}),
        (choice_of("base", "base_models.base.learning_rate", values=((0.002,),)),
         {"preferred_fdp": 40, "preferred_idp": 40}),
        (choice_of("mining", "mining.mode", values=(("quiet_around_peak",),)), {"clean_pairs": None,
                                                                             "right_labels": None}),
    ],
    ids=lambda given: getattr(given, "trial", ""),
)  # fmt: skip
def test_every_kind_of_token_model_s_trial_is_measured(stage, world, choice, metrics):
    table = choices.try_values(stage, choice, [1]).set_index("metric")
    assert set(table.index) == set(metrics)
    for name, n in metrics.items():
        assert n is None or table.loc[name, "n"] == n
    assert table["n"].gt(0).all()
    assert table.loc[table["n"] > 0, "score"].notna().all()
    assert table["steps"].isna().all() == (choice.trial == "mining")


@pytest.fixture(scope="module")
def generators(world):
    """The chain's generator, which stands for its Do-Undo too."""
    captions = world / "data/kitchen/captions"
    data = {"autoencoder": world / "models/autoencoder", "captions": captions / "captions.jsonl",
            "frame_pairs": captions / "pairs.npy", "prompts": world / "data/mined/doundo_train.json"}  # fmt: skip
    train_generator(
        GeneratorModel(32, 32, 1, 2, latent_patch_size=2, vocab_size=200, timestep_shift=3.0),
        GeneratorData(**{name: str(path) for name, path in data.items()}),
        recipe={"steps": 2, "batch_size": 4, "learning_rate": 1e-3},
        output=str(world / "models/generator/s1"),
        scratch=str(world / ".visdyn/generator"),
    )
    shutil.copytree(world / "models/generator/s1", world / "models/doundo/doundo-s1")


@pytest.mark.slow  # three trainings, each in a process of its own, and their images
@pytest.mark.parametrize(
    ("kind", "parameter", "value", "steps"),
    [
        ("generator", "base_models.generator_model.latent_patch_size", 2, 4),  # of both trainings
        ("doundo", "doundo.timestep_shift", 1.0, 2),
        ("sampling", "evaluation_doundo.flow_steps", 1, None),
    ],
)
def test_every_kind_of_generator_s_trial_is_measured(stage, generators, kind, parameter, value, steps):
    table = choices.try_values(stage, choice_of(kind, parameter, values=((value,),)), [1])
    assert set(table["metric"]) == {"joint_long", "joint_short"}
    assert set(table["n"]) == {4}
    assert set(table["steps"].dropna()) == ({steps} if steps else set())


def test_what_is_missing_is_named(stage, world, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"chain 2 has no .*models/base/s2"):
        choices.try_values(stage, RATES, [2])
    with pytest.raises(StageError, match="needs models/doundo/nothing, which is not in"):
        trials._require(open_trials(stage, RATES, world)[0], "models/doundo/nothing")
    with pytest.raises(ParamsError, match=r"has no value '0\.5'"):
        choices.try_values(stage, RATES, [1], ["0.5"])
    (world / "data/dev").rename(world / "data/elsewhere")
    try:
        with pytest.raises(StageError, match="holds no dev items; run `dvc repro world`"):
            choices.try_values(stage, RATES, [1])
    finally:
        (world / "data/elsewhere").rename(world / "data/dev")


# --------------------------------------------------------------------------------------- what is declared, and the page


@pytest.mark.parametrize("name", read_choices(ROOT / FILE))
def test_every_declared_choice_names_parameters_and_values_that_params_yaml_admits(name):
    choice, values = read_choices(ROOT / FILE)[name], read_values(ROOT)
    assert choice.trial in trials.KINDS
    assert len(choice.values) == len(set(map(shown, choice.values))) > 1
    assert current(choice, values)
    for value in choice.values:
        assert changed(choice, value, values, ROOT / "params.yaml").chains


def test_a_wrong_declaration_is_refused_by_name(tmp_path):
    path, right = tmp_path / "choices.yaml", {"trial": "idm", "parameters": ["idm.base"], "values": ["a", "b"]}
    for wrong, message in (
        ({"values": []}, "lists no values"),
        ({"values": [["a", "b"]]}, r"has 1 parameters, but a value \['a', 'b'\]"),
        ({"trial": "idms"}, "did you mean 'idm'"),
        ({"parameter": "x"}, "unknown key 'parameter'"),
    ):
        path.write_text(yaml.safe_dump({"mine": right | wrong}))
        with pytest.raises(ParamsError, match=message):
            read_choices(path)
    path.write_text(yaml.safe_dump({"mine": right | {"parameters": ["idm.bases"]}}))
    with pytest.raises(ParamsError, match=r"'idm\.bases', a parameter that params\.yaml does not have"):
        current(read_choices(path)["mine"], read_values(ROOT))


def test_the_page_shows_the_results_here():
    text = (ROOT / PAGE).read_text()
    assert rewritten(text, ROOT) == text, (
        "docs/choices.md and reports/results/choices do not belong together: run `python -m "
        "visdyn.reporting.choices_page`"
    )


def test_the_tables_here_say_what_params_yaml_says():
    for path in sorted((ROOT / "reports/results/choices").glob("*.csv")):
        table, declared = read_columns(f"choices/{path.name}", path), read_choices(ROOT / FILE)
        now = current(declared[path.stem], read_values(ROOT))
        assert (table["chosen"].astype(bool) == (table["value"] == now)).all(), (
            f"{path.name} marks another value than params.yaml has: run `visdyn choices {path.stem}`"
        )


def test_a_row_is_means_over_chains_and_another_result_makes_another_page(tmp_path):
    rows = {"choice": "trial", "parameter": RATES.parameter, "metric": "exact", "n": 200, "steps": 900,
            "processor": "x", "chosen": 0}  # fmt: skip
    scores = {("0.01", 0): 0.5, ("0.002", 0): 0.4, ("0.002", 1): 0.6}
    table = pd.DataFrame([{**rows, "value": value, "chain": chain, "score": score}
                          for (value, chain), score in scores.items()])  # fmt: skip
    text = block(RATES, "0.002", table)
    assert text.splitlines()[2:] == [
        "| **0.002** (chosen) | 900 | 0, 1 | 0.50 ± 0.14 (n = 200) |",
        "| 0.01 | 900 | 0 | 0.50 (n = 200) |",
    ]
    assert "not tried yet" in block(RATES, "0.002", None)
    page = ROOT / PAGE
    for name in ("data", "reports/results/choices"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / FILE, tmp_path / FILE)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    table[list(CHOICE)].to_csv(tmp_path / "reports/results/choices/idm_learning_rate.csv", index=False)
    assert "0.50 ± 0.14 (n = 200)" in rewritten(page.read_text(), tmp_path)
    with pytest.raises(ValueError, match="once for each choice"):
        rewritten(page.read_text().replace("<!-- choice: fdm_floor -->", ""), tmp_path)


def test_the_architecture_page_names_the_columns():
    text = (ROOT / "docs/architecture.md").read_text()
    paragraph = text[text.index("`choices/<name>.csv` holds") :].split("\n\n")[0]
    places = [re.search(rf"\b{name}\b[ ,]", paragraph).start() for name in CHOICE]
    assert places == sorted(places)


def test_the_command_says_what_is_wrong(stage, capsys, world, monkeypatch):
    monkeypatch.setattr(choices, "read_choices", lambda: {"trial": RATES})
    assert choices.main(["trials"]) == 2
    assert "no choice is called 'trials'; did you mean 'trial'?" in capsys.readouterr().err
    monkeypatch.setattr(choices, "update_page", lambda root: None)
    monkeypatch.setattr(choices, "try_values", lambda *given: print(json.dumps([given[1].name, *given[2:]])))
    assert choices.main(["trial", "--chains", "1", "--values", "0.01", "--force"]) == 0
    assert json.loads(capsys.readouterr().out) == ["trial", [1], ["0.01"], True]
