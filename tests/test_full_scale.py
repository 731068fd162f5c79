"""A simulated run of the papers' size: no column empty that has results, and every status as its value earns it."""

from __future__ import annotations

from dataclasses import replace

import full_scale_results as full
import numpy as np
import pandas as pd
import pytest
from test_tables import PANEL, PAPERS, built, cell

from visdyn.reporting import items, published, roster, tables
from visdyn.reporting import rendering as outputs
from visdyn.reporting.results import Results
from visdyn.reporting.tables import comparison

REPOSITORY = published.folder().parents[1]


@pytest.fixture(scope="module")
def chameleon(tmp_path_factory):
    return outputs.open_results(full.write(tmp_path_factory.mktemp("paper")), REPOSITORY)


@pytest.fixture(scope="module")
def results(chameleon, tmp_path_factory):
    """Chameleon's results with Liquid's beside them."""
    liquid = full.write(tmp_path_factory.mktemp("liquid"), "paper_liquid")
    return replace(chameleon, beside=(outputs.open_results(liquid, REPOSITORY),))


def test_the_setting_is_the_papers(results):
    judges = {"evaluation": {"GPT-4o": "gpt-4o-2024-11-20"}, "evaluation_doundo": {"Gemini": "gemini-2.5-pro"}}
    models = dict.fromkeys(results.setting.models, "")
    assert results.setting == comparison.Setting("", "chameleon", models, "Anole-7b-v0.1-hf", judges)
    assert results.beside[0].setting.family == "liquid"
    assert not any(results.differs("B", name) for name in ("supervised", "liquid_synthetic_weighted", "idm", "copy"))
    assert not any(results.differs("D", name) for name in ("base", "doundo_c"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: external", "kind: kitchen", "the kitchen's data"),
        ("epochs: 40", "epochs: 4", "fdm trained with epochs 4, not 40"),
        ("base: leloy/Anole-7b-v0.1-hf", "base: my/model", "the model my/model"),
    ],
)
def test_another_data_set_training_or_model_is_smaller_scale(chameleon, tmp_path, old, new, said):
    text = (chameleon.profile / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new))
    other = replace(chameleon, setting=roster.read_setting(tmp_path))
    assert other.differs("B", "supervised") == said
    mine = cell(built(other, "b_table6"), panel="AG", row="L1", column="C-FT")
    assert (mine["value"], mine["status"]) == (pytest.approx(mine["published"]), "smaller scale")


def test_nine_vlms_stand_in_the_papers_columns(results):
    frame, numbers = built(results, "b_figure2"), published.load("b_figure2")
    printed = frame[frame["published"].notna()]
    assert len(printed) == len(numbers) == 72
    assert printed["value"].notna().all()
    image_tokens = (printed["column"] == "Chameleon-7B") | printed["panel"].str.startswith("Inverse")
    assert set(printed.loc[image_tokens, "status"]) == {"reproduced"}
    assert set(printed.loc[~image_tokens, "status"]) == {"interpretation"}  # the paper defines no such likelihood
    rows = roster.of_table(frame, numbers, "column", "B", results, roster.load())
    assert rows["status"].tolist() == ["measured"] * 9
    assert rows["cells"].tolist() == ["8 of 8"] * 9


@pytest.mark.parametrize("name", [f"b_table{number}" for number in (1, 2, 3, 5, 6, 7)] + ["d_table1", "d_table2"])
def test_no_printed_column_of_a_system_with_results_is_empty(results, name):
    frame, item = built(results, name), items.load()[name]
    filled = set(frame.loc[frame["value"].notna() & frame["published"].notna(), item.systems])
    left_out = {"VILA-U SFT (003)", "Chameleon SFT (003)"}  # the earlier version's IDMs
    moved = {"Weighted", "Standard"}  # Table 3's row GPT4o stands in columns of its own
    assert set(published.load(name)[item.systems]) - left_out - moved <= filled


def test_both_families_stand_in_one_table(results, chameleon):
    frame = built(results, "b_table2")
    papers = frame[(frame["panel"] == PAPERS) & frame["value"].notna()]
    assert set(published.load("b_table2")["column"]) <= set(papers["column"])
    # profiles/paper asked Liquid where things are, and so did profiles/paper_liquid: it stands once.
    assert cell(frame, row="SpatialMQA", column="L-ZS")["status"] == "reproduced"
    alone = built(chameleon, "b_table2")
    alone = alone[(alone["panel"] == PAPERS) & alone["column"].str.startswith("L-")]
    assert alone["value"].isna().all()
    assert np.isfinite(cell(built(results, "b_table1"), row="Liquid IDM", column="BS")["value"])


