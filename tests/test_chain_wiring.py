"""Chains: each has its own seed at every draw, its own folder, and what its earlier stages made of the same chain."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from visdyn.compute.seeds import sampling_seed, training_seed
from visdyn.datasets.annotated import write_annotated
from visdyn.params import load_params
from visdyn.paths import repository_root
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine
from visdyn.stages import annotation, base_models, doundo, dynamics_settings, fdm, idm, verification
from visdyn.stages.evaluation import specs_aurora
from visdyn.training import runs
from visdyn.training.dynamics_data import DynamicsData, Part

CHAINS = (0, 1, 2)
DRAWN = ("images", "candidates", "labels")


@pytest.fixture
def open_stage(tmp_path, monkeypatch):
    """Return a function that opens a stage of an empty profile with three chains of bases, generators and labels."""
    monkeypatch.setenv("VISDYN_STAGE_KEY", "key")
    for chain in CHAINS:
        for name in ("base", "generator", "idm", "idm_same_labels"):
            runs.member(tmp_path / "models" / name, chain).mkdir(parents=True)
        vqgan = tmp_path / f"models/base/s{chain}/vqgan"
        vqgan.mkdir()
        (vqgan / "config.json").write_text("one tokenizer")
        images = {end: str(tmp_path / f"{end}.png") for end in ("source", "target")}
        where = {"dataset": "ucf", "video": "v", "pair": "1-2", "true_action": f"true {chain}"}
        write_annotated([{**images, **where, "action": f"label {chain}"}], tmp_path / f"data/annotated/s{chain}")
    settings = replace(load_params("profiles/smoke"), chains=CHAINS)

    def open_it(name: str) -> Stage:
        return Stage(name, "x", tmp_path, repository_root(), getattr(settings, name), settings)

    return open_it


@pytest.fixture
def encoded(monkeypatch):
    """Put a reader in place that encodes nothing; what it was asked to encode, by name."""
    asked = {}

    def encode(self, items, name):
        asked[name] = items
        return Part(f"{name}.npz", {"x": len(items)})

    monkeypatch.setattr(DynamicsData, "encode", encode)
    for reader in ("read_aurora", "read_epic"):
        monkeypatch.setattr(DynamicsData, reader, lambda self, root: ["a triplet"])
    return asked


def chain_of(job) -> int | None:
    """Return the chain that a job's output names; None where all chains share what it trains."""
    ending = job.arguments["output"].rpartition("s")[2]
    return int(ending) if ending.isdigit() else None


def seed_of(job) -> int:
    return job.arguments["recipe"]["seed"] if "recipe" in job.arguments else job.arguments["seed"]


def all_jobs(open_stage) -> list:
    jobs = base_models.base_jobs(open_stage("base_models")) + idm.idm_jobs(open_stage("idm"))[0]
    return jobs + fdm.arm_jobs(open_stage("fdm"))[0] + doundo.doundo_jobs(open_stage("doundo"))


def test_no_two_chains_share_a_training_seed_and_no_draw_has_one(open_stage, encoded):
    jobs = all_jobs(open_stage)
    assert {chain_of(job) for job in jobs} == {None, *CHAINS}
    seeds = {chain: {seed_of(job) for job in jobs if chain_of(job) == chain} for chain in (None, *CHAINS)}
    assert all(len(own) == 5 for chain, own in seeds.items() if chain is not None)  # base, generator, IDM, FDM, Do-Undo
    every = [seed for own in seeds.values() for seed in own]
    assert len(set(every)) == len(every)
    drawn = {sampling_seed(0, what, chain) for what in DRAWN for chain in CHAINS}
    assert len(drawn) == len(DRAWN) * len(CHAINS)
    assert not drawn & set(every)
    assert not {*every, *drawn} & {*CHAINS, 0}  # no number of a chain is a seed
    assert max(every) < 2**31  # what NumPy and transformers take


@pytest.mark.parametrize("seed", range(20))
def test_training_and_sampling_seeds_are_even_and_odd_whatever_the_names(seed):
    assert training_seed(seed, "images", 1) % 2 == 0
    assert sampling_seed(seed, "images", 1) % 2 == 1
    assert training_seed(seed, "base", None) != training_seed(seed, "base", 0) != training_seed(seed + 1, "base", 0)


