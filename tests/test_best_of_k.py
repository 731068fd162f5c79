"""Best of K by every metric and judge: kept candidates scored like any system, who chooses, and Figure 4."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import reporting_results

from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.judges import run
from visdyn.evaluation.measurements import best_of_k, with_scores
from visdyn.evaluation.systems import candidate_systems, forward_systems
from visdyn.evaluation.systems.candidate_systems import best_of_rows, judges_of_candidates, of_candidates, with_copies
from visdyn.evaluation.systems.outputs import FORWARD
from visdyn.inference.candidates import KEYS, keep_candidates
from visdyn.params.evaluation import JudgeEntry
from visdyn.reporting import builders, published, summaries
from visdyn.reporting.results import ResultError, Results
from visdyn.reporting.tables import best_of_k as tables_best_of_k
from visdyn.result_tables import check_columns, declared_columns
from visdyn.stages.evaluation import best_of
from visdyn.trajectory import Trajectory

ARM = {"arm": "supervised", "chain": 1, "draw": 0}
CANDIDATE = [*KEYS, "candidate"]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Two items, the second without a target; three candidates each, of which the last is the first image again."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    items = [
        Trajectory(images[0], "open", images[1], "ag", "1"),
        Trajectory(images[2], "close", None, "something", "2"),
    ]
    drawn = draw.integers(0, 256, (2, 2, 16, 16, 3), dtype=np.uint8)[:, [0, 1, 0]]
    keep_candidates(tmp_path, "supervised", 1, 0, items, drawn)
    rows = [{**ARM, "subset": item.subset, "id": item.id, "candidate": candidate, "idm_log_likelihood": -candidate,
             "fdm_log_likelihood": float(candidate == 1)} for item in items for candidate in range(3)]  # fmt: skip
    monkeypatch.setattr(forward_systems, "map_gpus", _map_here)
    return tmp_path, items, drawn, pd.DataFrame(rows)


def _map_here(function, given, shared):
    return [function(shared, one) for one in given]


def test_candidates_are_scored_like_a_system_and_equal_ones_once(kept, monkeypatch):
    folder, items, drawn, table = kept
    evaluation, seen = ForwardEvaluation(items, [None, None], None, None, None), []
    score = ForwardEvaluation.score
    monkeypatch.setattr(ForwardEvaluation, "score", lambda self, images: seen.append(images) or score(self, images))
    copies = with_copies(table, folder)
    assert copies["same_as"].tolist() == [0, 1, 0] * 2
    systems = candidate_systems.candidate_systems(copies, folder, items)
    scores = of_candidates(forward_systems.score_forward(evaluation, systems), copies)
    assert [sum(image is not None for image in images) for images in seen] == [2, 2]  # the third is the first again
    wide = with_scores(table, scores).set_index(["id", "candidate"])
    assert len(wide) == 6
    for candidate in range(3):
        alone = score(evaluation, [row[candidate] for row in drawn]).pivot(index="id", columns="metric", values="value")
        for metric in ("l1_matched", "l1_paper", "score", "editing_success"):
            assert wide.loc[("1", candidate), metric] == alone.loc["1", metric]
            assert np.isnan(wide.loc[("2", candidate), metric])  # without a target


def test_a_candidate_that_is_gone_is_said(kept):
    folder, _, _, table = kept
    next(folder.rglob("candidate_1/ag/1.png")).unlink()
    with pytest.raises(FileNotFoundError, match="run stage verification again"):
        with_copies(table, folder)


def test_judges_are_asked_about_arms_whose_choice_they_are_meant_for(kept):
    folder, items, _, table = kept
    systems = candidate_systems.candidate_systems(with_copies(table, folder), folder, items)
    named = [("copy",), ("supervised",), ("supervised_best_of_3",), ()]
    judges = [JudgeEntry("endpoint", name="/".join(systems), systems=systems) for systems in named]
    found = judges_of_candidates(judges, systems)
    assert [entry.name for entry in found] == ["supervised_best_of_3", ""]
    assert found[0].systems == tuple(one.name for one in systems)
    assert found[1].systems == ()


def _judge_all(asked):
    """Return a judge in words that gives a candidate 10 less its number, and knows nothing of the item `1`'s first."""

    def ask(judges, bench, items, systems, replies, device):
        rows = []
        for system in systems:
            number = int(system.name.rpartition("/")[2])
            for item, image in zip(items, system.images[FORWARD], strict=True):
                if image is not None:
                    asked.append((system.name, item.id))
                    value = np.nan if (item.id, number) == ("1", 0) else 10.0 - number
                    keys = {"judge": "words", "paper": "B", "system": system.name, "chain": system.chain, "repeat": 0}
                    keys |= {"subset": item.subset, "id": item.id, "direction": "forward", "criterion": "score"}
                    rows.append({**dict.fromkeys(run.SCORES, ""), **keys, "value": value})
        counts = dict.fromkeys(("asked", "reused", "invalid", "refused", "failed"), 2)
        runs = [{**dict.fromkeys(run.RUNS, ""), **counts, "judge": "words", "paper": "B", "system": system.name,
                 "cost_usd": 0.5} for system in systems]  # fmt: skip
        return pd.DataFrame(rows)[run.SCORES], pd.DataFrame(runs)[run.RUNS]

    return ask