def test_a_judge_is_the_papers_by_its_model_too(chameleon, tmp_path):
    text = (chameleon.profile / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("gpt-4o-2024-11-20", "gpt-4o-mini"))
    frame = built(replace(chameleon, setting=roster.read_setting(tmp_path)), "b_table2")
    assert frame.loc[frame["panel"] == PAPERS, "value"].isna().all()
    assert "judge GPT-4o (model gpt-4o-mini)" in set(frame["panel"])


def test_an_oracle_that_knows_another_judges_score_is_an_interpretation(chameleon, tmp_path):
    where = {"panel": "AG", "row": "DINO", "column": "C-FT +Best-of-3"}
    assert cell(built(chameleon, "b_table6"), **where)["status"] == "reproduced"
    path = tmp_path / "reports/results/evaluation"
    path.mkdir(parents=True)
    for name in ("fdm_scores.csv", "measures.csv"):  # no judge in words has seen a candidate
        (path / name).write_text(chameleon.path(f"evaluation/{name}").read_text())
    frame = built(replace(chameleon, profile=tmp_path), "b_table6")
    assert cell(frame, **where)["status"] == "interpretation"
    assert cell(frame, **(where | {"column": "C-FT"}))["status"] == "reproduced"


def test_the_recorded_judge_meets_and_contradicts_table_2_as_it_does(results):
    frame = built(results, "b_table2")
    met = cell(frame, panel=PAPERS, row="MagicBrush", column="C-FDM")
    assert (met["value"], met["status"], met["n"]) == (pytest.approx(3.92), "reproduced", 50)
    other = cell(frame, panel=PAPERS, row="MagicBrush", column="C-FT")
    assert (round(other["value"], 2), other["published"], other["status"]) == (3.08, 2.52, "contradicts")
    assert other["tolerance"] == 0.5
    assert cell(frame, panel=PAPERS, row="AURORA-BENCH Avg.", column="C-FT")["tolerance"] == 0.25
    assert "≠" in tables.markdown(frame)
    assert not (frame["panel"] == PANEL).any()  # the region judge was not asked


