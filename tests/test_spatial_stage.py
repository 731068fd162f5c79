"""Stage `spatial`: every family of models, the kitchen's questions, and the tables through the notebook's calls."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tiny_tokens import public_vqgan, save_liquid, tiny_liquid
from tiny_vlms import save_tiny
from toy import make_repository
from transformers import GemmaForCausalLM

from visdyn.datasets.spatial_questions import SpatialQuestion, load_spatialmqa
from visdyn.evaluation.benches.bench_spatial import score_likelihoods, summarise
from visdyn.evaluation.benches.spatial_models import UnderstandingAnswers, UnifiedAnswers, answers_of
from visdyn.kitchen.render import ImageSettings
from visdyn.kitchen.scene import make_scene, random_state
from visdyn.kitchen.text import NUMBERS, list_facts
from visdyn.kitchen.write.spatial_files import KINDS, write_spatial
from visdyn.models.token import liquid
from visdyn.models.token.scoring import Scores
from visdyn.models.understanding.understanding_model import UnderstandingModel
from visdyn.params import ParamsError
from visdyn.paths import repository_root
from visdyn.pipeline import open_stage
from visdyn.pipeline.errors import StageError
from visdyn.stages.spatial import ACCURACY, ANSWERS, accuracy_table, load_questions, model_name, model_names

NOTEBOOK = repository_root() / "notebooks/08b_spatial_reasoning.ipynb"
# SpatialMQA's test split: how many questions have two, four and six options.
PUBLIC_OPTIONS = {2: 138, 4: 795, 6: 143}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A toy repository with eight kitchen questions."""
    root = make_repository(tmp_path / "toy")
    monkeypatch.setenv("VISDYN_ROOT", str(root))
    monkeypatch.setenv("VISDYN_STAGE_KEY", "test")
    write_spatial(root / "data/kitchen", "test", 8, 0, ImageSettings())
    return root


def _parameters(root, **section) -> None:
    path = root / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["spatial"] |= section
    path.write_text(yaml.safe_dump(values))


def _run_notebook() -> dict:
    names: dict = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    return names


def test_a_unified_model_through_the_notebook(root, tiny_folder):
    for name in ("base", "fdm/supervised-s0"):
        shutil.copytree(tiny_folder, root / "models" / name)
    _parameters(root, models=["models/base", "models/fdm/supervised-s0"], modes=["likelihood", "generation"])
    _run_notebook()
    results = root / "reports/results/spatial"
    answers, accuracy = (pd.read_csv(results / f"{name}.csv") for name in ("answers", "accuracy"))
    assert list(answers.columns) == ANSWERS
    assert list(accuracy.columns) == ACCURACY
    assert len(answers) == 2 * 8 * 4
    assert set(accuracy["model"]) == {"zero_shot", "supervised"}
    assert sorted(set(accuracy["mode"])) == ["generation", "likelihood_mean", "likelihood_sum"]
    chance = np.mean([1 / 2, 1 / 5, 1 / 2, 1 / 2])
    np.testing.assert_allclose(accuracy["chance"], chance)
    assert (accuracy["low"] <= accuracy["accuracy"]).all()
    assert (accuracy["strict_accuracy"] <= accuracy["accuracy"]).all()
    likely = accuracy[accuracy["mode"] != "generation"]
    assert (likely["invalid_rate"] == 0).all()
    # The two folders hold one model: what it answers does not depend on its name.
    pairs = accuracy.pivot(index="mode", columns="model", values="accuracy")
    np.testing.assert_array_equal(pairs["zero_shot"], pairs["supervised"])


def test_every_chain_s_own_model_is_asked(root, tiny_folder):
    for name in ("base/s0", "base/s1", "base/s2", "idm"):
        shutil.copytree(tiny_folder, root / "models" / name)
    _parameters(root, models=["models/base", "models/idm"], modes=["likelihood"])
    accuracy = _run_notebook()["accuracy"]
    counts = accuracy.groupby("model")["chain"].agg(lambda chains: sorted(set(chains)))
    assert counts.to_dict() == {"zero_shot": [0, 1, 2], "idm": [0]}
    assert (accuracy["n"] == 8).all()


def test_a_model_that_cannot_be_loaded_is_left_out_with_its_reason(root, tiny_folder, tmp_path):
    """Liquid as it lies on the hub has no image tokenizer; the stage asks the others."""
    save_liquid(tiny_liquid(public_vqgan()), tmp_path / "Liquid_V1_7B", tmp_path / "elsewhere")
    shutil.copytree(tiny_folder, root / "models/base")
    _parameters(
        root, models=[str(tmp_path / "Liquid_V1_7B"), "models/fdm/supervised", "models/base"], modes=["likelihood"]
    )
    names = _run_notebook()
    missing = pd.read_csv(root / "reports/results/spatial/missing.csv").set_index("model")["reason"]
    assert list(missing.index) == ["Liquid_V1_7B", "supervised"]
    assert "no VQGAN" in missing["Liquid_V1_7B"]
    assert "run the stage that trains it" in missing["supervised"]
    assert set(names["accuracy"]["model"]) == {"zero_shot"}


