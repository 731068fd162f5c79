"""`make doctor`: what a profile needs, and what of it is missing."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
import yaml

from visdyn.datasets.inventory import ANNOTATIONS
from visdyn.params import load_params
from visdyn.paths import repository_root
from visdyn.pipeline.doctor import (
    BENCHMARKS,
    DESCRIPTIONS,
    Check,
    examine,
    find_checkpoint,
    main,
    named_checkpoints,
    render,
)
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.item_stages import stages_of_item

EXTERNAL = repository_root() / "data/external"


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache, and no data."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VISDYN_DATA", raising=False)
    return tmp_path / "cache"


def by_name(checks):
    return {(check.kind, check.name): check for check in checks}


def test_the_embedded_default_needs_nothing(no_cache, capsys):
    assert main([]) == 0
    assert "stages that wait for something: none" in capsys.readouterr().out
    assert named_checkpoints(load_params(".")) == {}


def test_the_paper_profile_lacks_data_and_weights_here_and_says_how_to_get_them(no_cache):
    checks = by_name(examine("profiles/paper"))
    aurora = checks["data", "aurora"]
    assert aurora.present is False
    assert "the environment variable in it is unset" in aurora.detail
    assert "git clone https://github.com/McGill-NLP/AURORA" in aurora.command
    anole = checks["model", "leloy/Anole-7b-v0.1-hf"]
    assert anole.present is False
    assert {"idm", "fdm"} <= set(anole.stages)
    assert anole.command == "hf download leloy/Anole-7b-v0.1-hf"
    assert "Chameleon Research License" in anole.licence
    page = render(list(checks.values()))
    assert "$ hf download leloy/Anole-7b-v0.1-hf" in page
    assert {"probing", "idm", "mining", "spatial"} <= set(page.splitlines()[-1].replace(",", "").split())
    assert checks["model", "roberta-large"].command == "hf download roberta-large"
    assert "wget http://images.cocodataset.org" in checks["data", "spatial.spatialmqa_images"].command
    assert main(["--profile", "profiles/paper", "--json"]) == 1


def test_a_folder_that_must_be_put_together_has_its_own_commands(no_cache):
    liquid = by_name(examine("profiles/paper_liquid"))["model", "weights/liquid"]
    assert liquid.present is False
    assert liquid.detail.startswith("no such folder")
    assert {"probing", "idm", "fdm"} <= set(liquid.stages)
    assert liquid.command.splitlines()[1:] == [
        "hf download Junfeng5/Liquid_V1_7B --local-dir liquid",
        'hf download Junfeng5/Liquid_demo --repo-type space --include "chameleon/vqgan.*" --local-dir demo',
        "mv demo/chameleon liquid/vqgan",
    ]


@pytest.mark.parametrize("profile", ["paper", "paper_liquid"])
def test_every_checkpoint_of_the_paper_profile_is_described(profile):
    described = {entry["id"] for entry in yaml.safe_load((EXTERNAL / "models.yaml").read_text())["models"]}
    assert set(named_checkpoints(load_params(f"profiles/{profile}"))) <= described


def test_every_data_set_has_a_description_with_command_size_and_licence():
    assert set(DESCRIPTIONS) == set(ANNOTATIONS)
    for files in [*DESCRIPTIONS.values(), BENCHMARKS.values()]:
        for name in files:
            entry = yaml.safe_load((EXTERNAL / f"{name}.yaml").read_text())
            assert all(entry[key] for key in ("command", "size", "licence", "used_by"))


def test_data_that_are_there_are_found(no_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("VISDYN_DATA", str(tmp_path))
    (tmp_path / "doundo").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"doundo/annotations_{split}.json").write_text("[]")
    checks = by_name(examine("profiles/paper"))
    assert checks["data", "doundo"].present
    assert checks["data", "doundo"].detail.endswith("2 files")
    assert "no test.json, data/magicbrush/train.json" in checks["data", "aurora"].detail


def test_files_that_are_no_weights_are_named_and_their_stages_wait(no_cache, tmp_path):
    snapshot = no_cache / "models--leloy--Anole-7b-v0.1-hf/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    (snapshot / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    anole = by_name(examine("profiles/paper"))["model", "leloy/Anole-7b-v0.1-hf"]
    assert anole.present is False
    assert "model.safetensors is a git-lfs pointer" in anole.detail
    assert anole.command
    (snapshot / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert by_name(examine("profiles/paper"))["model", "leloy/Anole-7b-v0.1-hf"].present


def test_a_checkpoint_is_found_in_a_folder_and_in_the_cache_only_with_weights(no_cache, tmp_path):
    folder = tmp_path / "models/mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert find_checkpoint("models/mine", tmp_path) is None
    (folder / "model.safetensors").write_bytes(b"")
    assert find_checkpoint("models/mine", tmp_path) == folder
    snapshot = no_cache / "models--org--name/snapshots/abc"
    snapshot.mkdir(parents=True)
    (no_cache / "models--org--name/refs").mkdir()
    (no_cache / "models--org--name/refs/main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    assert find_checkpoint("org/name", tmp_path) is None
    (snapshot / "model.safetensors").write_bytes(b"")
    assert find_checkpoint("org/name", tmp_path).samefile(snapshot)


@pytest.mark.parametrize(
    ("machines", "said"),
    [
        ({}, "; no results here name theirs"),
        ({"aaa": {}}, "the results here have these bytes"),
        ({"bbb": {}}, "made by bbb (native): trained models will have other bytes"),
        ({"bbb": {"portable": True}}, "made by bbb (portable): trained models will have other bytes; PORTABLE=1 may"),
    ],
)
def test_the_family_of_machines_is_compared_with_the_results(tmp_path, monkeypatch, machines, said):
    from visdyn.pipeline import doctor
    from visdyn.pipeline.fingerprint import Machine

    machine = Machine("aaa", {}, "a processor", ("avx2",), "AVX2", {}, {}, portable=False)
    monkeypatch.setattr(doctor, "recall_machine", lambda scratch: machine)
    monkeypatch.setattr(doctor, "profile_root", lambda profile: tmp_path)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/machine.json").write_text(json.dumps({"machines": machines, "stages": {}}))
    detail = doctor._check_arithmetic(".").detail
    assert detail.startswith("aaa (native), a processor, AVX2")
    assert said in detail


def test_keys_are_looked_for_and_never_shown(no_cache, monkeypatch, capsys):
    from visdyn.pipeline import doctor

    monkeypatch.setattr(doctor, "_walk_texts", lambda value: iter(["OPENAI_API_KEY", "models/base"]))
    monkeypatch.setenv("OPENAI_API_KEY", "secret-value")
    main(["--profile", "profiles/paper", "--json"])
    out = capsys.readouterr().out
    checks = {check["name"]: check for check in json.loads(out)}
    assert checks["OPENAI_API_KEY"]["present"] is True
    assert os.environ["OPENAI_API_KEY"] not in out


def test_one_item_needs_its_own_stages_and_nothing_of_the_other_paper(no_cache, capsys):
    assert main(["--profile", "profiles/paper", "--item", "b_table2"]) == 1
    out = capsys.readouterr().out
    assert "leloy/Anole-7b-v0.1-hf" in out
    for other in ("ByteDance-Seed/BAGEL-7B-MoT", "Qwen/Qwen-Image-Edit-2509", "data doundo"):
        assert other not in out
    last = out.rstrip().splitlines()[-2:]
    assert last == ["  $ visdyn run --profile profiles/paper --item b_table2",
                    "  $ visdyn report --profile profiles/paper"]  # fmt: skip
    waits = next(line for line in out.splitlines() if line.startswith("b_table2 waits for"))
    stages = waits.partition(": ")[2].split(", ")
    assert {"fdm", "idm", "evaluation", "spatial"} <= set(stages)
    assert not {"doundo", "evaluation_doundo", "figures"} & set(stages)


def test_an_item_that_is_none_or_needs_no_stage_is_refused_in_words():
    known = ["world", "fdm", "evaluation", "spatial"]
    assert stages_of_item("b_table2", known) == ["evaluation", "spatial"]
    with pytest.raises(StageError, match="no item 'b_table99'; one of b_"):
        stages_of_item("b_table99", known)
    with pytest.raises(StageError, match="computed from no stage's results"):
        stages_of_item("b_figure1", known)


def test_disk_counts_what_is_missing(monkeypatch, tmp_path):
    from visdyn.pipeline import doctor

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=60e9))
    missing = [Check("model", "a/b", False, "", size="about 14 GB in bf16"),
               Check("data", "clips", False, "", size="UCF-101: about 6.5 GB, 13,320; Moments: one million"),
               Check("model", "here", True, "", size="about 900 GB")]  # fmt: skip
    found = doctor._check_disk(".", missing)
    assert found.present is True
    assert "what is missing takes 20 GB" in found.detail or "takes 21 GB" in found.detail
    assert "no stated size: clips" in found.detail
    assert doctor._check_disk(".", [*missing, Check("model", "c/d", False, "", size="62 GB")]).present is False


def test_gated_checkpoints_ask_for_a_login(monkeypatch):
    import huggingface_hub

    from visdyn.pipeline import doctor

    gated = Check("model", "facebook/chameleon-7b", False, "", ("probing",), licence="Chameleon (gated)")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    (login,) = doctor._check_login([gated])
    assert login.present is False
    assert login.command == "hf auth login"
    assert login.stages == ("probing",)
    assert "https://huggingface.co/facebook/chameleon-7b" in login.detail
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret-token")
    (login,) = doctor._check_login([gated])
    assert login.present is True
    assert "secret" not in login.detail
    assert not list(doctor._check_login([Check("model", "open/one", False, "", licence="MIT")]))


def test_a_torch_without_cuda_on_a_machine_with_gpus_is_named(monkeypatch):
    from visdyn.pipeline import doctor

    monkeypatch.setattr(doctor, "_ask_driver", lambda: "nvidia-smi sees 8: H100, 81559 MiB, 550.54")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    params = load_params("profiles/paper")
    found = next(doctor._check_hardware(params))
    assert found.present is False
    assert "this torch is built for the CPU" in found.detail
    assert found.command.startswith("pip install")
    assert {"probing", "annotation", "evaluation"} <= set(found.stages)