@pytest.mark.parametrize(
    ("distance", "status"),
    [(0.0, "reproduced"), (0.0099, "reproduced"), (0.01, "reproduced"), (0.0101, "contradicts")],
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_value_inside_at_and_outside_its_tolerance(chameleon, tmp_path, distance, status, sign):
    scores = chameleon.read("evaluation/fdm_scores.csv")
    chosen = (scores["system"] == "supervised") & (scores["metric"] == "dino") & (scores["subset"] == "ag")
    printed = full.printed("b_table6", panel="AG", row="DINO", column="C-FT")
    path = tmp_path / "reports/results/evaluation/fdm_scores.csv"
    path.parent.mkdir(parents=True)
    scores.assign(value=scores["value"].mask(chosen, printed + sign * distance)).to_csv(path, index=False)
    measures = chameleon.path("evaluation/measures.csv").read_text()
    (path.parent / "measures.csv").write_text(measures)
    found = cell(built(replace(chameleon, profile=tmp_path), "b_table6"), panel="AG", row="DINO", column="C-FT")
    assert (found["status"], found["tolerance"]) == (status, 0.01)


def test_fewer_items_than_the_papers_are_smaller_scale(chameleon, tmp_path):
    scores = chameleon.read("evaluation/fdm_scores.csv")
    path = tmp_path / "reports/results/evaluation/fdm_scores.csv"
    path.parent.mkdir(parents=True)
    (path.parent / "measures.csv").write_text(chameleon.path("evaluation/measures.csv").read_text())
    for count, status in ((45, "reproduced"), (44, "smaller scale")):
        scores[scores["id"].astype(int) < count].to_csv(path, index=False)
        frame = built(replace(chameleon, profile=tmp_path), "b_table6")
        assert cell(frame, panel="AG", row="DINO", column="C-FT")["status"] == status


def test_copy_has_the_tolerance_of_what_is_not_drawn(results):
    frame = built(results, "b_table6")
    mine = cell(frame, panel="AG", row="L1", column="Copy")
    assert (mine["status"], mine["tolerance"]) == ("reproduced", 0.0005)
    judged = cell(frame, panel="AG", row="GPT-4o", column="Copy")  # a judge is drawn anew
    assert (judged["value"], judged["status"], judged["tolerance"]) == (0, "reproduced", 0.5)


def test_both_readings_of_clip_t_stand_beside_the_printed_values(results):
    frame = built(results, "b_table6")
    for row in ("CLIP-T", "CLIP-T, caption of the edited image"):
        mine = frame[frame["row"].str.startswith(row + ",") | (frame["row"] == row)]
        mine = mine[(mine["panel"] == "AG") & (mine["column"] == "C-FT")]
        assert mine["value"].notna().all(), row
        assert mine["published"].notna().all(), row
        assert set(mine["status"]) == {"interpretation"}, row


def test_what_the_paper_does_not_print_is_of_full_scale(results):
    frame = built(results, "b_table6")
    assert cell(frame, panel="AG", row="L1", column="Oracle (target)")["status"] == "full scale"


def test_optical_flow_in_the_papers_pixels_stands_beside_the_printed(results):
    frame = built(results, "d_table1")
    column = next(name for name in frame["column"] if name.startswith("OF-F"))
    mine = cell(frame, row="Do-Undo", column=column)
    assert np.isfinite(mine["published"])
    assert mine["status"] == "interpretation"  # no code of the first version was released
    assert np.isnan(cell(frame, row="Do-Undo", column="EPE (OF)")["value"])


def test_the_test_set_that_a_run_drew_stands_beside_the_papers(chameleon, tmp_path):
    frame = built(chameleon, "d_figure4")
    wanted = {"samples": 662, "actions represented equally": 8, "out-of-distribution actions": 3}
    for row, count in wanted.items():
        mine = cell(frame, row=row, column="paper: test set")
        assert (mine["value"], mine["published"], mine["status"]) == (count, count, "reproduced"), row
    counted = cell(frame, panel="(a) number", row="samples", column="EPIC-100, test")
    assert (counted["status"], counted["note"]) == (
        "interpretation",
        "before the quality filter; the paper's are after it",
    )
    path = tmp_path / "reports/results/mining"
    path.mkdir(parents=True)
    (path / "segments.csv").write_text(chameleon.path("mining/segments.csv").read_text())
    table = chameleon.read("mining/test_split.csv")  # by the newer version's rule no unseen verb is asked for
    table = table.assign(wanted=table["wanted"].mask(table["unseen"] == 1, 0), unseen=table["unseen"].astype(int))
    table.to_csv(path / "test_split.csv", index=False)
    newer = built(replace(chameleon, profile=tmp_path), "d_figure4")
    assert cell(newer, row="samples", column="paper: test set")["status"] == "interpretation"


def test_the_newer_versions_page_is_compared_on_as_many_pairs(chameleon, tmp_path):
    where = {"panel": "Fine-tuning", "row": "BAGEL-DoUndo (Ours)"}
    assert cell(built(chameleon, "d_page"), **where, column="A-F")["status"] == "smaller scale"  # 662 are not its 451
    scores = chameleon.read("evaluation_doundo/doundo_scores.csv")
    path = tmp_path / "reports/results/evaluation_doundo"
    path.mkdir(parents=True)
    scores[scores["id"] < "P451"].to_csv(path / "doundo_scores.csv", index=False)
    (path / "measures.csv").write_text(chameleon.path("evaluation_doundo/measures.csv").read_text())
    frame = built(replace(chameleon, profile=tmp_path), "d_page")
    for column in ("CLIP", "A-F", "A-R", "N-F", "N-R", "EPE-F", "EPE-R"):
        assert cell(frame, **where, column=column)["status"] == "reproduced", column


def test_a_comparison_without_a_tolerance_is_refused():
    with pytest.raises(ValueError, match="has no tolerance"):
        comparison.earn(1.0, 1.0, "", "", float("nan"))
    with pytest.raises(KeyError, match="unheard"):
        comparison.tolerance_of("unheard", 1.0)
    assert comparison.earn(1.0, 2.0, "another", "smaller", float("nan")) == "interpretation"
    assert comparison.tolerance_of("videos", 200.0) == pytest.approx(10)


def test_every_table_and_figure_of_a_full_run_is_built_and_counted(results, tmp_path):
    outcomes = outputs.build_items(
        results.profile, items.load(), REPOSITORY, strict=True,
        beside=[other.profile for other in results.beside], reports=tmp_path,
    )  # fmt: skip
    status = outputs.status_frame(outcomes).set_index("id")
    assert (
        status.loc[["b_figure3", "b_figure4", "b_figure6", "b_figure11", "d_figure6"], "status"].eq("full scale").all()
    )
    assert status.loc["b_table2", "contradicts"] >= 1
    assert status["reproduced"].sum() > 300
    run = [one for one in outcomes if one.item.paper in "BD" and one.item.table and one.status != "not run"]
    assert all(isinstance(one.table, pd.DataFrame) for one in run)
    assert not (results.profile / "reports/tables").exists()  # the joined report lies apart
    assert isinstance(results, Results)