@pytest.mark.parametrize("first", ["region", "endpoint"])
def test_the_stage_scores_all_candidates_and_a_judge_in_words_is_the_oracle(kept, monkeypatch, first):
    folder, items, _, table = kept
    judges = sorted((JudgeEntry("region"), JudgeEntry("endpoint", name="words")), key=lambda entry: entry.kind != first)
    params = SimpleNamespace(trained=("best_of",), judges=judges)
    settings = SimpleNamespace(verification=SimpleNamespace(candidates=(1, 3)))
    stage = SimpleNamespace(params=params, settings=settings, root=folder, device="cpu", path=lambda _: folder,
                            read_table=lambda _: table)  # fmt: skip
    asked = []
    monkeypatch.setattr(best_of, "judge_all", _judge_all(asked))
    evaluation = ForwardEvaluation(items, [None, None], None, None, None)
    found = best_of.score_candidates(stage, evaluation)
    check_columns("evaluation/candidate_scores.csv", found.scores)
    check_columns("evaluation/candidate_judge_scores.csv", found.judged)
    check_columns("evaluation/judge_runs.csv", found.runs)
    assert len(asked) == len(set(asked)) == 4  # the third candidate is the first again: nobody is asked about it
    by = found.judged.set_index(["id", "candidate"])["value"]
    assert by[("2", 2)] == by[("2", 0)] == 10.0
    assert np.isnan(by[("1", 0)])
    assert found.runs[["system", "asked", "cost_usd"]].to_numpy().tolist() == [["supervised_candidates", 6, 1.5]]
    scores, judged = best_of.best_of_scores(stage, found)
    check_columns("evaluation/fdm_scores.csv", scores)
    check_columns("evaluation/judge_scores.csv", judged)
    ending = "supervised_best_of_3"
    assert set(judged["system"]) == {ending, f"{ending}_by_likelihood", f"{ending}_by_random", f"{ending}_by_oracle"}
    chosen = judged.set_index(["system", "id"])["value"]
    assert np.isnan(chosen[(ending, "1")])  # the IDM takes the first, of which the judge knows nothing
    assert chosen[(f"{ending}_by_likelihood", "1")] == 9.0
    oracle = judged[judged["system"] == f"{ending}_by_oracle"].set_index("id")["value"]
    assert oracle.to_dict() == {"1": 9.0, "2": 10.0}
    # Where no judge in words has a score, the region judge is asked, which needs a target: item 2 has none.
    unread = replace(found, judged=found.judged.assign(value=np.nan))
    known = best_of._oracle(stage, unread).dropna()
    assert known["id"].unique().tolist() == ["1"]
    wide = with_scores(table, found.scores).set_index(["id", "candidate"])["score"]
    assert known.sort_values("candidate")["oracle"].tolist() == wide["1"].tolist()


def _choice(values, idm, draws=1):
    """Return candidates of one item and their scores by one metric; draws differ by 10."""
    rows = [{**ARM, "draw": draw, "subset": "ag", "id": "1", "candidate": candidate, "metric": "dino",
             "idm_log_likelihood": own, "fdm_log_likelihood": -own, "value": value + 10 * draw}
            for draw in range(draws)
            for candidate, (value, own) in enumerate(zip(values, idm, strict=True))]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.drop(columns=["metric", "value"]), table[[*CANDIDATE, "metric", "value"]]


