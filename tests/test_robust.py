"""`make robust`: experiments change what they say and nothing else, keep what exists, and make stale things anew."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_chain_wiring import CHAINS, chain_of, encoded, open_stage  # noqa: F401

from visdyn.compute.seeds import sampling_seed
from visdyn.datasets.annotated import read_annotated, write_annotated
from visdyn.evaluation.systems.outputs import model_digest
from visdyn.params import load_params
from visdyn.reporting.results import Results
from visdyn.reporting.tables import leaderboard_table
from visdyn.stages import robust
from visdyn.stages.doundo import doundo_jobs
from visdyn.stages.fdm import arm_jobs
from visdyn.stages.robust import (
    Experiment,
    boards,
    changed,
    forward_scores,
    list_experiments,
    make_labels,
    open_experiment,
    training_jobs,
)


@pytest.fixture
def run(open_stage):  # noqa: F811
    """The stage of a profile with three chains; its `fdm` has the default's whole arms."""
    robust._digest_folder.cache_clear()
    return replace(open_stage("fdm"), name="robust")


def experiment(name: str, settings) -> Experiment:
    return next(one for one in list_experiments(settings, 600) if one.name == name)


def test_experiments_have_names_of_their_own_and_change_what_they_say():
    settings = load_params()
    found = list_experiments(settings, 600)
    assert len({one.name for one in found}) == len(found)
    same = experiment("synthetic_weighted_same_epochs", settings)
    epochs = settings.fdm.training.steps * settings.fdm.training.batch_size / 600
    assert same.changes == {"fdm": {"training": {"steps": None, "epochs": round(epochs)}}}
    weights = {one.changes["doundo"]["consistency"]["weight"] for one in found if one.section == "doundo"}
    assert weights | {0, settings.doundo.consistency.weight} == {0, 0.4, 0.5, 0.6, 0.8, 1}  # the paper's grid


def test_a_change_within_a_section_leaves_the_rest_of_it():
    fdm = load_params().fdm
    other = changed(fdm, {"floor": 0.25, "training": {"steps": None, "epochs": 3}})
    assert (other.floor, other.training.epochs, other.training.steps) == (0.25, 3, None)
    assert asdict(other) | {"floor": fdm.floor, "training": 0} == asdict(fdm) | {"training": 0}
    assert asdict(other.training) | {"steps": 0, "epochs": 0} == asdict(fdm.training) | {"steps": 0, "epochs": 0}
    with pytest.raises(TypeError, match="flor"):
        changed(fdm, {"flor": 0.25})


def test_an_experiment_sees_the_run_and_makes_its_own(run):
    own = open_experiment(run, experiment("letter", run.settings), "fdm")
    assert own.root.parent == run.root / "data/kept/robust"
    assert own.path("models/base/s1").resolve() == run.path("models/base/s1")
    assert not own.path("data/annotated").exists()
    assert (own.settings.mining.mode, own.params.arms) == ("top_then_space", ("synthetic_weighted_nofloor",))
    other = open_experiment(run, experiment("floor_0.25", run.settings), "fdm")
    assert other.path("data/annotated/s1").resolve() == run.path("data/annotated/s1")
    assert other.settings.mining == run.settings.mining


def test_what_exists_is_kept_and_what_is_stale_is_made_anew(run, monkeypatch):
    one = experiment("floor_0.25", run.settings)
    first = open_experiment(run, one, "fdm")
    monkeypatch.setenv("VISDYN_STAGE_KEY", "another run of the notebook")
    assert open_experiment(run, one, "fdm").root == first.root
    assert open_experiment(run, one, "fdm").scratch("x") == first.scratch("x")
    longer = replace(run.settings, fdm=changed(run.settings.fdm, {"training": {"steps": 7}}))
    assert open_experiment(replace(run, settings=longer), one, "fdm").root != first.root
    (run.path("models/base/s1") / "model.safetensors").write_text("trained again")
    robust._digest_folder.cache_clear()
    assert open_experiment(run, one, "fdm").root != first.root


def test_jobs_are_the_default_s_but_for_the_change(run, open_stage, encoded):  # noqa: F811
    chosen = [experiment(name, run.settings) for name in ("floor_0.25", "synthetic_weighted_true", "doundo_c_0.8")]
    jobs, table = training_jobs(run, chosen)
    assert len({job.name for job in jobs}) == len(jobs) == 3 * len(CHAINS)
    default = {job.name: job for job in [*arm_jobs(open_stage("fdm"))[0], *doundo_jobs(open_stage("doundo"))]}
    for job in jobs:
        folder, chain = job.name.rpartition("-s")[::2]
        name = folder.rpartition("-")[0]
        arm = {"floor_0.25": "synthetic_weighted", "doundo_c_0.8": "doundo_c"}.get(name, "synthetic_weighted")
        usual, own = default[f"{arm}-s{chain}"].arguments, job.arguments
        assert own["seed"] == usual["seed"]
        assert own["config"]["training"] == usual["config"]["training"]
        assert own["config"]["base"].endswith(usual["config"]["base"].rpartition("models/")[2])
        assert chain_of(job) == int(chain)
        if name == "floor_0.25":
            assert own["data"] == usual["data"] | {"floor": 0.25}
        if name == "doundo_c_0.8":
            assert own["config"]["consistency"] == usual["config"]["consistency"] | {"weight": 0.8}
    by_system = table.set_index(["system", "chain"])
    assert by_system.loc[("floor_0.25", 2), ["run", "floor"]].tolist() == ["synthetic_weighted", 0.25]
    assert pd.isna(by_system.loc[("doundo_c_0.8", 0), "num_synthetic"])


