"""The plan of a profile: its counts, its rates' sources, what fits, and what a run took beside it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import yaml

from visdyn.models.token.chameleon import ChameleonLM, tiny_config
from visdyn.models.token.tokens import TokenLayout
from visdyn.params import load_params
from visdyn.params.runtime import TRAINING_STAGES
from visdyn.paths import repository_root
from visdyn.pipeline import cost_plan
from visdyn.pipeline.plan_facts import NOTHING, Facts, Machine, Range, read_size
from visdyn.pipeline.plan_stages import TOKEN_BYTES, Planner
from visdyn.pipeline.stage_hardware import read_hardware

ROOT = repository_root()
FOUR = Machine("h100", 4, 32)
CPU = Machine("h100", 0, 2)
PAPER = "profiles/paper"


def _plans(profile: str, machine: Machine, hardware: str = "zero2", **changes):
    params = load_params(profile)
    for section, values in changes.items():
        params = replace(params, **{section: replace(getattr(params, section), **values)})
    planner = Planner(params, Facts.load(machine), read_hardware(params.runtime, TRAINING_STAGES, hardware))
    return {plan.stage: plan for plan in planner.plan()}


def test_ranges_add_multiply_and_divide_end_by_end():
    first, second = Range(1, 2, 3), Range(10, 20, 40)
    assert first + second == second + first == Range(11, 22, 43)
    assert first * second == Range(10, 40, 120)
    assert second / first == Range(10 / 3, 10, 40)
    assert 2 * first == Range(2, 4, 6)
    assert sum([first, first], NOTHING) == Range(2, 4, 6)
    with pytest.raises(ValueError, match="no range"):
        Range.of([3, 2, 1])


def test_sizes_are_read_from_their_descriptions():
    assert read_size("about 14 GB in bf16") == 14
    assert read_size("27.21 GiB (ema.safetensors)") == pytest.approx(29.22, abs=0.01)
    assert read_size("not stated") is None


def test_what_was_measured_stands_in_the_results():
    """A rate that names a file of benchmarks/results has its words there."""
    named = 0
    for name, entry in yaml.safe_load((ROOT / "benchmarks/plan.yaml").read_text())["rates"].items():
        Range.of(entry["value"])
        file, separator, words = entry["from"].partition(".txt: ")
        if separator:
            named += 1
            text = " ".join((ROOT / f"benchmarks/results/{file}.txt").read_text().split())
            assert " ".join(words.split()) in text, f"{name}: no line of {file}.txt has {words!r}"
    assert named >= 8


@pytest.mark.parametrize(
    ("profile", "machine"), [(".", Machine("h100", 0, 2)), (PAPER, FOUR), ("profiles/smoke", FOUR)]
)
def test_every_stage_is_planned(profile, machine):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    rows = cost_plan.make_rows(profile, None, machine)
    assert [row.plan.stage for row in rows] == list(stages)
    for row in rows:
        for value in (row.gpu_hours, row.hours, row.plan.disk, row.plan.requests, row.plan.dollars):
            assert 0 <= value.low <= value.likely <= value.high
        assert row.hours.low > 0
    assert len(cost_plan.render(rows).splitlines()) >= len(stages) + 2


def test_trainings_have_the_papers_steps():
    """Which profiles/paper/overrides.yaml states: about 25,700, 62,000 and 71,000."""
    plans = _plans(PAPER, FOUR)
    told = {work.what.partition(":")[0]: work.what for stage in ("idm", "fdm") for work in plans[stage].works}
    steps = {name: int(what.split(" run(s) of ")[1].split()[0]) for name, what in told.items() if "run(s)" in what}
    assert steps["idm"] == pytest.approx(25_700, rel=0.01)
    assert steps["supervised"] == pytest.approx(62_000, rel=0.01)
    assert steps["synthetic_weighted"] == pytest.approx(71_000, rel=0.01)


def test_requests_to_judges_are_counted_and_priced():
    params = load_params(PAPER)
    plans = _plans(PAPER, FOUR)
    # 5 baselines, the base, the tokenizer's ceiling, 4 arms, an editor; and the candidates of 2 arms, 3 draws, K = 8
    assert plans["evaluation"].requests == Range.of(248 * 12 + 248 * 8 * 2 * 3)
    # 5 baselines, the base, 2 variants, 3 editors; 2 prompts of 3 images; 5 repeats
    assert plans["evaluation_doundo"].requests == Range.of(662 * 11 * 6 * 5)
    assert plans["evaluation_doundo"].dollars.likely > plans["evaluation"].dollars.likely > 0
    judges = tuple(replace(judge, systems=("doundo_c",)) for judge in params.evaluation_doundo.judges)
    one = _plans(PAPER, FOUR, evaluation_doundo={"judges": judges})["evaluation_doundo"]
    assert one.requests == Range.of(662 * 6 * 5)
    unpriced = tuple(replace(judge, price_in=0.0, price_out=0.0) for judge in params.evaluation_doundo.judges)
    plan = _plans(PAPER, FOUR, evaluation_doundo={"judges": unpriced})["evaluation_doundo"]
    assert plan.dollars == NOTHING
    assert any("price of Gemini" in what for what in plan.unknown)


def test_a_first_pass_is_planned_where_it_runs():
    first = _plans(PAPER, FOUR)["mining"].seconds("core")
    every = _plans(PAPER, FOUR, mining={"first_pass": None})["mining"].seconds("core")
    quiet = _plans(PAPER, FOUR, mining={"modes": ("top_then_space", "quiet_around_peak")})["mining"].seconds("core")
    assert first.likely < every.likely / 2
    assert quiet == every


def test_more_gpus_take_less_time_and_as_many_hours_of_them():
    one, four = (cost_plan.make_rows(PAPER, "zero2", Machine("h100", gpus, 32)) for gpus in (1, 4))
    for before, after in zip(one, four, strict=True):
        assert before.gpu_hours == after.gpu_hours
        assert after.hours.likely <= before.hours.likely
    fdm = next(place for place, row in enumerate(one) if row.plan.stage == "fdm")
    assert four[fdm].hours.likely < 0.3 * one[fdm].hours.likely


def test_a_stage_is_planned_on_its_own_hardware(monkeypatch):
    monkeypatch.delenv("VISDYN_HARDWARE", raising=False)
    own, shared = _memory_of(None), _memory_of("zero2")
    assert own["doundo"] < shared["doundo"]  # the profile gives it zero3, which shares out the weights too
    assert own["fdm"] == shared["fdm"]
    monkeypatch.setenv("VISDYN_HARDWARE_DOUNDO", "zero2")
    assert _memory_of(None) == shared


def _memory_of(hardware: str | None) -> dict[str, float]:
    rows = cost_plan.make_rows(PAPER, hardware, FOUR)
    return {row.plan.stage: row.plan.memory.likely for row in rows if row.plan.memory}


def test_what_does_not_fit_is_said_with_what_to_change(capsys):
    small = ["--profile", PAPER, "--hardware", "one_gpu", "--gpu", "rtx4090", "--gpus", "1", "--cores", "8"]
    assert cost_plan.main(small) == 1
    told = capsys.readouterr().out
    assert "doundo: does not fit; change:" in told
    assert "scaled from h100" not in told
    cost_plan.main([*small, "--sources"])
    assert "scaled from h100" in capsys.readouterr().out
    assert cost_plan.main(["--profile", PAPER, "--gpu", "h9"]) == 1
    assert "no GPU 'h9'" in capsys.readouterr().err
    assert cost_plan.main(["--profile", PAPER, "--gpus", "0"]) == 1
    assert "needs GPUs" in capsys.readouterr().err


def test_memory_of_a_lora_is_what_was_measured():
    """15.1 GiB with one sequence a rank and 19.1 with four (h100.txt)."""
    for batch, measured in ((64, 19.1), (16, 15.1)):
        training = replace(load_params(PAPER).idm.training, batch_size=batch)
        plan = _plans(PAPER, Machine("h100", 1, 8), "one_gpu", idm={"training": training})["idm"]
        assert plan.memory.likely == pytest.approx(measured, abs=0.1)


def test_a_run_stands_beside_its_plan(tmp_path, monkeypatch):
    (tmp_path / ".visdyn/timings").mkdir(parents=True)
    (tmp_path / ".visdyn/timings/idm.json").write_text(json.dumps({"notebook": {"duration": 720.0}}))
    monkeypatch.setattr(cost_plan, "profile_root", lambda profile: tmp_path)
    rows = cost_plan.make_rows(".", "cpu", CPU)
    took = {row.plan.stage: row.took for row in rows if row.took is not None}
    assert took == {"idm": pytest.approx(0.2)}
    assert "of 1 stages that ran here" in cost_plan.render(rows)


def test_the_counts_of_a_token_are_those_of_the_true_shape():
    """Chameleon-7B's shape on the meta device: its weights, FLOPs and keys and values a token."""
    layout = TokenLayout(0, 1, 2, 8196, 8197, 8198, 4, 8192)
    config = tiny_config(65536, layout, 8199, 4096, 11008, 32, 32, 4096)
    with torch.device("meta"):
        lm = ChameleonLM(config)
    count = sum(parameter.numel() for parameter in lm.parameters())
    stated = Facts.load(FOUR).checkpoints["leloy/Anole-7b-v0.1-hf"]
    assert 2 * count / 1e9 == pytest.approx(stated, rel=0.05)
    planner = Planner(load_params(PAPER), Facts.load(FOUR), {})
    assert planner._model_flops() == pytest.approx(2 * count, rel=0.05)
    assert 2 * 2 * config.hidden_size * config.num_hidden_layers == TOKEN_BYTES
