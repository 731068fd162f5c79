"""Every system of the papers' tables has a row (measured, imported, or not run and why); judges stay apart."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import reporting_results
from test_tables import PANEL, PAPERS, built, cell

from visdyn.reporting import items, names, published, roster, tables
from visdyn.reporting import rendering as outputs
from visdyn.reporting.results import ResultError, Results
from visdyn.result_tables import TABLES

SYSTEM_TABLES = [item for item in items.load() if item.systems]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    profile = reporting_results.write(tmp_path_factory.mktemp("profile"))
    return Results(profile)


def test_tables_1_to_7_of_both_papers_have_a_roster():
    assert {f"{paper}_table{number}" for paper in "bd" for number in range(1, 8)} <= {item.id for item in SYSTEM_TABLES}


@pytest.mark.parametrize("item", SYSTEM_TABLES, ids=lambda item: item.id)
def test_every_printed_label_is_a_known_system_with_its_needs(item):
    labels = set(published.load(item.published)[item.systems])
    found = {label: roster.named(label, item.paper, roster.load()) for label in labels}
    if item.id == "b_table3":
        found.pop("GPT4o", None)
    assert all(found.values()), found
    assert all(system.needs for system in found.values())


def test_longer_spellings_win():
    best = "supervised_best_of_3_by_oracle"
    wanted = {"C-FT": "supervised", "C-FT +Best-of-3": best, "Weighted ES": "synthetic_weighted"}
    assert {label: roster.named(label, "B", roster.load()).kit[0] for label in wanted} == wanted
    assert roster.named("Nothing", "B", roster.load()) is None


def test_a_roster_says_measured_imported_or_what_is_needed(results, tmp_path):
    outcomes = outputs.build_items(results.profile, items.load(), published.folder().parents[1], strict=True)
    rows = next(outcome for outcome in outcomes if outcome.item.id == "b_table2").roster.set_index("system")
    assert list(rows.index) == ["PixInst", "GoT", "SE", "C-ZS", "C-FT", "C-FDM", "L-ZS", "L-FT", "L-FDM"]
    assert rows.loc["SE", "status"] == "imported"
    assert "18 of 20 images; 2 images are missing" in rows.loc["SE", "how"]
    assert rows.loc["C-FT", "status"] == "measured"
    assert rows.loc["C-FT", "how"].startswith("by this kit; model models/fdm/supervised-s0; the other cells need")
    assert rows.loc["PixInst", "status"] == "not run"
    assert "no GPU here" in rows.loc["PixInst", "how"]
    assert "instruct-pix2pix" in rows.loc["PixInst", "needs"]
    assert rows.loc["L-FDM", ["status", "cells"]].tolist() == ["not run", "0 of 8"]
    text = (results.profile / "reports/tables/b_table2.md").read_text()
    assert "| GoT | not run |" in text
    frame = pd.read_csv(results.profile / "reports/tables/b_table2.csv")
    missing = frame[frame["value"].isna() & frame["published"].notna()]
    assert len(missing) > 30
    assert missing["note"].str.contains("not run, needs ").all()


def test_a_table_without_any_result_keeps_its_rows(tmp_path):
    outcomes = {outcome.item.id: outcome for outcome in
                outputs.build_items(tmp_path, items.load(), published.folder().parents[1])}  # fmt: skip
    for item in SYSTEM_TABLES:
        if item.table:
            rows = outcomes[item.id].roster
            measured = rows[rows["status"] != "not run"]
            assert measured.empty or item.id == "b_table6", item.id  # AURORA-Bench's Copy is in the repository
    assert "`make human-study STUDY=folder`" in _reason_without_answers(tmp_path)
    assert "run stage human_study" in outcomes["b_table5"].reason
    assert "run stage spatial" in outcomes["k_spatial"].reason


def _reason_without_answers(profile) -> str:
    path = profile / "reports/results/human_study/table5.csv"
    path.parent.mkdir(parents=True)
    path.write_text(",".join(TABLES["human_study/table5.csv"]) + "\n")
    return items.load()["b_table5"].problem(Results(profile))


# --------------------------------------------------------------------------------------------------------- judges


def test_judges_in_words_have_panels_of_their_own(results, tmp_path):
    frame = built(results, "b_table2")
    region, asked = (cell(frame, panel=name, row="AG", column="C-FT") for name in (PANEL, PAPERS))
    assert region["value"] != asked["value"]
    assert asked["published"] == 2.48  # the paper's own judge has its values beside it, and no other
    assert np.isnan(region["published"])
    scores = results.read("evaluation/judge_scores.csv")
    chosen = scores[(scores["criterion"] == "score") & (scores["system"] == "supervised") & (scores["subset"] == "ag")]
    assert asked["value"] == pytest.approx(chosen["value"].mean())
    assert asked["n"] == chosen["value"].notna().sum()
    other = _copied(results, tmp_path)
    scores.assign(judge="Another").to_csv(other.path("evaluation/judge_scores.csv"), index=False)
    frame = built(other, "b_table2")
    assert cell(frame, panel="judge Another", row="AG", column="C-FT")["status"] == "interpretation"
    assert frame.loc[frame["panel"] == PAPERS, "value"].isna().all()


def test_a_prompt_that_is_not_the_papers_is_named_beside_the_judge(results, tmp_path):
    copy = _copied(results, tmp_path)
    path = copy.path("evaluation/judge_scores.csv")
    path.write_text(path.read_text().replace(",paper,1-0a1b2c3d,", ",viescore,1-99999999,"))
    for name in ("b_table2", "b_table3", "b_table4", "b_table6"):
        frame = built(copy, name)
        heads = set(frame["panel"]) | set(frame["row"])
        assert "judge GPT-4o (prompt viescore 1-99999999)" in heads, name
        assert "judge GPT-4o" not in heads, name
    assert not frame.loc[frame["row"] == "GPT-4o", "value"].notna().any()  # of Table 6: the paper's question alone


@pytest.mark.parametrize(
    ("judge", "shown"),
    [("gpt-4o-mini", "gpt-4o-mini"), ("GPT4o 2024-11-20", "GPT4o 2024-11-20 (a second GPT4o)")],
)
def test_of_judges_that_are_called_alike_one_is_the_papers(results, tmp_path, judge, shown):
    copy, scores = _copied(results, tmp_path), results.read("evaluation/judge_scores.csv")
    both = pd.concat([scores, scores.assign(judge=judge, value=1.0)])
    both.to_csv(copy.path("evaluation/judge_scores.csv"), index=False)
    frame, where = built(copy, "b_table2"), {"row": "AG", "column": "C-FT"}
    assert (
        cell(frame, panel=PAPERS, **where)["value"] == cell(built(results, "b_table2"), panel=PAPERS, **where)["value"]
    )
    mine = cell(frame, panel=f"judge {shown}", **where)
    assert (mine["value"], mine["status"]) == (1.0, "interpretation")


def test_each_weight_of_the_consistency_loss_has_its_name(results):
    assert names.doundo_system("doundo_c_0.6") == "Do-Undo(c), weight 0.6"
    assert (names.doundo_system("doundo_c"), names.doundo_system("Gemini")) == ("Do-Undo(c)", "Gemini")
    assert results.differs_in_model("D", "doundo_c_0.6") == results.differs_in_model("D", "doundo_c") == "no doundo"
    assert results.differs_in_model("D", "Gemini") == ""


def _copied(results, folder) -> Results:
    shutil.copytree(results.profile, folder / "copy")
    return Results(folder / "copy")


def test_a_judge_s_repeats_are_averaged_and_are_no_chains(results):
    mine = cell(built(results, "d_table6"), panel="Gemini", row="Do-Undo", column="IF-F")
    assert (mine["value"], mine["chains"], mine["n"]) == (8.5, 1, 2)
    assert np.isnan(mine["spread"])
    mine = cell(built(results, "d_table4"), panel="Bagel", row="IF", column="open")
    assert (mine["value"], mine["published"], mine["status"]) == (8.5, 8.39, "interpretation")  # its prompt is unknown
    assert "asked by prompt kit 1-4e5f6a7b" in mine["note"]


# ------------------------------------------------------------------------------------- spatial reasoning and people


def test_spatial_reasoning_stands_in_table2_with_chance(results):
    frame = built(results, "b_table2")
    spatial = frame[frame["panel"] == "Spatial Reasoning (Accuracy)"]
    own = cell(spatial, row="SpatialMQA", column="C-FT")
    assert (own["value"], own["published"], own["n"], own["status"]) == (
        pytest.approx(25.8),
        25.8,
        1076,
        "smaller scale",
    )
    assert cell(spatial, row="SpatialMQA, chance", column="C-FT")["value"] == pytest.approx(27.1)
    kitchen = cell(spatial, row="Kitchen, by likelihood", column="C-ZS")
    assert (kitchen["value"], kitchen["status"]) == (pytest.approx(55), "interpretation")
    assert (kitchen["chains"], kitchen["n"]) == (2, 80)
    assert kitchen["spread"] == pytest.approx(np.std([50, 60], ddof=1))
    assert "interval" not in kitchen["note"]  # that of one chain's questions says nothing of another chain
    assert "interval" in cell(spatial, row="Kitchen, by likelihood", column="Chameleon IDM")["note"]
    assert cell(spatial, row="SpatialMQA, unreadable answers (%)", column="C-FT")["value"] == pytest.approx(10)
    assert np.isnan(cell(spatial, row="SpatialMQA", column="L-ZS")["value"])


def test_people_s_tables_have_tests_and_intervals(results):
    frame = built(results, "b_table5")
    mine = cell(frame, row="MB", column="SE")
    assert (mine["value"], mine["published"], mine["n"]) == (-0.3, 0.29, 70)
    assert "significant against C-FDM (dagger): Wilcoxon p = 0.001 with zeros dropped" in mine["note"]
    assert "Wilcoxon" not in cell(frame, row="MB", column="C-FDM")["note"]
    shares = built(results, "d_table7")
    assert cell(shares, row="BAGEL", column="Preference (%)")["published"] == 41.6
    assert cell(shares, row="Do-Undo", column="Ties halved (%)")["value"] == 65
    assert np.isnan(cell(shares, row="Do-Undo(c)", column="Preference (%)")["value"])


def test_a_leaderboard_shows_what_decides(results, tmp_path):
    frame = built(results, "k_leaderboard")
    assert frame["system"].tolist() == ["C-FDM", "Copy", "Do-Undo"]
    assert frame["difference to"].tolist() == ["", "C-FDM", ""]
    assert tables.markdown(frame).count("|") > 20
    other = _copied(results, tmp_path)
    for name in ("evaluation/leaderboard.csv", "evaluation_doundo/leaderboard.csv"):
        results.read(name).assign(metric="another").to_csv(other.path(name), index=False)
    with pytest.raises(ResultError, match="none of the metrics"):
        built(other, "k_leaderboard")


def test_the_leaderboard_of_one_paper_does_not_wait_for_the_other(results, tmp_path):
    other = _copied(results, tmp_path)
    path = other.path("evaluation_doundo/leaderboard.csv")
    path.write_text("another\n")
    with pytest.raises(ResultError, match="lacks the columns"):  # a broken file is no missing one
        built(other, "k_leaderboard")
    path.unlink()
    assert built(other, "k_leaderboard")["system"].tolist() == ["C-FDM", "Copy"]
    repository = published.folder().parents[1]
    assert (
        outputs.build_item(items.load()["k_leaderboard"], other, tmp_path / "reports", repository).n == "20"
    )  # items of each system
    other.path("evaluation/leaderboard.csv").unlink()
    with pytest.raises(ResultError, match=r"run stage evaluation;.*run stage evaluation_doundo"):
        built(other, "k_leaderboard")


def test_a_profile_of_liquid_fills_liquid_s_columns(results, tmp_path):
    (path := _copied(results, tmp_path).profile / "params.yaml").write_text(
        "base_models: {references: {base: weights/liquid}}\n"
    )
    liquid = outputs.open_results(path.parent, published.folder().parents[1])
    assert (roster.read_setting(results.profile).family, liquid.setting.family) == ("chameleon", "liquid")
    frame = built(liquid, "b_table2")
    mine = cell(frame, panel=PAPERS, row="AG", column="L-FT")
    assert mine["value"] == cell(built(results, "b_table2"), panel=PAPERS, row="AG", column="C-FT")["value"]
    assert mine["published"] == 2.59
    assert np.isnan(cell(frame, panel=PAPERS, row="AG", column="C-FT")["value"])
    assert {"Copy", "L-FDM w/o LW", "SE"} <= set(frame.loc[frame["value"].notna(), "column"])
    assert cell(built(liquid, "b_table1"), row="Liquid IDM", column="R-1")["published"] == 0.41
    both = built(replace(results, beside=(liquid,)), "b_table2")
    filled = set(both.loc[(both["panel"] == PAPERS) & both["value"].notna(), "column"])
    assert {"C-FT", "C-FDM", "L-FT", "L-FDM"} <= filled
    copies = both[(both["panel"] == PANEL) & (both["column"] == "Copy")]
    assert len(copies) == len(set(copies["row"]))  # what is no family's stands once