def test_the_paper_s_share_is_of_all_triplets(run):
    for chain in CHAINS:
        folder = run.path(f"data/annotated/s{chain}")
        (row,) = read_annotated(folder)
        write_annotated([row | {"pair": str(number)} for number in range(200)], folder)
    one = experiment("synthetic_weighted_paper_share", run.settings)
    assert make_labels(run, [one], 600).empty  # none was mined anew
    kept = read_annotated(open_experiment(run, one, "fdm").path("data/annotated/s1"))
    assert len(kept) / (600 + len(kept)) == pytest.approx(0.12, abs=0.001)
    assert len(read_annotated(run.path("data/annotated/s1"))) == 200
    other = read_annotated(open_experiment(run, one, "fdm").path("data/annotated/s2"))
    assert [row["pair"] for row in kept] != [row["pair"] for row in other]
    assert json.dumps(kept) != json.dumps(other)


def test_a_checkpoint_is_drawn_again_with_other_noise_and_the_rest_with_its_chain_s(run, monkeypatch):
    asked = []

    def sampled(items, checkpoints, *settings):
        asked.append(checkpoints)
        return []

    columns = ["system", "chain", "subset", "id", "metric", "value"]
    monkeypatch.setattr(robust, "_sibling", lambda stage, section: stage)
    monkeypatch.setattr(robust, "forward_evaluation", lambda stage: SimpleNamespace(trajectories=[]))
    monkeypatch.setattr(robust, "sample_models", sampled)
    monkeypatch.setattr(robust, "score_forward", lambda evaluation, systems: pd.DataFrame(columns=columns))
    forward_scores(run, [experiment("letter", run.settings)])
    own = {(one.name, one.chain): one.noise_seed for one in asked[0]}
    assert own["letter", 1] == sampling_seed(run.seed, "images", 1)
    assert own["supervised", 0] == sampling_seed(run.seed, "images", 0)  # the default's own draw, found again
    seeds = [{one.noise_seed for one in checkpoints if one.name == "supervised"} for checkpoints in asked]
    assert len(set.union(*seeds)) == len(asked) == 3
    assert [len(checkpoints) for checkpoints in asked] == [len(CHAINS) + 2, 2, 2]


def forward_table(levels: dict[str, float], draw: bool) -> pd.DataFrame:
    """Scores of four items in three chains, around each system's level."""
    random, rows = np.random.default_rng(0), []
    for system, level in levels.items():
        name, _, number = system.partition(" ")
        for chain in (0,) if number else CHAINS:
            rows += [(name, chain, *([int(number or 0)] if draw else []), "ag", str(item), "score",
                      level + random.normal(0, 0.01)) for item in range(4)]  # fmt: skip
    return pd.DataFrame(
        rows, columns=["system", "chain", *(["draw"] if draw else []), "subset", "id", "metric", "value"]
    )


def test_experiments_stand_beside_the_default_s_systems_in_the_board_and_in_the_report(run):
    default = forward_table({"supervised": 3.0, "synthetic_weighted": 4.0, "copy": 0.0}, draw=False)
    run.results("evaluation").mkdir(parents=True)
    default.to_csv(run.results("evaluation") / "fdm_scores.csv", index=False)
    drawn = {"weights_permuted": 2.0, "supervised": 3.0, "supervised 1": 3.5, "letter": 1.0}
    board = boards(run, forward_table(drawn, draw=True), pd.DataFrame())
    rows = board.set_index("system")
    assert rows.index.tolist() == [
        "synthetic_weighted",
        "supervised_draw_1",
        "supervised",
        "weights_permuted",
        "letter",
    ]
    assert rows.loc["weights_permuted", "difference"] == pytest.approx(-2, abs=0.05)
    assert rows["num_chains"].to_dict()["supervised_draw_1"] == 1
    assert rows.loc["supervised", "mean"] == pytest.approx(default.query("system == 'supervised'")["value"].mean())

    folder = run.results()
    board.to_csv(folder / "leaderboard.csv", index=False)
    same, own = "quiet_around_peak", "top_then_space"
    runs = [
        ("weights_permuted", "weights_permuted", 0, 600, 845, "permuted", 0.5, 900, same),
        ("letter", "synthetic_weighted_nofloor", 0, 600, 700, "recognition", 0.0, 900, own),
    ]
    pd.DataFrame(runs, columns=robust.RUNS).to_csv(folder / "runs.csv", index=False)
    shown = leaderboard_table.robust(Results(run.root)).set_index("system")
    told = shown["learns from"]
    assert told["C-FDM, weights permuted"] == "600 labelled, 845 synthetic (quiet_around_peak); floor 0.5; 900 steps"
    assert told["C-FT"] == told["C-FT, drawn again (1)"] == "the default"
    assert "C-FDM to the letter: its key-frame rule, no floor" in shown.index


def test_the_digest_of_a_run_s_folder_is_of_its_content(run):
    path = run.path("models/base")
    assert robust._digest_folder(path) == model_digest(str(path))
