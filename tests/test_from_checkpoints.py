"""Sample and score again with trained models: which stages that is, what is refused, and that nothing trains."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from visdyn import cli
from visdyn.params import load_params
from visdyn.paths import repository_root
from visdyn.pipeline import from_checkpoints, run_stages
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.from_checkpoints import expected_models, make_profile, measure_again, plan_measuring, sort_stages
from visdyn.pipeline.guards import Entry, read_entries

ROOT = repository_root()
TRAIN = ("base_models", "idm", "fdm", "doundo")
INSTRUMENTS = ("models/autoencoder", "models/clip", "models/dino")


def write_models(folder, chains):
    """Write a small weight file for every model that the embedded default has in these chains."""
    params = load_params(".")
    for chain in chains:
        for _, path in expected_models(params, chain):
            if path in INSTRUMENTS:
                place = folder / path
            elif path.count("/") == 2:
                place = folder / f"{path}-s{chain}"
            else:
                place = folder / path / f"s{chain}"
            place.mkdir(parents=True, exist_ok=True)
            save_file({"weight": np.ones(2, dtype=np.float32)}, place / "model.safetensors")
    return folder


@pytest.fixture
def profile(tmp_path):
    """A profile like a clone after `dvc pull`: parameters, stages, models of every chain, no data."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    text = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("root: .", f"root: {ROOT}", 1))
    return write_models(tmp_path, load_params(".").chains)


@pytest.fixture
def started(monkeypatch):
    """What would have been run."""
    calls = []
    monkeypatch.setattr(from_checkpoints, "run_stages", lambda given: calls.append(given) or 0)
    monkeypatch.setattr(from_checkpoints, "run_command", lambda command, *_: calls.append(command) or 0)
    monkeypatch.setattr("visdyn.reporting.__main__.build_all", lambda *_, **__: pytest.fail("no report was asked for"))
    return calls


def test_the_stages_are_told_apart_by_what_they_read_and_write():
    kinds = sort_stages(read_entries(ROOT))
    assert kinds.train == TRAIN
    assert kinds.feed == ("world", "mining", "annotation")
    assert kinds.measure == ("base_measures", "probing", "idm_evaluation", "verification", "evaluation",
                             "evaluation_doundo", "spatial", "figures")  # fmt: skip


def test_every_model_that_a_full_run_has_is_expected():
    params = load_params(".")
    found = {path for chain in params.chains for _, path in expected_models(params, chain)}
    written = {out for entry in read_entries(ROOT).values() for out in entry.outs if out.startswith("models/")}
    assert {"/".join(path.split("/")[:2]) for path in found} == written
    arms = len(params.fdm.arms) + len(params.fdm.first_chain_arms)
    assert sum(path.startswith("models/fdm/") for path in found) == arms


def test_what_measures_runs_and_what_it_reads_is_made_but_nothing_trains(tmp_path):
    entries = {
        "world": Entry("world", (), (), ("data/kitchen",)),
        "base": Entry("base", ("data/kitchen",), (), ("models/base", "reports/results/base")),
        "probe": Entry("probe", ("data/kitchen", "models/base"), (), ("reports/results/probe",)),
        "figures": Entry("figures", ("reports/results/probe", "reports/results/base"), (), ("reports/index.html",)),
    }
    (tmp_path / "models/base").mkdir(parents=True)
    assert plan_measuring(tmp_path, entries, ["probe"]) == ["world", "probe"]
    (tmp_path / "data/kitchen").mkdir(parents=True)
    assert plan_measuring(tmp_path, entries, ["probe"]) == ["probe"]
    with pytest.raises(StageError, match=r"figures needs reports/results/base, .*: stage base writes it when"):
        plan_measuring(tmp_path, entries, ["probe", "figures"])
    shutil.rmtree(tmp_path / "models")
    with pytest.raises(StageError, match=r"probe needs models/base, .*: stage base writes it when it trains"):
        plan_measuring(tmp_path, entries, ["probe"])
    entries["probe"] = Entry("probe", ("notes.txt",), (), ())
    with pytest.raises(StageError, match=r"needs notes.txt, .*; restore it from git"):
        plan_measuring(tmp_path, entries, ["probe"])


