"""A job file carries the recipe's dataclasses as mappings, and they are read back strictly."""

from __future__ import annotations

import json

import pytest
from toy_bagel import fine_tuning

from visdyn.params import ParamsError
from visdyn.params.doundo import Consistency
from visdyn.training.bagel.recipe import train_bagel
from visdyn.training.bagel.records import BagelData
from visdyn.training.engine.launch import Job
from visdyn.training.engine.trainer import DivergedError
from visdyn.training.engine.worker import main, read_arguments


def written(**changes) -> dict:
    """The arguments as the job file has them."""
    config = fine_tuning(base="models/generator", consistency=Consistency(0.5, t_gate=0.25))
    data = BagelData(pairs="pairs.json")
    job = Job("one", "visdyn.training.bagel.recipe:train_bagel", {"config": config, "data": data, "seed": 0, **changes})
    return json.loads(json.dumps(job.arguments))


def test_what_was_written_is_read_back():
    read = read_arguments(train_bagel, written(output="models/one"), "job.json")
    assert read["config"] == fine_tuning(base="models/generator", consistency=Consistency(0.5, t_gate=0.25))
    assert read["data"] == BagelData(pairs="pairs.json")
    assert (read["seed"], read["output"]) == (0, "models/one")


def test_an_unknown_key_is_refused_by_name():
    arguments = written()
    arguments["config"]["consistency"]["t_gat"] = arguments["config"]["consistency"].pop("t_gate")
    with pytest.raises(ParamsError, match=r"job\.json: section 'config\.consistency' .* did you mean 't_gate'"):
        read_arguments(train_bagel, arguments, "job.json")


def diverge(*, output: str) -> None:
    raise DivergedError(f"training diverged at step 3: the loss is nan; not saved to {output}")


def test_a_training_that_diverged_ends_its_process_with_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"function": f"{__name__}:diverge", "arguments": {"output": "here"}}))
    with pytest.raises(SystemExit) as ended:
        main(str(job))
    assert ended.value.code == "training diverged at step 3: the loss is nan; not saved to here"
