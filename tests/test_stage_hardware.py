"""Each stage that trains on its own hardware file: which it is, who is told, and that it is read in time."""

from dataclasses import replace

import pytest

from visdyn.params import ParamsError, from_mapping, load_params
from visdyn.params.runtime import TRAINING_STAGES, StageHardware, choose_hardware
from visdyn.paths import repository_root
from visdyn.pipeline import doctor, open_stage, run_stages
from visdyn.pipeline.guards import read_entries
from visdyn.pipeline.stage_hardware import read_hardware, refuse_optimizers

STAGES = ("base_models", "idm", "fdm", "doundo")


@pytest.fixture
def runtime(monkeypatch):
    """The embedded default's, with a file of its own for `doundo`, and nothing in the environment."""
    for name in ("VISDYN_HARDWARE", *(f"VISDYN_HARDWARE_{stage.upper()}" for stage in TRAINING_STAGES)):
        monkeypatch.delenv(name, raising=False)
    return replace(load_params(".").runtime, stage_hardware=StageHardware(doundo="zero3"))


def test_the_stage_goes_before_the_profile_and_the_environment_before_both(runtime, monkeypatch):
    chosen = {stage: choose_hardware(runtime, stage) for stage in ("fdm", "doundo", "evaluation")}
    assert chosen == {"fdm": "cpu", "doundo": "zero3", "evaluation": "cpu"}
    monkeypatch.setenv("VISDYN_HARDWARE", "one_gpu")
    assert {choose_hardware(runtime, stage) for stage in STAGES} == {"one_gpu"}
    monkeypatch.setenv("VISDYN_HARDWARE_DOUNDO", "zero2")
    assert [choose_hardware(runtime, stage) for stage in ("fdm", "doundo")] == ["one_gpu", "zero2"]


def test_every_stage_that_trains_may_have_its_own_and_no_other():
    trains = {name for name, entry in read_entries(repository_root()).items()
              if any(out.startswith("models/") for out in entry.outs)}  # fmt: skip
    assert set(TRAINING_STAGES) == trains | {"robust"}
    with pytest.raises(ParamsError, match=r"'runtime.stage_hardware' has the unknown key 'doundoo'; did you mean"):
        from_mapping(StageHardware, {"doundoo": "zero3"}, "params.yaml", "runtime.stage_hardware")
    with pytest.raises(ParamsError, match=r"'runtime.stage_hardware.idm' must be the name of a file in hardware/"):
        from_mapping(StageHardware, {"idm": "../zero3"}, "params.yaml", "runtime.stage_hardware")


def test_the_files_are_read_by_stage_whatever_the_environment_names_for_the_others(runtime, monkeypatch):
    monkeypatch.setenv("VISDYN_HARDWARE", "zero2")
    monkeypatch.setenv("VISDYN_HARDWARE_DOUNDO", "zero3")
    read = read_hardware(runtime, ["world", "fdm", "doundo", "figures"])
    assert {stage: one.trainer["deepspeed"] for stage, one in read.items()} == {
        "fdm": "hardware/deepspeed/zero2.json",
        "doundo": "hardware/deepspeed/zero3.json",
    }
    assert set(read_hardware(runtime, STAGES, "cpu")) == set(STAGES)
    assert all(one.launcher == "python" for one in read_hardware(runtime, STAGES, "cpu").values())
    monkeypatch.setenv("VISDYN_HARDWARE_DOUNDO", "toaster")
    with pytest.raises(FileNotFoundError, match=r"stage doundo: no hardware file .*toaster.yaml"):
        read_hardware(runtime, STAGES)


def test_a_stage_opens_with_its_own_file(runtime, monkeypatch):
    assert open_stage("doundo", "profiles/paper").settings.runtime.hardware == "zero3"
    assert open_stage("fdm", "profiles/paper").settings.runtime.hardware == "zero2"
    monkeypatch.setenv("VISDYN_HARDWARE_FDM", "cpu")
    assert open_stage("fdm", "profiles/paper").settings.runtime.hardware == "cpu"


def test_a_run_is_refused_before_its_first_stage(runtime, monkeypatch):
    monkeypatch.setattr(run_stages, "run_command", lambda *given: pytest.fail("a stage was started"))
    monkeypatch.setenv("VISDYN_HARDWARE_FDM", "toaster")
    with pytest.raises(FileNotFoundError, match="stage fdm: no hardware file"):
        run_stages.main(["figures"])
    started = []
    monkeypatch.setattr(run_stages, "run_command", lambda *given: started.append(given) or 1)
    run_stages.main(["probing"])  # does not wait for fdm
    assert started


def test_muon_and_deepspeed_are_refused_before_the_first_stage(runtime, monkeypatch):
    monkeypatch.setattr(run_stages, "run_command", lambda *given: pytest.fail("a stage was started"))
    monkeypatch.setenv("VISDYN_HARDWARE_FDM", "cpu_ranks")
    with pytest.raises(ParamsError, match=r"fdm.training has optimizer: muon.*DeepSpeed cuts them apart; write adamw"):
        run_stages.main(["figures"])
    params = load_params(".")
    found = {check.name: check for check in doctor._check_hardware(params)}
    assert found["cpu_ranks.yaml"].present is False
    assert found["cpu.yaml"].present
    refuse_optimizers(load_params("profiles/smoke"), read_hardware(runtime, STAGES, "cpu_ranks"))
    muon = replace(params.base_models.generator, optimizer="muon")
    plain = replace(
        params,
        **{
            name: replace(getattr(params, name), training=replace(getattr(params, name).training, optimizer="adamw"))
            for name in ("idm", "fdm", "doundo")
        },
    )
    named = replace(params.base_models.references, base="somewhere", generator=None)
    plain = replace(plain, base_models=replace(params.base_models, references=named, generator=muon))
    with pytest.raises(ParamsError, match=r"base_models.generator has optimizer: muon"):
        refuse_optimizers(plain, read_hardware(runtime, STAGES, "zero2"))
    named = replace(named, generator="elsewhere")  # nothing of it is trained here
    refuse_optimizers(
        replace(plain, base_models=replace(plain.base_models, references=named)),
        read_hardware(runtime, STAGES, "zero2"),
    )


def test_the_doctor_names_each_file_and_the_stages_it_is_for(runtime, monkeypatch):
    params = load_params("profiles/paper")
    found = {check.name: check for check in doctor._check_hardware(params)}
    assert found["zero2.yaml"].present
    assert "fdm" in found["zero2.yaml"].stages
    assert found["zero3.yaml"].stages == ("doundo",)
    monkeypatch.setenv("VISDYN_HARDWARE_IDM", "toaster")
    missing = {check.name: check for check in doctor._check_hardware(params)}["toaster.yaml"]
    assert missing.present is False
    assert missing.stages == ("idm",)
    assert "no hardware file" in missing.detail