def test_each_way_to_choose_is_a_system():
    drawn, scores = _choice([5.0, 1.0, 9.0, 7.0], [-3.0, -1.0, -4.0, 0.0])
    oracle = drawn[CANDIDATE].assign(oracle=[0.1, np.nan, 0.3, 0.9])
    found = best_of_rows(drawn, scores, [1, 2, 3, 4], oracle).set_index("system")["value"].to_dict()
    ending = "supervised_best_of_"
    assert found == {f"{ending}2": 1.0, f"{ending}3": 1.0, f"{ending}4": 7.0, f"{ending}3_by_likelihood": 9.0,
                     f"{ending}3_by_random": 5.0, f"{ending}3_by_oracle": 9.0}  # fmt: skip
    unknown = best_of_rows(drawn, scores, [3], oracle.assign(oracle=np.nan))["system"].tolist()
    assert f"{ending}3_by_oracle" not in unknown  # what no judge can say is not chosen by it
    assert best_of_rows(drawn, scores.head(0), [3], None).columns.tolist() == ["system", "chain", "subset", "id",
                                                                               "metric", "value"]  # fmt: skip


def test_draws_are_averaged_and_an_unknown_value_is_no_zero():
    drawn, scores = _choice([5.0, 1.0], [-3.0, -1.0], draws=2)
    assert best_of_rows(drawn, scores, [2], None)["value"].tolist() == [6.0]
    scores.loc[scores["draw"] == 1, "value"] = np.nan
    assert best_of_rows(drawn, scores, [2], None)["value"].tolist() == [1.0]
    assert best_of_rows(drawn, scores.assign(value=np.nan), [2], None)["value"].isna().all()


def test_an_oracle_takes_the_least_of_what_should_be_small():
    drawn, scores = _choice([0.5, 0.1, 0.9], [0.0, 0.0, 0.0])
    wide = with_scores(drawn, scores.assign(metric="l1_paper"))
    assert best_of_k(wide, "oracle", [3], "l1_paper")[3].tolist() == [0.1]
    assert best_of_k(with_scores(drawn, scores), "oracle", [3], "dino")[3].tolist() == [0.9]


def _unknown(tmp_path, change) -> Results:
    """Return results of toy candidates whose scores `change` has edited."""
    profile = reporting_results.write(tmp_path)
    table = reporting_results.candidates(np.random.default_rng(1), items=4, chains=2)
    files = reporting_results.split_candidates(change(table))
    for name, frame in files.items():
        frame.to_csv(profile / "reports/results" / name, index=False)
    return Results(profile)


def _of_sixes(table):
    table = table.assign(score=6.0)
    return table.assign(score=table["score"].mask((table["subset"] == "something") & (table["id"] == "003")))


def test_figure_4_averages_what_is_known_and_says_n(tmp_path):
    results = _unknown(tmp_path, _of_sixes)
    curves = tables_best_of_k.judge_curves(results)["region judge"]
    assert curves["value"].unique().tolist() == [6.0]  # three of four items are known; none counts as 0
    n = curves[curves["k"] == 3].groupby("subset")["n"].unique().map(list).to_dict()
    assert n == {"ag": [4], "kubric": [4], "magicbrush": [4], "something": [3], "whatsup": [4], "all": [19]}
    titles = [axes.get_title() for axes in builders.FIGURES["b_figure4"](results).axes]
    assert "Something (n = 3)" in titles
    assert "Average (n = 19)" in titles


def test_a_subset_of_which_nothing_is_known_has_no_curve(tmp_path):
    results = _unknown(tmp_path, lambda table: table.assign(score=table["score"].mask(table["subset"] == "ag")))
    curves = tables_best_of_k.judge_curves(results)["region judge"]
    assert set(curves["subset"]) == {"kubric", "magicbrush", "something", "whatsup", "all"}


def test_without_any_score_there_is_no_figure(tmp_path):
    results = _unknown(tmp_path, lambda table: table.assign(score=np.nan))
    with pytest.raises(ResultError, match=r"no judge's score; name one in evaluation\.judges"):
        builders.FIGURES["b_figure4"](results)


def test_bands_are_over_chains_and_draws():
    table = reporting_results.candidates(np.random.default_rng(2), items=2, chains=2).assign(score=1.0)
    both = pd.concat([table, table.assign(draw=1, score=4.0)])
    curves = summaries.verification_curves(both, ks=[3])
    entry = curves[curves["subset"] == "all"].iloc[0]
    assert (entry["value"], entry["chains"], entry["draws"], entry["n"]) == (2.5, 2, 2, 10)
    assert entry["spread"] == pytest.approx(np.std([1, 1, 4, 4], ddof=1))


