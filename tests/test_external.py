"""Measures of real public data: the committed results, their provenance, and what the command says."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from visdyn.evaluation.benches.aurora_copy import PUBLISHED_COPY_L1
from visdyn.paths import repository_root, shared_data
from visdyn.reporting import published
from visdyn.reporting.provenance import sha256
from visdyn.stages import external

COMMITTED = repository_root() / external.FOLDER
EPIC_HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)


def epic_row(index, verb, noun):
    times = "00:00:01.00,00:00:01.00,00:00:02.00,60,120"
    return f"P01_01_{index},P01,P01_01,{times},{verb} {noun},{verb},0,{noun},0,['{noun}'],[0]\n"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout without shared data; AURORA has two kubric-like items of every subset, one without its target."""
    root = tmp_path / "checkout"
    shutil.copytree(repository_root() / "data/external", root / "data/external")
    (root / "params.yaml").write_text("root: .\n")
    monkeypatch.setenv("VISDYN_ROOT", str(root))
    monkeypatch.setenv("VISDYN_SHARED", str(tmp_path / "nothing"))
    aurora, items = tmp_path / "aurora", []
    for subset in PUBLISHED_COPY_L1:
        folder = aurora / "data" / subset / "images"
        folder.mkdir(parents=True)
        for name, grey in (("a", 0), ("b", 51)):
            Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(folder / f"{name}.png")
        for target in ("b", "lost") if subset == "something" else ("b",):
            place = f"data/{subset}/images"
            items.append(
                {"instruction": "x", "input": f"{place}/a.png", "output": f"{place}/{target}.png", "task": subset}
            )
    (aurora / "test.json").write_text(json.dumps(items))
    rows = [("pick-up", "cup"), ("pick-up", "cup"), ("open", "door"), ("wash", "cup")]
    (tmp_path / "epic.csv").write_text(EPIC_HEADER + "".join(epic_row(i, *row) for i, row in enumerate(rows)))
    return tmp_path


def run(checkout, *arguments):
    code = external.main([str(argument) for argument in arguments])
    folder = checkout / "checkout" / external.FOLDER
    return code, {path.name: path for path in folder.glob("*")} if folder.is_dir() else {}


def test_both_are_measured_and_a_foreign_copy_is_named(checkout, capsys):
    arguments = ("--aurora-bench", checkout / "aurora", "--epic-validation", checkout / "epic.csv")
    code, files = run(checkout, *arguments)
    assert code == 0
    said = capsys.readouterr().out
    assert said.count("is not the pinned one: its sha256 is") == 2
    copy = pd.read_csv(files["aurora_copy.csv"])
    assert copy["l1"].round(6).unique().tolist() == [0.2]  # 51 of 255
    assert len(copy) == 10
    counts = pd.read_csv(files["segments.csv"])
    assert counts.to_dict("records")[1] == {
        "source": "epic-100-validation", "verb": "pick-up", "noun": "cup", "count": 2, "reversible_share": 0.75,
    }  # fmt: skip
    record = json.loads(files["provenance.json"].read_text())
    assert record["aurora_bench"]["quarantined"] == [
        {"item": "test.json[3]", "reason": "image data/something/images/lost.png does not exist"}
    ]
    assert record["aurora_bench"]["usable"]["something"] == 1
    assert (record["epic_validation"]["num_usable"], record["epic_validation"]["pinned"]) == (3, False)
    before = {name: path.read_bytes() for name, path in files.items()}
    run(checkout, *arguments)
    assert before == {name: path.read_bytes() for name, path in files.items()}
    assert str(checkout) not in files["provenance.json"].read_text()


def test_one_alone_leaves_the_others_results(checkout, capsys):
    _, files = run(checkout, "--aurora-bench", checkout / "aurora")
    kept = files["aurora_copy.csv"].read_bytes()
    code, files = run(checkout, "--epic-validation", checkout / "epic.csv")
    assert code == 0
    assert "aurora_bench: no local copy" in capsys.readouterr().out
    assert files["aurora_copy.csv"].read_bytes() == kept
    assert set(json.loads(files["provenance.json"].read_text())) == {"aurora_bench", "epic_validation"}