def test_where_no_model_can_be_loaded_the_tables_have_no_rows(root):
    _parameters(root, models=["models/base"])
    names = _run_notebook()
    assert (len(names["answers"]), len(names["accuracy"]), len(names["missing"])) == (0, 0, 1)


def test_the_longest_answer_is_a_parameter(root, tiny_folder):
    shutil.copytree(tiny_folder, root / "models/base")
    _parameters(root, models=["models/base"], modes=["generation"], max_new_tokens=1)
    outputs = _run_notebook()["answers"]["output"]
    assert outputs.str.split().str.len().max() <= 1


def test_an_understanding_model_through_the_notebook(root, tmp_path):
    _parameters(root, models=[str(save_tiny("qwen2_vl", tmp_path))], modes=["generation", "likelihood"])
    names = _run_notebook()
    assert len(names["answers"]) == 8 * 4
    assert names["accuracy"]["n"].tolist() == [8, 8, 8]


def _vlm(name) -> UnderstandingModel:
    return UnderstandingModel.from_pretrained(name, dtype="float32")


def test_an_understanding_model_s_options_are_scored_as_by_plain_forwards(tmp_path):
    model = _vlm(save_tiny("qwen2_5_vl", tmp_path))
    asked = answers_of(model, max_new_tokens=3)
    assert isinstance(asked, UnderstandingAnswers)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    scores = asked.score_options(image, "Where?", ["left", "on the right"])
    assert scores.num_tokens.tolist() == [4, 12]  # the tokenizer has one token a byte
    for row, option in enumerate(("left", "on the right")):
        alone = asked.score_options(image, "Where?", [option])
        assert alone.total.item() == pytest.approx(scores.total[row].item(), abs=1e-4)
    other = asked.score_options(np.zeros_like(image), "Where?", ["left"])
    assert abs(other.total.item() - scores.total[0].item()) > 1e-4  # the picture is looked at
    text = asked.answer_many([([image], "Where?")])[0]
    assert text == asked.answer_many([([image], "Where?")])[0]


def test_what_cannot_answer_is_refused():
    with pytest.raises(TypeError, match="a Linear cannot be asked questions"):
        answers_of(torch.nn.Linear(1, 1))


def test_liquid_is_asked_in_a_turn_of_its_own(tiny):
    assert type(answers_of(tiny)) is UnifiedAnswers
    torch.manual_seed(0)
    tokenizer = liquid.build_tokenizer(["where", "left", "on", "the", "right"])
    layout = liquid.liquid_layout(tokenizer, tiny.vqgan.config.n_embed)
    lm = GemmaForCausalLM(liquid.tiny_config(layout, 32, num_layers=1, num_heads=2)).eval()
    model = liquid.LiquidModel(lm, liquid.LiquidSequenceBuilder(tokenizer, layout), tiny.vqgan, "liquid")
    asked = answers_of(model, max_new_tokens=3)
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    text = tokenizer.convert_ids_to_tokens(asked.ids([image], "where"))
    codes = [token for token in text if token is None]  # image codes lie beyond the tokenizer's last token
    assert len(codes) == model.encode([image]).size
    turn = [token for token in text if token is not None]
    assert turn[:5] == ["<bos>", "<start_of_turn>", "user", "\n", "<boi>"]
    assert turn[5:] == ["<eoi>", "\n", "where", "<end_of_turn>", "\n", "<start_of_turn>", "model", "\n"]
    assert asked.score_options(image, "where", ["left", "on the right"]).num_tokens.tolist() == [1, 3]
    assert len(asked.answer_many([([image], "where")])[0].split()) <= 3


# ------------------------------------------------------------------------------------------- the kitchen's questions


def test_one_option_is_true_of_the_picture_and_the_others_are_not(tmp_path):
    write_spatial(tmp_path, "test", 40, 3, ImageSettings())
    rows = [json.loads(line) for line in (tmp_path / "spatial/test.jsonl").read_text().splitlines()]
    random = np.random.default_rng([3, 6])
    assert Counter(row["relation"] for row in rows) == dict.fromkeys(KINDS, 10)
    for index, row in enumerate(rows):
        scene, true = make_scene(3, "test", 500_000 + index), None
        while true is None:  # draw as the writer does, and judge the options by the captions' facts
            state = random_state(random, scene)
            asked = KINDS[row["relation"]](state, random)
            true = asked and [option for option in row["options"] if _holds(option, state)]
        assert true == [row["answer"]]
        _skip_picture(random, row)
    assert len({row["image"] for row in rows}) == 40
    questions = load_spatialmqa(
        tmp_path / "spatial/test.jsonl", tmp_path / "spatial/images", decode=True, benchmark="kitchen"
    )
    assert {question.benchmark for question in questions} == {"kitchen"}
    assert {question.relation for question in questions} == set(KINDS)


