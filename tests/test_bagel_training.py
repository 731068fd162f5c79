"""BAGEL's recipe: what each adapter touches, resuming, precision, several ranks, data files."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from ranks import run_ranks
from test_bagel_model import picture, small_config, small_model
from toy_bagel import encode, fine_tuning, pairs, save_annotations, words
from transformers import TrainingArguments

from visdyn.datasets.bad_items import DatasetError
from visdyn.models.adapters import base_of
from visdyn.models.bagel import Bagel, BagelConfig
from visdyn.params.doundo import ConditionDropout, Consistency, Mixture
from visdyn.training.bagel.mixture import BagelMixture
from visdyn.training.bagel.objective import BagelObjective
from visdyn.training.bagel.recipe import apply_adapter, is_generation, resolve_hardware, train_bagel, trained_parameters
from visdyn.training.bagel.records import BagelData, read_questions, read_records
from visdyn.training.engine.launch import Hardware, Job


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, str]:
    """A base folder and the three data files."""
    root = tmp_path_factory.mktemp("bagel")
    model = small_model()
    model.tokenizer = words()
    model.save_pretrained(root / "base")
    save_annotations(root / "pairs.json", pairs())
    picture(16, 16, 30).save(root / "a.png")
    (root / "captions.jsonl").write_text(json.dumps({"image": "a.png", "text": "open it"}) + "\n")
    row = {"image": "a.png", "question": "what", "answer": "close it"}
    (root / "questions.jsonl").write_text(json.dumps(row) + "\n")
    files = {"pairs": "pairs.json", "captions": "captions.jsonl", "questions": "questions.jsonl", "base": "base"}
    return {name: str(root / file) for name, file in files.items()}


def train(world: dict, folder: Path, steps: int = 4, recipe: dict | None = None, **options) -> pd.DataFrame:
    training = {"steps": steps, "log_every": 1, "save_every": 2, **(recipe or {})}
    places = {"output": str(folder / "out"), "scratch": str(folder / "s"), "hardware": options.pop("hardware", None)}
    seed, files = training.pop("seed", 0), {name: file for name, file in world.items() if name != "base"}
    config = fine_tuning(base=world["base"], training=training, **options)
    return train_bagel(config, BagelData(**files), seed=seed, **places)


def weights(folder: str | Path, adapter: Path | None = None) -> dict[str, torch.Tensor]:
    model = Bagel.from_pretrained(folder)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return model.state_dict()


def changed(before: dict, after: dict) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def listed(folder: Path) -> dict[str, int]:
    return pd.read_csv(folder / "out/trained_parameters.csv").set_index("name")["elements"].to_dict()


def test_lora_touches_the_generation_experts_linear_maps_and_nothing_else(world, tmp_path):
    history = train(world, tmp_path, lora={"rank": 2, "alpha": 4}, consistency=Consistency(0.5))
    assert list(history) == ["step", "loss", "mse", "ce", "consistency"]
    before = weights(world["base"])
    maps = [f"self_attn.{name}_proj_moe_gen" for name in "qkvo"]
    maps += [f"mlp_moe_gen.{name}_proj" for name in ("gate", "up", "down")]
    expected = {f"language_model.model.layers.{layer}.{name}.weight" for layer in (0, 1) for name in maps}
    assert changed(before, weights(world["base"], tmp_path / "out")) == expected
    assert len(listed(tmp_path)) == 2 * len(expected)
    assert sum(listed(tmp_path).values()) == 2 * sum(sum(before[name].shape) for name in expected)
    assert not (tmp_path / "out/ema.safetensors").exists()
    named = json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"]
    assert not Path(named).is_absolute()
    assert Path(base_of(tmp_path / "out")).samefile(world["base"])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("adapter", ["generation_expert", "full"])
def test_whole_checkpoints_change_what_was_listed(world, tmp_path, adapter):
    train(world, tmp_path, adapter=adapter, average_decay=0.5, dropout=ConditionDropout(0.0, 0.0, 0.0))
    before, after = weights(world["base"]), weights(tmp_path / "out")
    tables = {name for name in before if name.endswith("pos_embed.pos_embed")}
    trained = {name for name in before if name not in tables and (adapter == "full" or is_generation(name))}
    assert set(listed(tmp_path)) == trained
    assert changed(before, after) == trained
    averaged = weights(tmp_path / "out/average")
    assert changed(before, averaged) == changed(after, averaged) == trained
    assert Bagel.from_pretrained(tmp_path / "out").tokenizer.get_vocab() == words().get_vocab()
    assert (tmp_path / "out/ae.safetensors").read_bytes() == (Path(world["base"]) / "ae.safetensors").read_bytes()


def test_at_the_public_size_lora_trains_161_million_and_the_expert_6_5_billion():
    with torch.device("meta"):
        expert, adapted = Bagel(BagelConfig()), Bagel(BagelConfig())
    apply_adapter(expert, "generation_expert")
    apply_adapter(adapted, "lora")
    assert sum(trained_parameters(expert).values()) == pytest.approx(6.54e9, rel=1e-3)
    assert sum(trained_parameters(adapted).values()) == 161_480_704
    names = {"vae2llm.weight", "llm2vae.bias", "time_embedder.mlp.0.weight", "language_model.model.norm_moe_gen.weight"}
    assert names <= set(trained_parameters(expert))
    assert not any("lm_head" in name or "vit" in name or "mlp.up" in name for name in trained_parameters(expert))


def test_the_average_ends_after_the_last_step_and_the_seed_decides_the_data(world, tmp_path):
    first = train(world, tmp_path / "a", 1, adapter="full", average_decay=0.75)
    states = [weights(folder) for folder in (world["base"], tmp_path / "a/out", tmp_path / "a/out/average")]
    for name, start in states[0].items():
        torch.testing.assert_close(states[2][name], 0.75 * start + 0.25 * states[1][name])
    other = train(world, tmp_path / "b", 1, {"seed": 1}, adapter="full")
    assert other["loss"].item() != pytest.approx(first["loss"].item())


class Killed(Exception):
    pass


@pytest.mark.parametrize(("adapter", "killed"), [("full", 4), ("lora", 6)])
def test_killed_and_resumed_gives_the_same_weights(world, tmp_path, adapter, killed, monkeypatch):
    options = {"adapter": adapter, "consistency": Consistency(0.5, "generated"), "average_decay": 0.9}
    options |= {"lora": {"rank": 2, "dropout": 0.1}} if adapter == "lora" else {}
    whole = train(world, tmp_path / "whole", 6, **options)
    forward, steps = BagelObjective.forward, []

    def mortal(self, batch):
        steps.append(1)
        if len(steps) == killed:
            raise Killed
        return forward(self, batch)

    monkeypatch.setattr(BagelObjective, "forward", mortal)
    with pytest.raises(Killed):
        train(world, tmp_path / "cut", 6, **options)
    resumed = train(world, tmp_path / "cut", 6, **options)
    assert len(steps) - killed == 6 - (killed - 1) // 2 * 2
    pd.testing.assert_frame_equal(whole, resumed)
    for folder in ("out", "out/average"):
        files = sorted(file.name for file in (tmp_path / "whole" / folder).glob("*.safetensors"))
        assert files
        for name in files:
            same = [(tmp_path / run / folder / name).read_bytes() for run in ("whole", "cut")]
            assert same[0] == same[1], name


@pytest.mark.parametrize("adapter", ["lora", "generation_expert"])
def test_bf16_keeps_what_trains_in_float32_and_saves_bf16(world, tmp_path, adapter, monkeypatch):
    seen = {}
    forward = BagelObjective.forward

    def looking(self, batch):
        seen.update({name: p.dtype for name, p in self.model.named_parameters()})
        return forward(self, batch)

    monkeypatch.setattr(BagelObjective, "forward", looking)
    history = train(world, tmp_path, 2, {"precision": "bf16"}, adapter=adapter, lora={"rank": 2})
    assert history["loss"].notna().all()
    assert {seen[name] for name in listed(tmp_path)} == {torch.float32}
    assert {dtype for name, dtype in seen.items() if name not in listed(tmp_path)} == {torch.bfloat16}
    if adapter == "generation_expert":
        assert Bagel.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_of_deepspeed_train_like_one_process(world, tmp_path, stage):
    """The ranks' batches hold different kinds of samples; about 8 s of CPU for each rank."""
    training = {"batch_size": 4, "learning_rate": 1e-3, "log_every": 1, "save_every": 4}
    config = fine_tuning(base=world["base"], adapter="full", consistency=Consistency(0.5), training=training)
    data = BagelData(**{name: file for name, file in world.items() if name != "base"})
    folders = [{"output": str(tmp_path / run), "scratch": str(tmp_path / f"{run}-state")} for run in ("one", "two")]
    whole = train_bagel(config, data, seed=0, **folders[0])
    hardware = {"deepspeed": f"hardware/deepspeed/zero{stage}.json"}
    arguments = {"config": config, "data": data, "seed": 0, **folders[1], "hardware": hardware}
    job = Job("two", "visdyn.training.bagel.recipe:train_bagel", arguments)
    (tmp_path / "job.json").write_text(json.dumps({"function": job.function, "arguments": job.arguments}))
    run_ranks("visdyn.training.engine.worker", str(tmp_path / "job.json"))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "two/training.csv"), whole, rtol=1e-4, check_dtype=False)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        # Adding a constant to all keys changes nothing: these gradients are rounding noise, which Adam makes large.
        if not (name.startswith("vit_model") and name.endswith("k_proj.bias")):
            torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-4)


