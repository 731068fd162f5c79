"""The human study without its pages: definition, plan, store, export and analysis."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import toy_study
import yaml
from PIL import Image
from scipy import stats

from visdyn.evaluation.statistics import sign_flip_test
from visdyn.human_study import analysis
from visdyn.human_study.export import COLUMNS, export
from visdyn.human_study.plan import plan
from visdyn.human_study.prepare import write_best_worst
from visdyn.human_study.study import StudyError, load_study
from visdyn.human_study.study_store import Choice, Store, StoreError
from visdyn.quarantine import Quarantine


@pytest.fixture
def study(tmp_path):
    return load_study(toy_study.best_worst(tmp_path / "study", items_per_subset=2))


@pytest.fixture
def store(tmp_path, study):
    return Store(tmp_path / "answers.sqlite", study.fingerprint)


def _edit(folder, **keys):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


# ---------------------------------------------------------------- the definition
def test_a_written_study_is_read_back(tmp_path):
    study = load_study(toy_study.best_worst(tmp_path / "study"))
    assert study.systems == toy_study.SYSTEMS
    assert [item.key for item in study.items] == ["ag/0", "ag/1", "ag/2", "kubric/3", "kubric/4", "kubric/5"]
    assert [criterion.key for criterion in study.settings.criteria] == ["realism", "instruction", "over_editing"]
    shown = np.asarray(Image.open(study.items[4].outputs["Yak-Net"][0]))
    np.testing.assert_array_equal(shown, toy_study.image(204))


def test_a_pairwise_study_has_two_images_a_system(tmp_path):
    study = load_study(toy_study.pairwise(tmp_path / "study"))
    assert [path.name for path in study.items[0].outputs["Yak-Net"]] == ["P01_0-forward.png", "P01_0-reverse.png"]
    assert (study.items[0].prompt, study.items[0].reverse_prompt) == ("open", "close")


def test_items_that_cannot_be_shown_are_set_aside_with_their_reason(tmp_path):
    folder = toy_study.best_worst(tmp_path / "study")
    (folder / "outputs/Yak-Net/ag/1.png").unlink()
    (folder / "outputs/Yak-Net/kubric/4.png").write_bytes(b"no image")
    lines = (folder / "items.jsonl").read_text() + "no json\n" + json.dumps({"id": "9", "subset": "ag"}) + "\n"
    (folder / "items.jsonl").write_text(lines)
    bad = Quarantine()
    assert [item.id for item in load_study(folder, bad).items] == ["0", "2", "3", "5"]
    reasons = {entry.item: entry.reason for entry in bad}
    assert "Yak-Net has no image ag/1" in reasons["items.jsonl line 2"]
    assert "cannot be decoded" in reasons["items.jsonl line 5"]
    assert set(reasons) == {f"items.jsonl line {number}" for number in (2, 5, 7, 8)}


@pytest.mark.parametrize(
    ("subset", "name"), [("ag", "../../secret"), ("/etc", "hostname"), ("ag", "a\0b"), ("ag", "link")]
)
def test_a_name_that_leads_out_of_the_folder_is_never_read(tmp_path, subset, name):
    folder = toy_study.best_worst(tmp_path / "study")
    for secret in (tmp_path / "secret.png", folder / "outputs/secret.png"):
        Image.fromarray(toy_study.image(0)).save(secret)
    for system in toy_study.SYSTEMS:
        (folder / f"outputs/{system}/ag/link.png").symlink_to(tmp_path / "secret.png")
    record = {"id": name, "subset": subset, "prompt": "p", "source": "sources/00000.png"}
    stolen = {"id": "0", "subset": "ag", "prompt": "p", "source": "../secret.png"}
    (folder / "items.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(stolen) + "\n")
    with pytest.raises(StudyError, match=r"no item that can be shown: 2 quarantined.*leads out of"):
        load_study(folder)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"sytems": 1}, "sytems"),
        ({"kind": "rating"}, "kind is 'rating'"),
        ({"systems": ["a"]}, "2 to 12 different names"),
        ({"systems": ["a", "a"]}, "2 to 12 different names"),
        ({"systems": ["a|b", "c"]}, "without '|'"),
        ({"items_per_subset": 0}, "items_per_subset"),
        ({"criteria": [{"key": "x"}]}, "criterion has key"),
        ({"criteria": []}, "criteria must be"),
    ],
)
def test_a_wrong_definition_is_named(tmp_path, keys, words):
    folder = toy_study.best_worst(tmp_path / "study")
    _edit(folder, **keys)
    with pytest.raises(StudyError) as error:
        load_study(folder)
    assert words in str(error.value)


def test_a_study_is_not_written_over_another(tmp_path):
    toy_study.best_worst(tmp_path / "study")
    with pytest.raises(StudyError, match="another folder"):
        toy_study.best_worst(tmp_path / "study")
    with pytest.raises(StudyError, match="has 1 images for 0 items"):
        write_best_worst(tmp_path / "other", [], {"a": [toy_study.image(0)]})


# ---------------------------------------------------------------- the plan
def test_a_plan_is_a_function_of_seed_and_annotator(tmp_path):
    folder = toy_study.best_worst(tmp_path / "study", per_subset=6)
    study = load_study(folder)
    assert plan(study, 1) == plan(load_study(folder), 1)
    assert plan(study, 1) != plan(study, 2)
    _edit(folder, seed=1)
    assert plan(study, 1) != plan(load_study(folder), 1)


def test_systems_are_shuffled_for_every_item_and_annotator(tmp_path):
    study = load_study(toy_study.best_worst(tmp_path / "study", per_subset=6))
    orders = [task.shown for annotator in range(1, 101) for task in plan(study, annotator)]
    assert len(set(orders)) == 24
    first = Counter(order[0] for order in orders)
    assert stats.chisquare(list(first.values())).pvalue > 0.001
    assert len({task.shown for task in plan(study, 1)}) > 1


def test_every_annotator_gets_so_many_items_of_each_subset(tmp_path):
    study = load_study(toy_study.best_worst(tmp_path / "study", per_subset=5, items_per_subset=3))
    pages = plan(study, 7)
    assert Counter(task.item.subset for task in pages) == {"ag": 3, "kubric": 3}
    assert len({task.item.key for task in pages}) == 6


def test_a_balanced_draw_shows_every_item_equally_often(tmp_path):
    study = load_study(toy_study.best_worst(tmp_path / "study", per_subset=5, items_per_subset=3, draw="balanced"))
    counts = Counter(task.item.key for annotator in range(1, 6) for task in plan(study, annotator))
    assert set(counts.values()) == {3}
    assert len(counts) == 10


def test_pairs_take_turns(tmp_path):
    study = load_study(toy_study.pairwise(tmp_path / "one", count=6))
    for item in study.items:
        pairs = [task.key for number in (1, 2, 3) for task in plan(study, number) if task.item.key == item.key]
        assert len(set(pairs)) == 3
    assert set(Counter(tuple(sorted(task.shown)) for task in plan(study, 1)).values()) == {2}
    everything = load_study(toy_study.pairwise(tmp_path / "all", count=2, pairs="all"))
    assert len({task.key for task in plan(everything, 1)}) == 6


# ---------------------------------------------------------------- the store
def test_the_same_submission_twice_is_one_answer(store):
    annotator, _ = store.join("Ada", "form-1")
    first = {"overall": (Choice("a", "b"), 0)}
    assert store.record(annotator.number, "t", "ab", first)
    assert store.record(annotator.number, "t", "ab", first)
    assert [answer.revision for answer in store.answers()] == [1]


def test_a_stale_page_does_not_overwrite_and_a_fresh_one_does(store):
    number = store.join("", "form-1")[0].number
    store.record(number, "t", "ab", {"overall": (Choice("a", "b"), 0)})
    assert not store.record(number, "t", "ab", {"overall": (Choice("b", "a"), 0)})
    assert store.page(number, "t")["overall"].choice == Choice("a", "b")
    assert store.record(number, "t", "ab", {"overall": (Choice("b", "a"), 1)})
    assert store.page(number, "t")["overall"].choice == Choice("b", "a")
    assert store.page(number, "t")["overall"].revision == 2


def test_a_page_is_stored_whole_or_not_at_all(store):
    number = store.join("", "form-1")[0].number
    with pytest.raises(sqlite3.IntegrityError):
        store.record(number, "t", "ab", {"one": (Choice("a", "b"), 0), "two": (Choice(None, "b"), 0)})
    assert store.answers() == []


def test_the_same_consent_form_is_the_same_annotator(store):
    first, token = store.join("Ada", "form-1")
    assert store.join("Ada", "form-1") == (first, token)
    assert store.join("", "form-2")[0].number == 2
    assert store.annotator(token) == first
    assert store.annotator("guess") is None
    assert store.annotator(None) is None


def test_tokens_are_not_in_the_file(store):
    _, token = store.join("Ada", "form-1")
    files = store.path.parent.glob("answers.sqlite*")
    assert token.encode() not in b"".join(path.read_bytes() for path in files)


def test_writers_at_once_lose_nothing(store):
    def annotate(row):
        number = store.join("", f"form-{row}")[0].number
        for task in range(6):
            assert store.record(number, str(task), "ab", {"overall": (Choice("a", "b"), 0)})
        return number

    with ThreadPoolExecutor(12) as pool:
        numbers = list(pool.map(annotate, range(12)))
    assert sorted(numbers) == list(range(1, 13))
    assert len(store.answers()) == 72


def test_answers_to_another_study_are_refused(tmp_path, store, study):
    assert Store(store.path, study.fingerprint).secret == store.secret
    with pytest.raises(StoreError, match="another study"):
        Store(store.path, "else")
    (tmp_path / "text").write_text("this is no database, and long enough to be seen as such " * 20)
    with pytest.raises(StoreError, match="no file of answers"):
        Store(tmp_path / "text", "x")


def test_the_fingerprint_sees_images_and_questions_but_not_wording(tmp_path):
    folder = toy_study.best_worst(tmp_path / "study")
    before = load_study(folder).fingerprint
    _edit(folder, title="Other words", consent=["Others"])
    assert load_study(folder).fingerprint == before
    _edit(folder, ask="each")
    asked = load_study(folder).fingerprint
    Image.fromarray(toy_study.image(9999)).save(folder / "outputs/Yak-Net/ag/1.png")
    assert len({before, asked, load_study(folder).fingerprint}) == 3


# ---------------------------------------------------------------- export
def test_export_and_reading_back(tmp_path, store, study):
    for row, name in enumerate(["=cmd|' /C calc'!A0", 'Ada, "the" first']):
        number = store.join(name, f"form-{row}")[0].number
        for task in plan(study, number, store.draw):
            choice = Choice(task.shown[0], task.shown[1])
            store.record(number, task.key, task.shown, {"overall": (choice, 0)})
    assert export(study, store, tmp_path / "out.csv") == 8
    written = (tmp_path / "out.csv").read_bytes()
    table = analysis.read_answers(tmp_path / "out.csv")
    assert list(table.columns) == list(COLUMNS)
    assert list(table["position"]) == [1, 2, 3, 4] * 2
    assert "Ada" not in written.decode()  # a name greets its owner, and leaves with no export
    assert set(table["kind"]) == {"best_worst"}
    assert (table["best"] == table["shown"].str.split("|").str[0]).all()
    assert list(table["item"][:4]) == [task.item.id for task in plan(study, 1, store.draw)]
    export(study, store, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == written


# ---------------------------------------------------------------- analysis
def _answers(rows, shown="a|b|c", criterion="overall", assigned=2):
    """Rows are (annotator, subset, item, best, worst[, shown])."""
    records = []
    for position, (annotator, subset, item, best, worst, *own) in enumerate(rows, 1):
        values = ("best_worst", annotator, assigned, position, subset, item, criterion, own[0] if own else shown, best,
                  worst, 1, "2026-01-01T00:00:00+00:00")  # fmt: skip
        records.append(dict(zip(COLUMNS, values, strict=True)))
    return pd.DataFrame(records)


def test_table5_by_hand():
    answers = _answers([(1, "ag", "0", "a", "b"), (1, "ku", "1", "c", "a"), (2, "ag", "0", "a", "c")])
    table = analysis.table5(answers, "a", seed=0, subsets=["ku", "ag"]).set_index(["subset", "system"])
    assert list(dict.fromkeys(table.index.get_level_values(0))) == ["ku", "ag", "All"]
    assert table.loc[("ag", "a"), "score"] == 1
    assert table.loc[("ag", "b"), "score"] == -0.5
    assert table.loc[("ku", "a"), "score"] == -1
    assert table.loc[("All", "a"), "score"] == pytest.approx(1 / 3)
    assert table.groupby("subset")["score"].sum().to_numpy() == pytest.approx(0)
    assert table.loc[("All", "a"), "n"] == 3
    assert table.loc[("All", "a"), "annotators"] == 2
    assert table.loc[("ku", "a"), "interval_over"] == "answers"
    assert table.loc[("ag", "a"), "interval_over"] == "annotators"


def test_table5_tests_are_scipys_and_find_a_planted_gap():
    draw = np.random.default_rng(0)
    rows = []
    for annotator in range(1, 15):
        for item in range(25):
            best = "a" if draw.random() < 0.6 else draw.choice(["b", "c"])
            rows.append((annotator, "ag", str(item), best, draw.choice([name for name in "abc" if name != best])))
    answers = _answers(rows)
    table = analysis.table5(answers, "a", seed=0).set_index(["subset", "system"])
    wide = analysis.best_worst_scores(answers).pivot(index=["annotator", "item"], columns="system", values="score")
    row = table.loc[("All", "b")]
    assert row["p_wilcoxon"] == pytest.approx(stats.wilcoxon(wide["b"], wide["a"]).pvalue)
    assert row["p_pratt"] == pytest.approx(stats.wilcoxon(wide["b"], wide["a"], zero_method="pratt").pvalue)
    clusters = wide.index.get_level_values("annotator")
    assert row["p_sign_flip"] == sign_flip_test(wide["b"], wide["a"], list(clusters), 0).pvalue
    assert row["significant"]
    assert row["low"] < row["score"] < row["high"]
    assert row["nonzero"] == int((wide["a"] != wide["b"]).sum())
    assert not table.loc[("All", "a"), "significant"]
    assert pd.isna(table.loc[("All", "a"), "p_wilcoxon"])


def test_intervals_resample_annotators():
    """Two annotators who always disagree: over answers the interval would be narrow, over annotators it is all."""
    rows = [(annotator, "ag", str(item), best, worst) for annotator, best, worst in ((1, "a", "b"), (2, "b", "a"))
            for item in range(50)]  # fmt: skip
    row = analysis.table5(_answers(rows), "a", seed=0).set_index(["subset", "system"]).loc[("All", "b")]
    assert (row["low"], row["score"], row["high"]) == (-1, 0, 1)


def test_table7_by_hand():
    rows = [(1, "open", "0", "a", "b", "b|a"), (1, "open", "1", "", "", "a|b"), (2, "open", "0", "c", "a", "a|c"),
            (2, "open", "1", "b", "c", "b|c")]  # fmt: skip
    answers = _answers(rows)
    table = analysis.table7(answers, seed=0).set_index("system")
    assert table["preference"].to_dict() == pytest.approx({"a": 100 / 3, "b": 100 / 3, "c": 50})
    assert table["ties_halved"].to_dict() == pytest.approx({"a": 50, "b": 50, "c": 50})
    assert table["n"].to_dict() == {"a": 3, "b": 3, "c": 2}
    pairs = analysis.comparisons(answers, seed=0).set_index(["first", "second"])
    assert pairs.loc[("a", "b"), ["wins", "ties", "losses"]].tolist() == [1, 1, 0]
    assert pairs.loc[("a", "c"), ["wins", "ties", "losses"]].tolist() == [0, 0, 1]


def test_tables_refuse_the_other_kind_and_unknown_names():
    best_worst = _answers([(1, "ag", "0", "a", "b")])
    pairs = _answers([(1, "ag", "0", "", "", "a|b")])
    for call, words in (
        (lambda: analysis.table7(best_worst, 0), "not a pairwise study"),
        (lambda: analysis.table5(pairs, "a", 0), "not a best/worst study"),
        (lambda: analysis.table5(best_worst, "d", 0), "the systems are a, b, c"),
        (lambda: analysis.table5(best_worst, "a", 0, "realism"), "answers under: overall"),
    ):
        with pytest.raises(analysis.AnswersError, match=words):
            call()


def test_who_finished():
    answers = _answers([(1, "ag", "0", "a", "b"), (1, "ag", "1", "a", "b"), (2, "ag", "0", "a", "b")])
    assert analysis.participation(answers)["finished"].tolist() == [True, False]
    assert set(analysis.finished(answers)["annotator"]) == {1}