def check_wiring(open_stage, encoded) -> None:
    """Check that every job of a chain starts from what the same chain made."""
    for name, jobs in {
        "base": idm.idm_jobs(open_stage("idm"))[0] + fdm.arm_jobs(open_stage("fdm"))[0],
        "generator": doundo.doundo_jobs(open_stage("doundo")),
    }.items():
        assert {chain_of(job) for job in jobs} == set(CHAINS)
        for job in jobs:
            assert job.arguments["config"]["base"].endswith(f"models/{name}/s{chain_of(job)}")
    for job in fdm.arm_jobs(open_stage("fdm"))[0]:
        chain, (supervised, *synthetic) = chain_of(job), job.arguments["data"]["paths"]
        assert supervised == "supervised.npz"
        for path in synthetic:
            kind = path.partition("-")[0]
            said = {"idm": "label", "shuffled": "label", "true": "true"}[kind]
            assert [item.action for item in encoded[f"{kind}-s{chain}"]] == [f"{said} {chain}"]
            assert path == f"{kind}-s{chain}.npz"
    synthetic = [job for job in fdm.arm_jobs(open_stage("fdm"))[0] if len(job.arguments["data"]["paths"]) > 1]
    assert {chain_of(job) for job in synthetic} == set(CHAINS)


def test_every_job_starts_from_what_its_own_chain_made(open_stage, encoded):
    check_wiring(open_stage, encoded)


@pytest.mark.parametrize("place", ["visdyn.pipeline.stage.of_chain", "visdyn.stages.fdm.of_chain"])
def test_a_chain_that_read_another_would_be_seen(open_stage, encoded, monkeypatch, place):
    monkeypatch.setattr(place, lambda path, chain: runs.of_chain(path, 0))
    with pytest.raises(AssertionError):
        check_wiring(open_stage, encoded)


def test_labels_and_candidates_come_from_the_chain_s_own_models_and_seeds(open_stage, monkeypatch):
    labellers, jobs = [], []
    monkeypatch.setattr(annotation, "annotate_pairs", lambda labeller, *rest: labellers.append(labeller) or [])
    annotation.label_pairs(open_stage("annotation"), [], Quarantine())
    assert [labeller.model.rpartition("/")[2] for labeller in labellers] == ["s0", "s1", "s2"]
    assert [labeller.decoding.seed for labeller in labellers] == [sampling_seed(0, "labels", c) for c in CHAINS]

    monkeypatch.setattr(verification, "map_gpus", lambda function, given, shared: jobs.extend(given) or [])
    found = [("supervised", chain, f"models/fdm/supervised-s{chain}") for chain in CHAINS]
    with pytest.raises(ValueError, match="No objects to concatenate"):
        verification.candidate_tables(open_stage("verification"), found, [])
    assert [job.idm.rpartition("/")[2] for job in jobs] == ["s0", "s1", "s2"]
    assert [job.seed for job in jobs] == [sampling_seed(0, "candidates", chain) for chain in CHAINS]
    assert len({job.scratch for job in jobs}) == 3

    stage, jobs[:] = open_stage("verification"), []
    twice = replace(stage, params=replace(stage.params, repeats=2))
    with pytest.raises(ValueError, match="No objects to concatenate"):
        verification.candidate_tables(twice, found, [])
    assert [(job.chain, job.draw) for job in jobs] == [(chain, draw) for chain in CHAINS for draw in (0, 1)]
    seeds = [job.seed for job in jobs]
    assert seeds[::2] == [sampling_seed(0, "candidates", chain) for chain in CHAINS]
    assert len(set(seeds)) == len({job.scratch for job in jobs}) == 6
    assert all(seed % 2 for seed in seeds)  # no training has one


def test_evaluation_draws_with_each_chain_s_own_models_and_seed(open_stage, tmp_path):
    for chain in CHAINS:
        (tmp_path / f"models/fdm/supervised-s{chain}").mkdir(parents=True)
    found, absent = specs_aurora._aurora_checkpoints(open_stage("evaluation"))
    own = {(one.name, one.chain): one for one in found}
    assert [chain for name, chain in own if name == "tokenizer_ceiling"] == [0]  # the bases hold one tokenizer
    for chain in CHAINS:
        assert own["zero_shot", chain].path.endswith(f"models/base/s{chain}")
        assert own["supervised", chain].path.endswith(f"models/fdm/supervised-s{chain}")
        for name in ("zero_shot", "supervised"):
            assert own[name, chain].noise_seed == sampling_seed(0, "images", chain)
    missing = {(one.name, one.chain) for one in absent}
    assert {("synthetic", 2), ("synthetic_weighted_true", 0)} <= missing
    assert ("synthetic_weighted_true", 1) not in missing  # asked for in the first chain alone


