"""The papers' numbers: shape, arithmetic that their own tables must obey, and their text where it is at hand."""

from __future__ import annotations

import re

import pandas as pd
import pytest
import yaml

from visdyn.paths import repository_root, shared_data
from visdyn.reporting import published

CELLS = {
    "b_figure2": 72, "b_table1": 20, "b_table2": 72, "b_table3": 26, "b_table4": 18, "b_table5": 24, "b_table6": 234,
    "b_table7": 18, "d_table1": 30, "d_table2": 30, "d_table3": 20, "d_table4": 40, "d_table5": 36, "d_table6": 30,
    "d_table7": 3, "d_page": 63, "d_figure11": 72, "d_figure12": 18,
}  # fmt: skip


def value(name: str, **cell: str) -> float:
    frame = published.load(name)
    for column, wanted in cell.items():
        frame = frame[frame[column] == wanted]
    assert len(frame) == 1
    return frame["value"].iloc[0]


def wide(name: str) -> pd.DataFrame:
    return published.load(name).pivot(index="row", columns="column", values="value")


@pytest.mark.parametrize(("name", "count"), CELLS.items())
def test_every_cell_is_there(name, count):
    assert len(published.load(name)) == count


def test_some_numbers_as_printed():
    assert value("b_table2", row="AG", column="C-FDM") == 3.64
    assert value("b_table6", panel="Something", row="L1", column="Copy") == 0.135
    assert value("b_figure2", panel="Forward-dynamics Modelling", row="Copy. Obs.", column="Chameleon-7B") == 100.0
    assert value("d_table5", row="Do-Undo", column="OF-F") == 89.2
    assert value("d_text", row="test set", column="samples") == 662


def test_table2_rows_average_to_the_printed_mean_but_for_liquid():
    scores = published.load("b_table2")
    table = scores[scores["panel"].str.startswith("Forward")].pivot(index="row", columns="column", values="value")
    gap = (table.drop(index="AURORA-BENCH Avg.").mean() - table.loc["AURORA-BENCH Avg."]).abs()
    assert list(gap[gap > 0.005].index) == ["L-FT"]
    noted = scores[(scores["column"] == "L-FT") & scores["row"].str.contains("Avg")]["note"].iloc[0]
    assert "4.006" in noted


def test_table6_all_is_the_mean_over_subsets_and_agrees_with_table2():
    table6 = published.load("b_table6")
    scores = table6[table6["row"] == "GPT-4o"].pivot(index="panel", columns="column", values="value")
    assert (
        scores.drop(index="All").mean() - scores.loc["All"]
    ).abs().max() < 0.0021  # three decimals, the third a zero
    assert (scores["Copy"] == 0).all()
    table2 = published.load("b_table2")
    for system in ("C-FT", "C-FDM", "GoT", "SE"):
        theirs = table2[(table2["column"] == system) & table2["panel"].str.startswith("Forward")].set_index("row")[
            "value"
        ]
        assert (scores[system].drop("All") - theirs.reindex(scores.index.drop("All"))).abs().max() < 0.0051


def test_figure2_percentages_are_counts_of_248():
    share = published.load("b_figure2")["value"] / 100
    assert ((share * 248).round() / 248 - share).abs().max() <= 0.0005


def test_tables_4_and_5_sum_up():
    ablation, votes = wide("b_table4"), wide("b_table5")
    assert (ablation.drop(index="All").mean() - ablation.loc["All"]).abs().max() < 0.005
    assert votes.sum(axis=1).abs().max() < 0.011


def test_doundo_tables_3_and_4_are_the_same_measurement():
    by_action = published.load("d_table4").groupby(["panel", "row"])["value"].mean()
    for model in ("Bagel", "Do-Undo"):
        assert by_action[model, "IF"] == pytest.approx(
            value("d_table3", row=model, column="Instruction (IF)"), abs=0.006
        )
        assert by_action[model, "IDP"] == pytest.approx(
            value("d_table3", row=model, column="Identity (IDP)"), abs=0.006
        )


def test_preferences_sum_to_more_than_everything():
    assert published.load("d_table7")["value"].sum() == pytest.approx(133.2)


@pytest.mark.parametrize(("prefix", "paper"), [("b_", "bootstrapping-dynamics.txt"), ("d_", "do-undo.txt")])
def test_every_number_of_a_table_occurs_in_the_paper(prefix, paper):
    shared = shared_data()
    if shared is None or not (shared / "papers" / paper).is_file():
        pytest.skip(f"the paper's text {paper} is not at hand (VISDYN_SHARED)")
    printed, earlier = (
        (shared / "papers" / file).read_text().replace(",", "") for file in (paper, "bootstrapping-dynamics-v1.txt")
    )
    for name in published.names():
        if not name.startswith(prefix) or name.endswith("_text") or name == "d_page":  # of no paper's text
            continue
        frame = published.load(name)
        for cell in frame.dropna(subset=["value"]).itertuples():
            text = f"{cell.value:.{cell.digits}f}"
            source = earlier if cell.note.startswith("the earlier version") else printed
            # 100.0 of Figure 7 is said in words
            assert text in source or cell.note.startswith("appendix D"), f"{name}: {cell.row} / {cell.column} = {text}"


def test_a_cell_given_twice_is_refused(tmp_path):
    folder = tmp_path / "data" / "published"
    folder.mkdir(parents=True)
    (folder / "x.csv").write_text("panel,row,column,value,spread,note\n,a,b,1,,\n,a,b,2,,\n")
    with pytest.raises(ValueError, match="twice"):
        published.load("x", tmp_path)
    (folder / "x.csv").write_text("panel,row,column,value,spread,note\n,a,b,1.5x,,\n")
    with pytest.raises(ValueError, match="plain decimals"):
        published.load("x", tmp_path)


def test_external_data_is_pinned_or_says_why_not():
    paths = sorted((repository_root() / "data" / "external").glob("*.yaml"))
    assert len(paths) >= 7
    for path in paths:
        content = yaml.safe_load(path.read_text())
        if path.stem == "models":
            for model in content["models"]:
                assert {"id", "url", "revision", "used_by", "licence", "size"} <= set(model), model
            continue
        assert {"name", "url", "revision", "licence", "size", "command", "files"} <= set(content), path.name
        assert content["revision"] or content["unpinned"], path.name
        for file in content["files"]:
            assert re.fullmatch(r"[0-9a-f]{64}", file["sha256"]) if file["sha256"] else file["unpinned"], file