def test_a_judge_that_answers_in_words_has_curves_of_its_own_and_lines(tmp_path):
    results = _unknown(tmp_path, lambda table: table.assign(score=np.nan))
    drawn = results.read("verification/candidates.csv")
    judged = pd.concat([drawn.assign(repeat=repeat, value=2.0 + 2 * repeat) for repeat in (0, 1)]).assign(
        judge="GPT-4o", criterion="score", paper="B", direction="forward", reverse_from="", prompt="",
        judge_prompt="paper", prompt_version="1-0a1b2c3d"
    )  # fmt: skip
    name = "evaluation/candidate_judge_scores.csv"
    judged[list(declared_columns(name))].to_csv(results.path(name), index=False)
    curves = tables_best_of_k.judge_curves(results)
    assert list(curves) == ["GPT-4o"]
    assert curves["GPT-4o"]["value"].unique().tolist() == [3.0]
    judged[list(declared_columns(name))].assign(judge_prompt="kit").to_csv(results.path(name), index=False)
    assert list(tables_best_of_k.judge_curves(results)) == ["GPT-4o (prompt kit 1-0a1b2c3d)"]


def test_lines_are_of_the_items_that_were_drawn(tmp_path):
    results = Results(reporting_results.write(tmp_path))
    scores = results.read("evaluation/fdm_scores.csv")
    copy = scores[scores["system"] == "copy"]
    other = copy.assign(system="GoT", value=7.0)
    first = other.groupby("subset")["id"].transform("first")
    far = other[other["id"] == first].assign(id="999", value=0.0)  # no candidate was drawn for it
    pd.concat([scores, other, far]).to_csv(results.path("evaluation/fdm_scores.csv"), index=False)
    name = "evaluation/systems.csv"
    row = dict.fromkeys(declared_columns(name), "") | {"paper": "B", "system": "GoT", "label": "GoT"}
    row |= {"origin": "imported", "expected": 20, "found": 20, "missing": 0}
    pd.DataFrame([row]).to_csv(results.path(name), index=False)
    lines = tables_best_of_k.other_levels(results)["region judge"]
    assert set(lines) == {"Copy", "Tokenizer ceiling", "GoT"}
    assert set(lines["GoT"].values()) == {7.0}
    assert set(lines["GoT"]) == {*reporting_results.SUBSETS, "all"}


def test_the_table_has_every_metric_every_choice_and_n(tmp_path):
    results = _unknown(tmp_path, _of_sixes)
    frame = builders.TABLES["k_best_of"](results, None, "smaller scale")
    heads = {"L1", "CLIP-I, by models/clip", "Region judge", "ES", "ME", "Success"}
    assert {row.replace("the run's own clip", "models/clip") for row in frame["row"]} == heads
    assert {f"{who}, K = 3" for who in ("IDM", "own likelihood", "chance", "oracle")} <= set(frame["column"])
    cell = frame[(frame["row"] == "Region judge") & (frame["column"] == "IDM, K = 3")].iloc[0]
    assert (cell["value"], cell["n"], cell["chains"]) == (6.0, 19, 2)


def test_table_6_has_the_best_of_3_by_an_oracle_in_the_papers_column(tmp_path):
    results = Results(reporting_results.write(tmp_path))
    frame = builders.TABLES["b_table6"](results, published.load("b_table6"), "smaller scale")
    column = frame[(frame["column"] == "C-FT +Best-of-3") & (frame["panel"] == "AG")]
    scores = results.read("evaluation/fdm_scores.csv")
    own = scores[(scores["system"] == "supervised_best_of_3_by_oracle") & (scores["subset"] == "ag")]
    for head, metric in (("L1", "l1_paper"), ("CLIP-I", "clip_i"), ("CLIP-T", "clip_t"), ("DINO", "dino")):
        (row,) = [entry for entry in column.itertuples() if entry.row.partition(",")[0] == head and entry.published > 0]
        assert row.value == pytest.approx(own.loc[own["metric"] == metric, "value"].mean())
    assert {"C-FT, best of 3 by IDM", "C-FT, best of 3 by own likelihood"} <= set(frame["column"])
