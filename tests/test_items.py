"""The map of paper items is complete, consistent with the contract of results, and never claims too much."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml

from visdyn.paths import repository_root
from visdyn.reporting import items, published
from visdyn.reporting import rendering as outputs
from visdyn.reporting.results import ResultError, Results
from visdyn.result_tables import TABLES


@pytest.fixture(scope="module")
def item_map():
    return items.load()


def altered(tmp_path, change):
    """A copy of the published folder whose items.yaml went through `change`."""
    folder = tmp_path / "data" / "published"
    folder.mkdir(parents=True)
    for path in published.folder().glob("*.csv"):
        (folder / path.name).write_text(path.read_text())
    content = yaml.safe_load((published.folder() / "items.yaml").read_text())
    change({item["id"]: item for item in content["items"]}, content)
    (folder / "items.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def test_every_table_and_figure_of_both_papers_is_there(item_map):
    expected = {f"b_figure{number}" for number in range(1, 13)} | {f"b_table{number}" for number in range(1, 8)}
    expected |= {f"d_figure{number}" for number in range(1, 15)} | {f"d_table{number}" for number in range(1, 8)}
    assert {item.id for item in item_map if item.paper in "BD"} == expected | {"b_algorithm1", "d_page"}


def test_the_page_of_the_contract_lists_the_declared_columns():
    text = (repository_root() / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| ([\w/., ]+\.csv) \| (.+) \|$", text, re.M)
    assert len(rows) > 10
    contract = {}
    for files, columns in rows:
        names = re.sub(r"\([^)]*\)", "", columns)
        for file in files.split(", "):
            contract[file.strip()] = [name.strip() for name in names.split(",")]
    assert contract == {name: list(columns) for name, columns in TABLES.items()}


def test_no_item_claims_reproduction_in_advance(item_map):
    assert all(item.status != "reproduced" for item in item_map)


def test_items_with_a_judge_or_encoder_name_it(item_map):
    scored = {"evaluation/fdm_scores.csv", "evaluation_doundo/doundo_scores.csv"}
    assert all(item.instrument for item in item_map if scored & set(item.files))


def test_every_source_file_that_the_map_names_is_there():
    named = re.findall(r"\bsrc/[\w./-]*\w", (published.folder() / "items.yaml").read_text())
    assert named
    assert [name for name in named if not (repository_root() / name).exists()] == []


def test_what_is_not_run_says_what_it_would_take(item_map):
    assert all(item.needs for item in item_map if item.status == "not run")


def test_every_output_has_a_builder_and_every_builder_an_item(item_map):
    runnable = [item for item in item_map if item.status != "not run"]
    assert {item.id for item in runnable if item.figure} == set(outputs.FIGURES)
    assert {item.id for item in runnable if item.table} == set(outputs.TABLES)
    assert {item.id for item in item_map if item.figure and item.status == "not run"} == set(outputs.SCHEMATICS)


def test_every_published_csv_is_used(item_map):
    used = {item.published for item in item_map} | {"b_text", "d_text"}
    assert set(published.names()) == used - {""}


def test_names_of_outputs_are_unique(item_map):
    for kind in ("table", "figure"):
        found = [getattr(item, kind) for item in item_map if getattr(item, kind)]
        assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found, _: found["b_table2"].pop("stage"), "b_table2 has stage None"),
        (lambda found, _: found["b_table2"].update(stage="magic"), "b_table2 has stage 'magic'"),
        (
            lambda found, _: found["b_table2"].update(results=["fdm/secret.csv"]),
            "fdm/secret.csv, which no stage writes",
        ),
        (lambda found, _: found["b_table2"].update(status="reproduced"), "status 'reproduced'"),
        (lambda found, _: found["b_table2"].update(published="b_table99"), "no such CSV"),
        (lambda found, _: found["b_table2"].update(systems="diagonal"), "one of row, column, panel"),
        (lambda found, _: found["b_table2"].update(comparison=""), "needs results, a comparison"),
        (lambda found, _: found["b_figure12"].pop("needs"), "say in `needs`"),
        (lambda found, _: found["b_table2"].update(colour="red"), "colour"),
        (lambda found, content: content["items"].append(dict(found["b_table2"])), "stands twice"),
    ],
)
def test_a_faulty_map_is_refused(tmp_path, change, message):
    with pytest.raises(items.ItemError, match=re.escape(message)):
        items.load(altered(tmp_path, change))


def test_an_item_of_optional_files_needs_one_of_them(tmp_path, item_map):
    item = item_map["b_table6"]
    results = Results(tmp_path)
    assert "aurora_copy.csv is missing" in item.problem(results)
    assert "run `make external`" in item.problem(results)
    path = tmp_path / "reports" / "results" / "external" / "aurora_copy.csv"
    path.parent.mkdir(parents=True)
    path.write_text("subset,geometry,n,l1,published\nag,paper,50,0.0694,0.069\n")
    assert item.problem(results) is None
    assert "is missing" in replace(item, results=("evaluation/fdm_scores.csv",)).problem(results)


def test_a_result_outside_the_map_cannot_be_read(tmp_path, item_map):
    view = Results(tmp_path, frozenset(["idm_evaluation/text_metrics.csv"]))
    with pytest.raises(KeyError, match="declare it there"):
        view.read("evaluation/fdm_scores.csv")


def test_results_of_public_data_lie_at_the_repository_root(tmp_path, item_map):
    profile = tmp_path / "profiles" / "smoke"
    results = Results(profile, repository=tmp_path)
    assert results.path("external/segments.csv") == tmp_path / "reports/results/external/segments.csv"
    assert results.path("mining/segments.csv") == profile / "reports/results/mining/segments.csv"
    assert results.view(["external/segments.csv"]).repository == tmp_path
    with pytest.raises(ResultError, match=r"reports/results/external/segments\.csv is missing; run `make external`"):
        results.read("external/segments.csv")