def _holds(option: str, state) -> bool:
    """Whether an option is among the facts of a state; left and right are read from the places."""
    seen = list_facts(state)
    for word, sign in ((" left of ", -1), (" right of ", 1)):
        if word in option:
            first, second = (_place(noun, state) for noun in option.split(word))
            return (first - second) * sign > 0
    return option in seen


def _place(noun: str, state) -> int:
    return next(column for column, stack in enumerate(state.columns) if noun in stack)


def _skip_picture(random: np.random.Generator, row: dict) -> None:
    """Draw what the picture's jitter and noise and the options' order draw, so that states stay in step."""
    settings = ImageSettings()
    random.uniform(-settings.jitter / 2, settings.jitter / 2, 2)
    random.integers(2**21 - 64 * 64 * 3)
    random.permutation(len(row["options"]))


def test_answers_are_balanced_enough_that_a_constant_one_is_near_chance(tmp_path):
    write_spatial(tmp_path, "test", 200, 0, ImageSettings(size=16))
    rows = [json.loads(line) for line in (tmp_path / "spatial/test.jsonl").read_text().splitlines()]
    first = np.mean([row["options"][0] == row["answer"] for row in rows])
    assert abs(first - np.mean([1 / len(row["options"]) for row in rows])) < 0.1
    places = Counter(row["answer"].split()[-1] for row in rows if row["relation"] == "place")
    assert set(places) == set(NUMBERS)


# ------------------------------------------------------------------------------------------------- chance and the table


class _Guesses:
    """Finds all options equally likely, so that the first is chosen."""

    name = "guesses"

    def score_options(self, image, prompt, options) -> Scores:
        zeros = torch.zeros(len(options))
        return Scores(zeros, zeros, torch.ones(len(options), dtype=torch.int64))


def _public_questions() -> list[SpatialQuestion]:
    picture = np.zeros((4, 4, 3), np.uint8)
    relations = ("left of", "right of", "in front of", "behind", "on/above", "below")
    rows = []
    for count, number in PUBLIC_OPTIONS.items():
        for row in range(number):
            options = relations[:count]
            rows.append((options, count - 1, f"{count}-{row}"))
    return [_Shown(picture, "Where?", options, answer, "spatialmqa", "", "", name) for options, answer, name in rows]


class _Shown(SpatialQuestion):
    image = property(lambda self: self.source)


def test_chance_on_spatialmqa_s_option_counts_is_the_published_level():
    answers = score_likelihoods(_Guesses(), _public_questions())
    accuracy = accuracy_table(answers.assign(model="guesses", chain=0))
    assert accuracy["n"].tolist() == [1076, 1076]
    assert accuracy["chance"].round(3).tolist() == [0.271, 0.271]  # 27.1 %, above C-ZS (26.1) and C-FT (25.8)
    assert accuracy.equals(accuracy[ACCURACY])
    by_rule = summarise(answers).set_index("rule")
    assert by_rule.loc["sum", "ambiguous"] == 1  # every choice was a tie


def test_the_paper_s_accuracies_are_not_above_chance():
    from visdyn.evaluation.benches.bench_spatial import _p_chance

    chances = pd.Series([1 / count for count, number in PUBLIC_OPTIONS.items() for _ in range(number)])
    for percent, lowest in ((25.8, 0.8), (26.1, 0.7), (28.0, 0.2)):
        assert _p_chance(chances, round(percent / 100 * 1076)) > lowest


def test_real_data_without_a_benchmark_leave_headers(root):
    path = root / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["world"]["kind"] = "external"
    path.write_text(yaml.safe_dump(values))
    _run_notebook()
    assert (root / "reports/results/spatial/accuracy.csv").read_text() == ",".join(ACCURACY) + "\n"


def test_faults_of_the_parameters_are_told(root, tiny_folder):
    shutil.copytree(tiny_folder, root / "models/base")
    _parameters(root, spatialmqa="questions.jsonl")
    with pytest.raises(StageError, match=r"needs spatial\.spatialmqa_images"):
        load_questions(open_stage("spatial"))
    _parameters(root, spatialmqa=None, modes=["guess"], models=["models/base"])
    with pytest.raises(ParamsError, match=r"'spatial\.modes\[0\]' must be one of likelihood, generation, not 'guess'"):
        _run_notebook()


def test_models_are_named_as_the_tables_know_them():
    assert model_name("models/base") == "zero_shot"
    assert model_name("models/fdm/synthetic_weighted-s0") == "synthetic_weighted"
    assert model_name("Junfeng5/Liquid_V1_7B") == "Liquid_V1_7B"


def test_runs_of_one_arm_that_are_named_apart_are_two_models():
    runs = [f"models/fdm/supervised-s{chain}" for chain in (0, 1)]
    names = model_names(["models/base", *runs])
    assert list(names.values()) == ["zero_shot", "supervised-s0", "supervised-s1"]
    with pytest.raises(StageError, match=r"two of spatial\.models are called 'a'"):
        model_names(["one/a", "other/a"])
