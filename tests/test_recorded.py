"""The authors' recorded replies: read and checked, compared cell by cell, paired; and data/recorded itself."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny_evidence import write_evidence

from visdyn.evaluation.recorded import evidence as evidence_of
from visdyn.evaluation.recorded.paired_scores import MEAN, compare_gains, compare_pairs
from visdyn.evaluation.recorded.published_cells import compare_cells, compare_passes, identify_systems
from visdyn.params import load_params
from visdyn.paths import repository_root, shared_data
from visdyn.pipeline.stage import open_stage
from visdyn.stages import recorded

TOLERANCES = {"score": 0.005, "l1": 0.0005, "clip_i": 0.0005, "clip_t": 0.0005, "dino": 0.0005}
AVERAGES = {"b_table2": "subsets", "b_table4": "subsets", "b_table6": "subsets"}


@pytest.fixture(scope="module")
def stage():
    return open_stage("recorded")


@pytest.fixture(scope="module")
def real(stage):
    return recorded.load_evidence(stage)


@pytest.fixture(scope="module")
def cells(stage, real):
    return recorded.compare_tables(stage, real)


@pytest.fixture
def tiny(tmp_path):
    return evidence_of.load(write_evidence(tmp_path))


def shared_evidence(name):
    shared = shared_data()
    path = shared / "data" / name if shared else None
    if path is None or not path.exists():
        pytest.skip(f"{name} is not at hand (VISDYN_SHARED)")
    return path


def table(*cells):
    return pd.DataFrame(cells, columns=["panel", "row", "column", "value", "note"])


def test_no_word_of_a_reply_is_kept():
    folder = repository_root() / "data/recorded"
    assert {path.name for path in folder.iterdir()} == {"README.md", "systems.yaml", "replies.csv", "aggregates.csv",
                                                         "items.csv"}  # fmt: skip
    for path in folder.glob("*.csv"):
        cells = pd.read_csv(path).drop(columns=["system", "subset", "metric"], errors="ignore")
        assert all(kind.kind in "if" for kind in cells.dtypes), path.name
    pinned = yaml.safe_load((folder.parent / "external/grounding_human_eval.yaml").read_text())["revision"]
    commits = {entry["commit"] for entry in yaml.safe_load((folder / "systems.yaml").read_text())["systems"]}
    assert pinned in commits
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("replies", "first,ag,0,8,6,6", "first,ag,0,8,11,8", "outside 0 to 10: first, ag, item 0"),
        ("replies", "first,ag,0,8,6,6", "first,ag,0,8,6,7", "not the smaller of the two"),
        ("replies", "first,ag,0,8,6,6", "third,ag,0,8,6,6", "systems.yaml does not name"),
        ("replies", "first,ag,0,8,6,6", "first,ag,7,8,6,6", "items.csv does not have"),
        ("replies", "first,ag,0,8,6,6", "first,ag,1,8,6,6", "given twice"),
        ("replies", "first,ag,0,8,6,6", "first,ag,0,8,5,5", "first, ag: 2 replies of mean 3.5"),
        ("replies", "first,ag,0,8,6,6\n", "", "first, ag: 1 replies"),
        ("aggregates", "second,kubric,#gpt4o_valid,1.0", "second,kubric,#gpt4o_valid,2.0", "second, kubric: 1 replies"),
    ],
)
def test_numbers_that_disagree_are_refused(tmp_path, file, old, new, said):
    path = write_evidence(tmp_path) / f"{file}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(evidence_of.EvidenceError, match=re.escape(said)):
        evidence_of.load(tmp_path)


def test_dropped_replies_and_averages(tiny):
    replies = evidence_of.count_replies(tiny).set_index(["system", "subset"])
    assert replies.loc[("second", "kubric"), ["items", "samples", "n", "dropped", "dropped_items"]].tolist() == [
        2, 2, 1, 1, "1",
    ]  # fmt: skip
    assert replies.loc["first", "dropped"].sum() == 0
    # second: four subsets of 5 and 1, Kubric one reply of 4
    assert evidence_of.average(tiny, "second", "score", "subsets") == pytest.approx((4 * 3 + 4) / 5)
    assert evidence_of.average(tiny, "second", "score", "pooled") == pytest.approx(28 / 9)
    assert evidence_of.average(tiny, "second", "score", "pooled_dropped_as_0") == pytest.approx(28 / 10)
    with pytest.raises(ValueError, match="unknown average 'median'"):
        evidence_of.average(tiny, "second", "score", "median")
    rows = evidence_of.compare_averages(tiny).set_index(["system", "criterion"])
    assert rows.loc[("second", "score"), "recorded"] == pytest.approx(28 / 9)
    assert pd.isna(rows.loc[("second", "editing_success"), "recorded"])


@pytest.mark.parametrize(
    ("printed", "status"),
    [(4.0, "reproduced"), (4.005, "reproduced"), (3.995, "reproduced"), (4.00501, "contradicts"), (3.9, "contradicts")],
)
def test_a_cell_inside_at_and_outside_its_tolerance(tiny, printed, status):
    cell = compare_cells(tiny, {"b_table2": table(("", "AG", "First", printed, ""))}, TOLERANCES, AVERAGES).iloc[0]
    assert (cell["status"], cell["value"], cell["n"], cell["tolerance"]) == (status, 4.0, 2, 0.005)


def test_what_is_not_recorded_is_left_out_and_one_run_meets_no_mean_of_three(tiny):
    published = {
        "b_table2": table(("", "AG", "Third", 1.0, ""), ("", "SpatialMQA", "First", 1.0, ""),
                          ("", "AG", "First", np.nan, ""), ("", "Avg.", "Second", 2.8, "")),
        "b_table4": table(("", "All", "First", 4.0, ""), ("", "AG", "Second", -1.0, "difference to First")),
        "b_table6": table(("AG", "CLIP-I", "First", 0.9004, ""), ("AG", "DINO", "First", 0.801, "")),
    }  # fmt: skip
    cells = compare_cells(tiny, published, TOLERANCES, AVERAGES)
    assert cells[["table", "row", "status"]].to_numpy().tolist() == [
        ["b_table2", "Avg.", "contradicts"], ["b_table4", "All", "smaller scale"], ["b_table4", "AG", "smaller scale"],
        ["b_table6", "CLIP-I", "reproduced"], ["b_table6", "DINO", "contradicts"],
    ]  # fmt: skip
    assert cells["note"].tolist()[0] == "another average meets it: pooled_dropped_as_0"
    assert cells["dropped"].tolist()[0] == 1
    assert cells["value"].tolist()[2] == -1.0
    assert cells["note"].tolist()[2] == "difference to First; one recorded run; the paper prints the mean of 3"


def test_passes_need_images_that_measure_the_same(tiny):
    images = [("AG", "L1", "First", 0.1, ""), ("AG", "L1", "Second", 0.2, "")]
    scores = [("AG", "GPT-4o", name, 3.5, "") for name in ("First", "Second")]
    cells = compare_cells(tiny, {"b_table6": table(*images, *scores)}, TOLERANCES, AVERAGES)
    passes = compare_passes(cells)
    assert passes[["system", "subset", "image_cells", "image_equal", "difference"]].to_numpy().tolist() == [
        ["first", "ag", 1, 1, 0.5]
    ]
    identity = identify_systems(tiny, table(*images), TOLERANCES)
    assert identity.to_numpy().tolist() == [["first", "First", 1, 1], ["first", "Second", 1, 0],
                                            ["second", "First", 1, 1], ["second", "Second", 1, 0]]  # fmt: skip


def test_pairs_take_items_with_both_replies_and_draw_whole_photographs(tiny):
    pairs = compare_pairs(tiny, seed=0, num_resamples=200, num_permutations=99)
    score = pairs[pairs["metric"] == "score"].set_index("subset")
    assert score.loc["all", ["n", "clusters", "wins", "ties", "losses"]].tolist() == [9, 5, 9, 0, 0]
    # Each subset stands on one photograph: drawn again and again, it gives its own mean, without any spread.
    assert score.loc["kubric", ["difference", "low", "high"]].tolist() == [2.0, 2.0, 2.0]
    assert score.loc["ag", ["difference", "low", "high"]].tolist() == [1.0, 1.0, 1.0]
    assert score.loc["all", "difference"] == pytest.approx(10 / 9)
    assert score.loc[MEAN, "difference"] == pytest.approx(6 / 5)
    assert pd.isna(score.loc[MEAN, "p_sign_flip"])
    assert score.loc["all", "p_sign_flip"] == pytest.approx(2 / 2**5)  # five photographs, all sign patterns
    gains = compare_gains(tiny, seed=0, num_resamples=200).iloc[0]
    assert gains["percent"] == pytest.approx(100 * (4.0 / 3.2 - 1))


def test_histograms_count_every_reply(real):
    counts = evidence_of.count_scores(real)
    totals = counts.groupby(["system", "criterion"])["count"].sum()
    sizes = real.replies.groupby("system").size()
    assert all(totals[system, criterion] == sizes[system] for system, criterion in totals.index)
    assert set(counts["score"]) == set(range(11))


def test_cells_agree_with_the_comparison_made_by_hand(cells):
    """An independent one, outside the repository; it gives Table 4 as levels, and averages Table 3 by other rules."""
    theirs = pd.read_csv(shared_evidence("recorded-judge/comparison.csv"))
    theirs["table"] = "b_table" + theirs["table"].str[6]
    for name, by_hand in theirs.groupby("table"):
        ours = cells[cells["table"] == name]
        assert len(ours) == len(by_hand)
        if name != "b_table4":
            assert sorted(ours["published"]) == pytest.approx(sorted(by_hand["printed"]))
        if name in ("b_table2", "b_table6"):
            equal = by_hand["verdict"].str.startswith("equal")
            assert (ours["status"] == "reproduced").sum() == equal.sum()
            assert sorted(ours["value"]) == pytest.approx(sorted(by_hand["recomputed"]), abs=2e-6)


def test_pairs_agree_with_those_computed_by_hand(stage, real):
    """Differences and counts exactly, bounds within bootstrap noise: ours draw photographs, theirs drew items."""
    text = re.sub(r"\s+", " ", shared_evidence("recorded-judge/README.md").read_text())
    first = re.search(r"Paired over (\d+) items: \+([\d.]+), 95% bootstrap interval \[(\S+), (\S+)\], (\d+) wins, "
                      r"(\d+) ties, (\d+) losses", text)  # fmt: skip
    rest = re.findall(r"(w/o LW|SE|GoT):? \+([\d.]+) \[(\S+), (\S+?)\]", text)
    assert len(rest) == 3
    pairs = compare_pairs(real, stage.seed, 4000, 99)
    own = pairs[(pairs["metric"] == "score") & (pairs["subset"] == "all") & (pairs["system"] == "C-FDM")]
    own = own.set_index("reference")
    assert own.loc["C-FT", ["n", "wins", "ties", "losses"]].tolist() == [int(first[k]) for k in (1, 5, 6, 7)]
    for name, difference, low, high in [("C-FT", *first.groups()[1:4]), *rest]:
        row = own.loc["C-FDM w/o LW" if name == "w/o LW" else name]
        assert abs(row["difference"] - float(difference)) < 0.02  # SE's is a mean of subsets there
        assert row[["low", "high"]].tolist() == pytest.approx([float(low), float(high)], abs=0.06)


def test_sources_are_the_photographs_that_items_share(real):
    items = json.loads((shared_evidence("aurora-bench") / "test.json").read_text())
    for subset, own in real.items.groupby("subset"):
        pictures = [{items[index][end] for end in ("input", "output")} for index in own["index"]]
        assert {items[index]["task"] for index in own["index"]} == {subset}
        groups: list[tuple[int, set[str]]] = []
        for number, pair in enumerate(pictures):
            joined = [group for group in groups if group[1] & pair]
            groups = [group for group in groups if group not in joined]
            groups.append(
                (min([number, *(first for first, _ in joined)]), set.union(pair, *(one for _, one in joined)))
            )
        found = [next(first for first, group in groups if pair <= group) for pair in pictures]
        assert own.sort_values("item")["source"].tolist() == found
    assert real.items.groupby("subset")["source"].nunique()["magicbrush"] == 24


def test_committed_results_are_those_of_the_data(stage, cells, real):
    """The report's cells hang on data/recorded as it is now."""
    committed = stage.read_table("recorded/cells.csv")
    assert committed["status"].tolist() == cells["status"].tolist()
    assert committed["value"].tolist() == pytest.approx(cells["value"].tolist(), rel=1e-5)
    assert stage.read_table("recorded/replies.csv")["n"].sum() == len(real.replies)


def test_every_profile_asks_the_same_of_the_record():
    sections = [load_params(name).recorded for name in (".", "profiles/smoke", "profiles/paper")]
    assert sections[0] == sections[1] == sections[2]