def test_in_the_profile_dvc_runs_what_measures_alone_and_by_force(profile, started):
    shutil.copytree(ROOT / "reports/results", profile / "reports/results")
    assert measure_again(str(profile)) == 0
    (given,) = started
    assert given[-4:] == ["--profile", str(profile), "--only", "--force"]
    assert given[:-4] == ["world", "base_measures", "probing", "mining", "idm_evaluation", "verification", "evaluation",
                          "evaluation_doundo", "spatial", "figures"]  # fmt: skip
    assert not set(given) & set(TRAIN)


def test_only_and_force_are_what_dvc_does_not_train_with(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(run_stages, "run_command", lambda command, *_: asked.append(command) or 1)
    run_stages.main(["probing", "figures", "--only", "--force"])
    assert asked[0][3:] == ["repro", "probing", "figures", "--force", "--single-item"]


def test_a_missing_or_torn_model_is_named_and_nothing_runs(profile, started, capsys):
    shutil.rmtree(profile / "models/idm/s1")
    (profile / "models/fdm/supervised-s2/model.safetensors").write_bytes(b"torn")
    assert cli.main(["report", "--from-checkpoints", "--profile", str(profile)]) == 1
    said = capsys.readouterr().err
    assert "models/idm of chain 1 is not in" in said
    assert "stage idm would train it" in said
    assert "models/fdm/supervised of chain 2 is not whole" in said
    assert said.count("\n") == 1
    assert started == []


def test_models_of_elsewhere_get_a_profile_of_their_own(profile, started, tmp_path_factory, capsys):
    other = write_models(tmp_path_factory.mktemp("other"), [0, 2])
    for name in ("data/kitchen", "reports/results/fdm"):
        (other / name).mkdir(parents=True)
    (other / "reports/results/fdm/training.csv").write_text("theirs\n")
    shutil.copytree(ROOT / "reports/results", profile / "reports/results")
    before = sorted((profile / "reports").rglob("*"))
    place = make_profile(str(profile), other)
    assert "chain 1 is left out: models/base of chain 1 is not in" in capsys.readouterr().out
    assert load_params(str(place)).chains == (0, 2)
    assert (place / "models/idm/s2/model.safetensors").is_file()
    assert (place / "data/kitchen").resolve() == (other / "data/kitchen").resolve()
    assert (place / "reports/results/fdm/training.csv").read_text() == "theirs\n"
    assert not (place / "reports/results/idm").exists()  # this profile's training made other models
    assert (place / "reports/results/recorded").is_dir()  # depends on no model
    assert sorted((profile / "reports").rglob("*")) == before
    assert make_profile(str(profile), other / "models") != place


def test_their_stages_run_one_by_one_and_then_the_report(profile, started, monkeypatch):
    reported = []
    monkeypatch.setattr("visdyn.reporting.__main__.main", lambda given: reported.append(given) or 0)
    assert measure_again(str(profile), profile / "models") == 0
    stages = [command[3] for command in started]
    assert stages == ["world", "base_measures", "probing", "mining", "idm_evaluation", "verification", "evaluation",
                      "evaluation_doundo", "spatial"]  # fmt: skip
    assert len(reported) == 1
    assert ".visdyn/from_checkpoints/models-" in reported[0][1]


def test_a_folder_that_lacks_the_first_chain_is_refused(profile, started, tmp_path_factory):
    other = write_models(tmp_path_factory.mktemp("other"), [1])
    with pytest.raises(StageError, match="models/base of chain 0 is not in"):
        measure_again(str(profile), other)
    with pytest.raises(StageError, match="no/where is no folder"):
        measure_again(str(profile), profile / "no/where")
    assert started == []


def test_a_checkpoint_that_is_named_need_not_lie_here(profile):
    shutil.rmtree(profile / "models/clip")
    (profile / "models/clip").mkdir()
    (profile / "models/clip/reference.json").write_text(json.dumps({"name_or_path": "openai/clip"}))
    assert list(from_checkpoints.missing_models(profile, load_params(str(profile)), 0)) == []