def test_what_has_no_runs_serves_every_chain(open_stage, tmp_path):
    stage = open_stage("probing")
    (tmp_path / "models/mine").mkdir()
    (tmp_path / "models/named").mkdir()
    (tmp_path / "models/named/reference.json").write_text(json.dumps({"name_or_path": "org/model"}))
    for name, found in {
        "models/mine": str(tmp_path / "models/mine"),
        "models/named": "org/model",
        "org/other": "org/other",
    }.items():
        assert {stage.reference(name, chain) for chain in CHAINS} == {found}
        assert stage.in_chains(name) == [(0, found)]  # once: measured again it would count as another draw


def test_a_folder_of_runs_gives_each_chain_its_own(open_stage, tmp_path):
    stage, models = open_stage("probing"), tmp_path / "models"
    for chain in CHAINS:
        (models / f"fdm/synthetic-s{chain}").mkdir(parents=True)
        (models / f"fdm/synthetic_weighted-s{chain}").mkdir()
    assert stage.in_chains("models/base") == [(chain, str(models / f"base/s{chain}")) for chain in CHAINS]
    assert stage.in_chains("models/fdm/synthetic")[2] == (2, str(models / "fdm/synthetic-s2"))
    assert stage.reference("models/base") == str(models / "base/s0")
    assert stage.in_chains("models/fdm/synthetic-s1") == [(0, str(models / "fdm/synthetic-s1"))]
    (models / "fdm/synthetic-s2").rmdir()
    with pytest.raises(FileNotFoundError, match=r"chain 2 has no .*synthetic-s2, only synthetic-s0, synthetic-s1 are"):
        stage.in_chains("models/fdm/synthetic")


def test_bases_with_tokenizers_of_their_own_are_refused(open_stage, tmp_path):
    stage = open_stage("idm")
    assert dynamics_settings.setting(stage)["base"] == "models/base"
    dynamics_settings.open_data(stage)
    (tmp_path / "models/base/s1/vqgan/config.json").write_text("another tokenizer")
    with pytest.raises(StageError, match="hold image tokenizers of their own"):
        dynamics_settings.open_data(stage)


def _with(stage: Stage, **changes) -> Stage:
    """Return a stage whose section has other values."""
    return replace(stage, params=replace(stage.params, **changes))


def test_the_second_idm_is_trained_where_it_is_asked_for(open_stage, encoded, tmp_path):
    stage = open_stage("idm")
    both, one = (idm.idm_jobs(_with(stage, same_labels=wanted)) for wanted in (True, False))
    assert {job.name.partition("-s")[0] for job in both[0]} == {"idm", "idm_same_labels"}
    assert {job.name.partition("-s")[0] for job in one[0]} == {"idm"}
    assert set(one[1]["model"]) == {"idm"}
    assert (tmp_path / "models/idm_same_labels").is_dir()  # dvc.yaml declares it


def test_every_weight_of_the_consistency_loss_is_a_variant_with_its_name(open_stage):
    stage = open_stage("doundo")
    jobs = doundo.doundo_jobs(_with(stage, weights=(0.4, 1.0)))
    found = {job.name: job.arguments["config"]["consistency"]["weight"] for job in jobs if chain_of(job) == 0}
    expected = {"doundo": 0.0, "doundo_c": 0.5, "doundo_c_0.4": 0.4, "doundo_c_1": 1.0}
    assert found == {runs.run_name(name, 0): weight for name, weight in expected.items()}
    assert len(jobs) == len(CHAINS) * len(expected)
    folder = stage.path("models/doundo")
    for job in jobs:
        (folder / job.name).mkdir(parents=True)
    assert {name for name, _, _ in runs.runs_in(folder)} == set(expected)  # as the evaluation finds them
    with pytest.raises(ValueError, match="repeat"):
        _with(stage, weights=(0.4, 0.4))
    with pytest.raises(ValueError, match="consistency is null"):
        _with(stage, weights=(0.4,), consistency=None)