def test_one_kind_alone_needs_only_its_file(world, tmp_path):
    only = {"base": world["base"], "pairs": None, "questions": None, "captions": world["captions"]}
    history = train(only, tmp_path, 2, mixture=Mixture(0.0, 0.0, 1.0, 0.0), adapter="generation_expert")
    assert (history["ce"] == 0).all()
    with pytest.raises(ValueError, match="asks for edit but has no such records"):
        train(only, tmp_path, 2, mixture=Mixture(1.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="unknown adapter 'qlora'; one of full, generation_expert, lora"):
        train(world, tmp_path, 2, adapter="qlora")


def _conversation(*values: str, image=None) -> dict:
    speakers = ["human", "gpt"] * len(values)
    said = [{"from": speaker, "value": value} for speaker, value in zip(speakers, values, strict=False)]
    return {"id": "1", "conversations": said} | ({} if image is None else {"image": image})


@pytest.mark.parametrize("form", ["questions.json", "questions.jsonl"])
def test_llava_onevision_s_layout_is_read(tmp_path, form):
    for name in ("a.png", "b.png"):
        picture(20, 20).save(tmp_path / name)
    rows = [
        _conversation("<image>\nwhat", "open it", "close", "it", image="a.png"),
        _conversation("what <image> it <image>", "open", image=["a.png", "b.png"]),
        _conversation("what", "open"),
    ]
    path = tmp_path / form
    path.write_text(json.dumps(rows) if form.endswith("json") else "".join(json.dumps(row) + "\n" for row in rows))
    one, two, none = read_questions(path)
    image, other = tmp_path / "a.png", tmp_path / "b.png"
    assert one.turns == (
        ("image", image),
        ("question", "what"),
        ("answer", "open it"),
        ("question", "close"),
        ("answer", "it"),
    )
    assert two.turns == (
        ("question", "what"),
        ("image", image),
        ("question", "it"),
        ("image", other),
        ("answer", "open"),
    )
    assert none.turns == (("question", "what"), ("answer", "open"))
    data = BagelMixture({"understanding": [one]}, {"understanding": 1}, encode, small_config(), 1)
    assert [(part.kind, part.loss) for part in data[0].parts] == [
        ("vit", False),
        ("text", False),
        ("text", True),
        ("text", False),
        ("text", True),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (_conversation("what", "open", image="a.png"), "1 images, but <image> stands 0 times"),
        (_conversation("<image> <image>", "open", image="a.png"), "1 images, but <image> stands 2 times"),
        (_conversation("<image> what", image="a.png"), "no answer to learn"),
        (_conversation("<image> what", "open", image="no.png"), "image .*no.png does not exist"),
        ({"conversations": [{"from": "system", "value": "be kind"}]}, "a turn is from 'system'"),
        ({"conversations": [{"value": "what"}]}, "expected image and conversations"),
    ],
)
def test_a_conversation_that_cannot_be_read_is_refused_by_line(tmp_path, row, message):
    picture(20, 20).save(tmp_path / "a.png")
    path = tmp_path / "questions.jsonl"
    good = _conversation("<image> what", "open", image="a.png")
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DatasetError, match=f"line 2: .*{message}"):
        read_questions(path)


