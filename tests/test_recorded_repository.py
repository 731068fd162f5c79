"""A clone of the authors' repository, played by a miniature of its layout in made-up words and pictures."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_evidence import FIRST, IMAGES, SECOND, write_evidence

from visdyn.evaluation.recorded import evidence as evidence_of
from visdyn.evaluation.recorded.evidence import SUBSETS
from visdyn.evaluation.recorded.repository_files import RepositoryError, check_pictures, compare_replies
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.stage import open_stage
from visdyn.stages import recorded
from visdyn.trajectory import Trajectory

SHAPES = (
    '{{"score": [{0}, {1}], "reasoning": "made up"}}',
    "```python\n{{“score” : [{0}, {1}], “reasoning” : “made up”}}\n```",
)
L1 = 51 / 255


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write_metrics(folder, numbers):
    content = {}
    for subset, pairs in numbers.items():
        finals = [min(pair) for pair in pairs]
        predictions = [{"final_score": min(pair), "response": SHAPES[place % 2].format(*pair)}
                       for place, pair in enumerate(pairs)]  # fmt: skip
        content[subset] = IMAGES | {"L1": L1, "#sample": 2, "#gpt4o_valid": len(pairs), "GPT4o": np.mean(finals)}
        content[subset]["GPT4o_all_predictions"] = predictions
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "all_evaluation_metrics.json").write_text(json.dumps(content))


def write_picture(path, grey):
    Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(path)


@pytest.fixture
def clone(tmp_path):
    """Two commits: `first` is whole at the older one and changed since; `second` came with the newer one."""
    root = tmp_path / "clone"
    write_metrics(root / "outputs/out-first", FIRST)
    for place in range(len(SUBSETS)):
        for item in range(2):
            write_picture(root / f"outputs/out-first/{50 * place + item}.png", 51)
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "older")
    older = git(root, "rev-parse", "HEAD")
    write_metrics(root / "outputs/out-first", FIRST | {"ag": [(0, 0), (0, 0)]})
    write_metrics(root / "outputs/out-second", SECOND)
    for place in range(len(SUBSETS)):
        write_picture(root / f"outputs/out-first/{50 * place}.png", 90)
        write_picture(root / f"outputs/out-second/{50 * place}.png", 51)
        write_picture(root / f"outputs/out-second/{50 * place + 1}.png", 51 if place else 60)
    (root / "outputs/out-second/100.png").unlink()
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "newer")
    return root, {"first": older, "second": git(root, "rev-parse", "HEAD")}


def evidence(tmp_path, commits):
    folder = write_evidence(tmp_path / "recorded", commits, {"first": L1, "second": L1})
    return evidence_of.load(folder)


@pytest.fixture
def items(tmp_path):
    target = tmp_path / "target.png"
    write_picture(target, 0)
    return [Trajectory(target, "do it", target, subset, str(50 * place + item))
            for place, subset in enumerate(SUBSETS) for item in range(2)]  # fmt: skip


def test_replies_are_read_at_their_own_commit(tmp_path, clone):
    root, commits = clone
    found = compare_replies(root, evidence(tmp_path, commits))
    assert found["replies"].sum() == found["recorded"].sum() == 19
    assert found[["unread", "different", "aggregates_different"]].to_numpy().sum() == 0
    later = compare_replies(root, evidence(tmp_path, commits | {"first": commits["second"]}))
    changed = later[later["different"] > 0]
    assert changed[["system", "subset", "different", "aggregates_different"]].to_numpy().tolist() == [
        ["first", "ag", 2, 1]
    ]


def test_an_unread_and_a_missing_reply_are_counted(tmp_path, clone):
    root, commits = clone
    path = root / "outputs/out-second/all_evaluation_metrics.json"
    content = json.loads(path.read_text())
    content["ag"]["GPT4o_all_predictions"][0]["response"] = "five of ten"
    del content["whatsup"]["GPT4o_all_predictions"][1]
    path.write_text(json.dumps(content))
    git(root, "commit", "-q", "-am", "worse")
    found = compare_replies(root, evidence(tmp_path, commits | {"second": git(root, "rev-parse", "HEAD")}))
    rows = found.set_index(["system", "subset"])
    assert rows.loc[("second", "ag"), ["unread", "different"]].tolist() == [1, 1]
    assert rows.loc[("second", "whatsup"), ["replies", "unread", "different"]].tolist() == [1, 0, 1]
    assert rows["different"].sum() == 2


def test_pictures_count_where_their_subset_has_the_recorded_l1(tmp_path, clone, items):
    root, commits = clone
    found = check_pictures(root, evidence(tmp_path, commits), items, 1e-6)
    assert found[found["system"] == "first"]["counts"].tolist() == [1] * 10  # of the older commit, not of the folder
    second = found[found["system"] == "second"].set_index("index")
    assert second.loc[[0, 1], "reason"].unique().tolist() == ["the subset's mean L1 is not the recorded one"]
    assert second.loc[[100, 101], "reason"].unique().tolist() == ["1 of 2 pictures with a target are at hand"]
    assert np.isnan(second.loc[100, "l1"])
    assert second.loc[[50, 51, 150, 151, 200, 201], "counts"].tolist() == [1] * 6
    mixed = check_pictures(root, evidence(tmp_path, commits | {"first": commits["second"]}), items, 1e-6)
    assert mixed[mixed["system"] == "first"]["counts"].sum() == 0


@pytest.mark.parametrize("problem", ["archive", "commit", "file", "layout"])
def test_another_repository_is_refused(tmp_path, clone, problem):
    root, commits = clone
    if problem == "archive":
        root = tmp_path / "target-folder"
        root.mkdir()
    if problem == "commit":
        commits["first"] = "1" * 40
    if problem == "file":
        commits["second"] = commits["first"]
    if problem == "layout":
        (root / "outputs/out-second/all_evaluation_metrics.json").write_text('{"magicbrush": {}}')
        git(root, "commit", "-q", "-am", "other")
        commits["second"] = git(root, "rev-parse", "HEAD")
    said = {
        "archive": "is no git clone",
        "commit": "no git clone with commit 1111",
        "file": "has no outputs/out-second",
        "layout": "magicbrush lacks 'L1'",
    }[problem]
    with pytest.raises(RepositoryError, match=said):
        compare_replies(root, evidence(tmp_path, commits))


def test_without_a_clone_both_tables_are_headers_and_aurora_alone_is_refused(tmp_path, clone):
    root, commits = clone
    own = evidence(tmp_path, commits)
    stage = open_stage("recorded")
    assert recorded.compare_repository(stage, own).empty
    assert recorded.check_pictures(stage, own).empty
    named = replace(stage, params=replace(stage.params, repository=str(root)))
    assert len(recorded.compare_repository(named, own)) == 10
    with pytest.raises(StageError, match="name the clone"):
        recorded.check_pictures(replace(stage, params=replace(stage.params, aurora="x")), own)