def test_nothing_at_hand_and_wrong_paths_are_said(checkout, capsys):
    assert run(checkout) == (1, {})
    assert "data/external says how to fetch it" in capsys.readouterr().out
    code, _ = run(checkout, "--aurora-bench", checkout / "absent", "--epic-validation", checkout / "epic.csv")
    assert code == 2
    assert "absent is not there" in capsys.readouterr().err
    (checkout / "epic.csv").write_text(EPIC_HEADER.replace(",verb,", ",word,"))
    code, _ = run(checkout, "--epic-validation", checkout / "epic.csv")
    assert code == 2
    assert "lacks the column verb" in capsys.readouterr().err


def test_the_pin_is_the_one_described(tmp_path):
    path = tmp_path / "copy.csv"
    path.write_text("x")
    facts = external.origin(path, "EPIC_100_validation.csv", "epic_kitchens_100.yaml", repository_root())
    assert not facts["pinned"]
    assert "fetch https://github.com/epic-kitchens" in external.deviation(facts)
    assert external.deviation(facts | {"pinned": True}) is None


def test_committed_results_are_of_the_pinned_data():
    record = json.loads((COMMITTED / "provenance.json").read_text())
    for name, description in (("aurora_bench", "aurora.yaml"), ("epic_validation", "epic_kitchens_100.yaml")):
        entry = yaml.safe_load((repository_root() / "data/external" / description).read_text())
        assert record[name]["pinned"] is True
        assert record[name]["sha256"] in {file["sha256"] for file in entry["files"]}
        assert record[name]["revision"] == entry["revision"]
    hashes = {name: digest for entry in record.values() for name, digest in entry["results"].items()}
    assert hashes == {path.name: sha256(path) for path in COMMITTED.glob("*.csv")}  # every result has its source
    text = (COMMITTED / "provenance.json").read_text()
    assert not re.search(r'"/|20\d\d-\d\d', text)  # no path of a machine, no date
    assert len(record["aurora_bench"]["quarantined"]) == 2


def test_committed_copy_row_is_the_papers():
    copy = pd.read_csv(COMMITTED / "aurora_copy.csv")
    paper = copy[copy["geometry"] == "paper"].set_index("subset")
    assert paper["l1"].round(3).to_dict() == PUBLISHED_COPY_L1 == paper["published"].to_dict()
    assert paper["n"].sum() == 248
    assert set(copy["geometry"]) == {"paper", "matched"}


def test_committed_cost_of_a_centre_crop_is_nearly_what_the_paper_prints_of_a_model():
    crop = pd.read_csv(COMMITTED / "crop_cost.csv").set_index("subset")
    assert crop["n"].sum() == 248
    assert crop["copy"].round(3).to_dict() == PUBLISHED_COPY_L1
    assert crop.loc[["ag", "something", "whatsup"], "crop"].round(3).tolist() == [0.162, 0.173, 0.064]
    printed = published.load("b_table6")
    printed = printed[(printed["row"] == "L1") & (printed["column"] == "C-FT")].set_index("panel")["value"]
    assert printed[["AG", "Something", "WhatsUp"]].tolist() == [0.170, 0.184, 0.066]


def test_committed_segments_are_what_the_annotations_give(tmp_path):
    shared = shared_data()
    if shared is None or not (shared / external.EPIC_PLACE).is_file():
        pytest.skip("the EPIC-KITCHENS-100 annotations are not at hand (VISDYN_SHARED)")
    facts = external.measure_epic(shared / external.EPIC_PLACE, tmp_path)
    assert (facts["num_segments"], facts["num_usable"]) == (9668, 4119)
    for name in ("segments.csv", "test_split.csv"):
        assert (tmp_path / name).read_bytes() == (COMMITTED / name).read_bytes()


def test_the_balanced_test_sets_against_the_papers_sizes():
    table = pd.read_csv(COMMITTED / "test_split.csv")
    chosen = table.groupby("split")["chosen"].sum()
    assert chosen["v1"] == 8 * external.TEST_PER_VERB + 32  # the paper: 662; of rotate and stack there are hardly any
    assert chosen["v2"] == 451  # as printed
    unseen = table[table["unseen"] == 1].set_index("verb")["available"]
    assert unseen.to_dict() == {"remove-from": 27, "rotate": 2, "stack": 3}