def test_data_files_are_checked_line_by_line(world, tmp_path):
    assert len(read_records(world["pairs"], None, world["captions"], world["questions"])["undo"]) == 3
    with pytest.raises(DatasetError, match="does not exist; give a file of JSON lines with image, text"):
        read_records(None, None, str(tmp_path / "no.jsonl"), None)
    bad = tmp_path / "bad.jsonl"
    for line, message in (
        ('{"image": "a.png"}', r"line 1: expected image, text \(KeyError\('text'\)\)"),
        ('{"image": "a.png", "text": "x"}', "line 1: image .*a.png does not exist"),
        ("{", "line 1: expected image, text"),
    ):
        bad.write_text(line + "\n")
        with pytest.raises(DatasetError, match=message):
            read_records(None, None, str(bad), None)


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_hardware_files_name_known_arguments_and_their_deepspeed_file(name, monkeypatch, tmp_path):
    monkeypatch.delenv("VISDYN_HARDWARE", raising=False)
    monkeypatch.chdir(tmp_path)
    hardware = Hardware.load(name)
    assert (hardware.launcher, hardware.parallel_jobs) == ("deepspeed", 1)
    trainer = resolve_hardware(hardware.trainer)
    settings = json.loads(Path(trainer.pop("deepspeed")).read_text())
    assert settings["zero_optimization"]["stage"] == int(name[-1])
    assert set(trainer) <= set(TrainingArguments.__dataclass_fields__)


def test_zero3_refuses_what_it_cannot_keep(world, tmp_path):
    hardware = {"deepspeed": "hardware/deepspeed/zero3.json"}
    with pytest.raises(ValueError, match="no rank can keep a running average"):
        train(world, tmp_path, average_decay=0.9, hardware=hardware)
    with pytest.raises(ValueError, match="same passes on all ranks"):
        train(world, tmp_path, consistency=Consistency(0.5, "generated"), hardware=hardware)
