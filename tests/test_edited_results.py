"""Results that were edited since their stage ran: said beside all that is made of them, or refused where torn."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import reporting_results
import yaml
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.tree import Tree

from visdyn.paths import repository_root
from visdyn.reporting import items, ledger, provenance, rendering, report
from visdyn.reporting.provenance import EDITED, output_digest, recorded_outputs
from visdyn.reporting.results import ResultError, Results
from visdyn.result_tables import KEYS, TABLES, ResultTableError, check_columns, key_columns, read_columns

SCORES = "evaluation/fdm_scores.csv"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return reporting_results.write(tmp_path_factory.mktemp("written"))


@pytest.fixture
def profile(written, tmp_path):
    """A profile whose dvc.lock records its results as they are."""
    folder = tmp_path / "profile"
    shutil.copytree(written, folder)
    reporting_results.repository(folder)
    images = pd.read_csv(folder / "reports/results" / SCORES).drop_duplicates(["system", "chain", "subset", "id"])
    rows = [("B", name, name, "trained", "", n, n, 0, "") for name, n in images.groupby("system").size().items()]
    systems = pd.DataFrame(rows, columns=list(TABLES["evaluation/systems.csv"]))
    systems.to_csv(folder / "reports/results/evaluation/systems.csv", index=False)
    lock(folder)
    return folder


def lock(folder):
    outs = sorted((folder / "reports/results").iterdir())
    stages = {
        out.name: {"outs": [{"path": f"reports/results/{out.name}", "hash": "md5", "md5": output_digest(out)}]}
        for out in outs
        if out.name != "external"
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def edit(folder, name, change, header=True):
    path = folder / "reports/results" / name
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False, header=header)


def build(folder, name, results=None):
    results = results or Results(folder, repository=folder)
    return rendering.build_item(items.load(folder)[name], results, folder / "reports", folder, strict=True)


def test_the_hash_of_a_folder_is_the_one_that_dvc_gives_it(tmp_path):
    tree = Tree()
    for name in ("b.csv", "a/b.csv", "a-b.csv", "A.csv", "ä.csv"):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        tree.add(tuple(name.split("/")), Meta(), HashInfo("md5", output_digest(path)))
    tree.digest()
    assert output_digest(tmp_path / "out") == tree.hash_info.value
    (tmp_path / "out/.ipynb_checkpoints").mkdir()
    (tmp_path / "out/.ipynb_checkpoints/b.csv").write_text("")
    assert output_digest(tmp_path / "out") == tree.hash_info.value


def test_dvc_lock_in_git_records_the_results_in_git():
    found = recorded_outputs(repository_root())
    assert not found.problem
    assert f"reports/results/{SCORES}".startswith(found.output_of(f"reports/results/{SCORES}"))


def test_results_as_their_stages_left_them_are_not_remarked_on(profile):
    results = Results(profile, repository=profile)
    outcome = build(profile, "b_table6")
    claims = ledger.build_ledger(results, profile)
    page = report.build(profile, profile, [outcome], claims=claims).read_text()
    assert outcome.edited == ""
    assert EDITED not in page + "".join(claims["note"])
    assert "edited" not in json.loads((profile / "reports/tables/b_table6.json").read_text())


def test_one_number_changed_by_hand_is_said_beside_all_that_is_made_of_it(profile):
    edit(profile, SCORES, lambda table: table.assign(value=table["value"].where(table.index != 5, "9.75")))
    said = f"{EDITED}: reports/results/evaluation"
    outcome, other = build(profile, "b_table6"), build(profile, "b_figure2")
    claims = ledger.build_ledger(Results(profile, repository=profile), profile)
    page = report.build(profile, profile, [outcome, other], claims=claims).read_text()
    assert (outcome.edited, other.edited) == (said, "")
    assert rendering.status_frame([outcome])["edited"].tolist() == [said]
    for name in ("tables/b_table6.md", "tables/b_table6.tex", "tables/b_table6.json"):
        assert said in (profile / "reports" / name).read_text(), name
    rests = claims["measured"].str.contains(SCORES) & (claims["verdict"] != "not measured")
    assert rests.any()
    assert claims.loc[rests, "note"].str.contains(said).all()
    others = ~claims["measured"].str.contains("evaluation/|verification/")
    assert not claims.loc[others, "note"].str.contains(EDITED).any()
    assert page.count("<b>reports/results/evaluation</b>") == 1
    article = page[page.index('<article id="b_table6"') :]
    assert said.capitalize() in article[: article.index("</article>")]
    article = page[page.index('<article id="b_figure2"') :]
    assert EDITED not in article[: article.index("</article>")].lower()


def test_a_figure_of_edited_results_says_so_beside_it(profile):
    edit(profile, "fdm/training.csv", lambda table: table.assign(loss=table["loss"].where(table.index != 5, "0.001")))
    for item in items.load(profile):
        if item.figure and "fdm/training.csv" in item.files:
            assert build(profile, item.id).edited == f"{EDITED}: reports/results/fdm"
            assert EDITED in (profile / f"reports/figures/{item.figure}.json").read_text()
            return
    pytest.fail("no figure is drawn from fdm/training.csv")


@pytest.mark.parametrize("gone", [True, False])
def test_a_file_more_or_less_is_an_edit(profile, gone):
    path = profile / "reports/results/evaluation" / ("judge_runs.csv" if gone else "notes.txt")
    path.unlink() if gone else path.write_text("")
    assert Results(profile).edited([SCORES]) == f"{EDITED}: reports/results/evaluation"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not known: there is no dvc.lock"),
        ("<<<<<<< HEAD\nstages: {", "is not known: dvc.lock cannot be read"),
        ("stages: [1]", "is not known: dvc.lock cannot be read"),
    ],
)
def test_without_a_lock_the_page_says_that_edits_cannot_be_seen(profile, content, said):
    (profile / "dvc.lock").unlink()
    if content:
        (profile / "dvc.lock").write_text(content)
    outcome = build(profile, "b_figure2")
    page = report.build(profile, profile, [outcome], claims=ledger.build_ledger(Results(profile), profile))
    assert said in page.read_text()
    assert outcome.edited == ""


def test_the_command_names_what_was_edited(profile, monkeypatch, capsys):
    from visdyn.reporting import __main__ as command

    monkeypatch.setenv("VISDYN_ROOT", str(profile))
    frame = pd.DataFrame({"status": ["not run"], "reason": ["x"], "paper": ["B"], "label": ["y"]})
    monkeypatch.setattr(command, "build_all", lambda *arguments, **options: frame)
    command.main([])
    assert EDITED not in capsys.readouterr().out
    edit(profile, SCORES, lambda table: table.iloc[::-1])
    command.main([])
    assert f"reports/results/evaluation: {EDITED}" in capsys.readouterr().out


def test_results_that_dvc_does_not_make_are_recorded_by_what_makes_them(profile):
    path = profile / "reports/results/robust/labels.csv"
    path.parent.mkdir()
    path.write_text("system,chain,pairs,selected,correct\nx,0,4,2,0.5\n")
    provenance.record_results(profile, "robust")
    results = Results(profile)
    assert results.edited(["robust/labels.csv"]) == ""
    edit(profile, "robust/labels.csv", lambda table: table.assign(correct="0.9"))
    assert results.edited(["robust/labels.csv"]) == f"{EDITED}: reports/results/robust"
    assert json.loads((profile / "reports/machine.json").read_text())["stages"] == {}


def test_results_of_real_data_are_recorded_file_by_file(profile):
    folder = profile / "reports/results/external"
    source = {"results": {"aurora_copy.csv": provenance.sha256(folder / "aurora_copy.csv")}}
    (folder / "provenance.json").write_text(json.dumps({"aurora_bench": source}))
    results = Results(profile)
    assert results.edited(["external/aurora_copy.csv", "external/crop_cost.csv"]) == ""
    edit(profile, "external/aurora_copy.csv", lambda table: table.assign(l1="0.001"))
    edit(profile, "external/crop_cost.csv", lambda table: table.assign(copy="0.001"))  # of which nothing is recorded
    said = f"{EDITED}: reports/results/external/aurora_copy.csv"
    assert results.edited(["external/aurora_copy.csv", "external/crop_cost.csv"]) == said


def test_every_table_says_what_tells_its_rows_apart():
    assert {name for name in TABLES if name not in KEYS} == {name for name in TABLES if "quarantine" in name}
    for name in TABLES:
        assert key_columns(name) == [] if "quarantine" in name else key_columns(name)


@pytest.mark.parametrize("name", [name for name in TABLES if key_columns(name)])
def test_a_row_that_stands_twice_is_neither_read_nor_written(name, tmp_path):
    row = {column: "x" if kind is str else 1 for column, kind in TABLES[name].items()}
    table = pd.DataFrame([row])
    check_columns(name, table)
    table = pd.DataFrame([row, row])
    table.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ResultTableError, match="has a row twice"):
        read_columns(name, tmp_path / "a.csv")
    with pytest.raises(ResultTableError, match="has a row twice"):
        check_columns(name, table)


@pytest.mark.parametrize("lines", [slice(None), slice(3, 9)])
def test_doubled_rows_are_refused_with_and_without_a_lock(profile, lines):
    edit(profile, SCORES, lambda table: pd.concat([table, table[lines]]))
    outcome = build(profile, "b_table6")
    assert outcome.status == "not run"
    assert f"{SCORES} has a row twice: system copy, chain 0" in outcome.reason
    assert EDITED in outcome.reason
    (profile / "dvc.lock").unlink()
    assert f"{SCORES} has a row twice" in build(profile, "b_table6").reason


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (lambda text: text[: len(text) // 2], "is cut"),
        (lambda text: text[: text.index("\n", len(text) // 2) + 1], ""),
        (lambda text: text[: text.index("\n") + 1] + text[text.index("\n", len(text) // 2) + 1 :], ""),
        (lambda text: text.replace("clip_i", "clip-i"), ""),
        (lambda text: text.replace("supervised,", "superwised,"), "systems.csv"),
        (lambda text: text.replace("supervised,", "superwised,", 30), ""),
        (lambda text: text.replace("\nsupervised,1", "\nsupervised,7", 30), ""),
        (lambda text: text.replace(",kubric,", ",cubric,", 7), ""),
        (lambda text: text.replace(",dino,", ",", 1), "has 5 cells under 6 columns"),
        (lambda text: text.replace(",dino,", ",dino,,", 1), "has 7 cells under 6 columns"),
        (lambda text: text.replace("\n", "\n\n", 2), "has 1 cells under 6 columns"),
        (lambda text: text.replace("value", "worth", 1), "lacks the columns value"),
        (lambda text: text.replace(",dino,", ',"dino,', 1), "is no CSV file"),
        (lambda text: text.encode("utf-16"), "is no CSV file"),
        (lambda text: "", "is empty"),
    ],
)
def test_cut_and_renamed_rows_are_refused_where_the_lock_has_another_hash(profile, cut, said):
    results = Results(profile, repository=profile)
    results.read(SCORES)
    path = profile / "reports/results" / SCORES
    changed = cut(path.read_text())
    assert changed != path.read_text()
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(ResultError) as refused:
        results.read(SCORES)
    assert SCORES in str(refused.value)
    assert said in str(refused.value)
    assert EDITED in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "probing/likelihoods.csv",
        "verification/candidates.csv",
        "fdm/training.csv",
        "doundo/training.csv",
        "mining/keyframes.csv",
        "evaluation_doundo/doundo_scores.csv",
        "evaluation/candidate_scores.csv",
    ],
)
def test_the_other_tables_miss_their_last_rows_too(profile, name):
    results = Results(profile, repository=profile)
    assert len(results.read(name))
    edit(profile, name, lambda table: table[: len(table) - 2])
    with pytest.raises(ResultError, match="is not whole") as refused:
        results.read(name)
    assert EDITED in str(refused.value)


def test_a_table_that_its_stage_wrote_with_gaps_is_read(profile):
    """What the lock vouches for is not suspected: an external program may have made half of a system's images."""
    edit(profile, "fdm/training.csv", lambda table: table[:-3])
    with pytest.raises(ResultError, match="is not whole"):
        Results(profile).read("fdm/training.csv")
    lock(profile)
    assert len(Results(profile).read("fdm/training.csv"))
