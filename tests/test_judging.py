"""Judging as notebooks 08 and 08d call it: both papers' criteria over HTTP, killed, resumed, and counted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_endpoint import KEY, completion

from visdyn.compute.store import Store
from visdyn.evaluation.benches.bench import BENCHES, DOUNDO_BENCH
from visdyn.evaluation.judges.run import RUNS, SCORES, judge_all, spread
from visdyn.evaluation.systems.outputs import FORWARD, SystemImages
from visdyn.models.editors.protocol import Request
from visdyn.params.evaluation import JudgeEntry
from visdyn.trajectory import ReversiblePair, Trajectory

ITEMS, REPEATS = 5, 2
TRAJECTORIES = [
    Trajectory(np.full((8, 8, 3), n, np.uint8), f"open item {n}", None if n == 4 else np.zeros((8, 8, 3), np.uint8),
               "something", str(n))
    for n in range(ITEMS)
]  # fmt: skip
PAIRS = [
    ReversiblePair(np.full((8, 8, 3), n, np.uint8), np.full((8, 8, 3), 90 + n, np.uint8), f"open item 1{n} gently",
                   f"close item 2{n} gently", f"open item 3{n}", f"close item 4{n}", "open", "open", "door", f"P01_{n}")
    for n in range(ITEMS)
]  # fmt: skip


def shade(base):
    return [np.full((8, 8, 3), base + n, np.uint8) for n in range(ITEMS)]


def systems():
    one = [SystemImages("aurora", "ours", seed, "trained", "m", {FORWARD: shade(100 + 10 * seed)}) for seed in (0, 1)]
    one.append(SystemImages("aurora", "absent", 0, "imported", "x", {}, "not run: no folder"))
    keys = DOUNDO_BENCH.requests(["long"], ["gt", "generated"])
    two = [SystemImages("doundo", "ours", 0, "trained", "m", {key: shade(50 + 9 * n) for n, key in enumerate(keys)})]
    return {"aurora": (TRAJECTORIES, one), "doundo": (PAIRS, two)}


def judges(url, **changes):
    entry = {"kind": "endpoint", "name": "tester", "model": "judge-1", "base_url": url, "key_variable": "JUDGE_KEY",
             "repeats": REPEATS, "concurrency": 3, "backoff_s": 0.01, "max_attempts": 3, "timeout_s": 4.0,
             "price_in": 1.0, "price_out": 2.0}  # fmt: skip
    return (JudgeEntry("region"), JudgeEntry(**(entry | changes)))


def ask(judges, benches, root):
    """Ask about each benchmark in turn, as the stages do, and return both papers' rows together."""
    replies = Path(root) / "data/kept/replies"
    found = [judge_all(judges, BENCHES[name], *shown, replies) for name, shown in benches.items()]
    return tuple(
        pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
        for parts in zip(*found, strict=True)
    )


def only(name):
    return {name: systems()[name]}


def editing(name, repeat):
    return completion(json.dumps({"score": [int(name) % 7 + repeat, 8]}), prompt_tokens=1000, completion_tokens=500)


def doundo(name, repeat):
    scores = {"instruction": int(name) % 7 + repeat, "identity": 9, "temporal_coherence": 8, "object_consistency": 7}
    return completion(json.dumps(scores), prompt_tokens=1000, completion_tokens=500)


def answer(server, payload_name, repeat):
    return editing(payload_name, repeat) if int(payload_name) < 10 else doundo(payload_name, repeat)


def test_the_final_table_is_right_whatever_the_endpoint_does(serve, tmp_path, capfd):
    over = threading.Event()
    troubles = {
        "0": lambda nth: (429, {"Retry-After": "0.05"}, "{}") if nth == 1 else None,
        "1": lambda nth: (500, {}, "") if nth < 3 else None,
        "2": lambda nth: over.wait(8) and None if nth == 1 else None,  # a time-out
        "3": lambda nth: completion("I would rather not say."),  # unreadable, every time
        "4": lambda nth: (200, {"x-cut": "1"}, editing("4", 0)[2]) if nth == 1 else None,  # truncated on the wire
        "10": lambda nth: (200, {}, '{"choices": [') if nth == 1 else None,  # malformed
        "11": lambda nth: completion(
            '{"instruction": 5, "identity": 9, "temporal_coherence": 8, "object_cons', "length"
        ),
        "12": lambda nth: (400, {}, '{"error": {"message": "too dark"}}'),  # refused
    }
    server = serve(lambda name, nth, repeat: troubles.get(name, lambda n: None)(nth) or answer(server, name, repeat))
    scores, runs = ask(judges(server.url), systems(), tmp_path)
    over.set()
    assert list(scores.columns) == SCORES
    assert list(runs.columns) == RUNS

    b = scores[(scores["paper"] == "B") & (scores["criterion"] == "editing_success")]
    assert len(b) == 2 * ITEMS * REPEATS  # two seeds
    assert set(b["chain"]) == {0, 1}
    assert set(b["id"]) == set("01234")  # item 4 has no target, and is judged all the same
    for row in b.itertuples():
        assert np.isnan(row.value) if row.id == "3" else row.value == int(row.id) + row.repeat, row
    d = scores[(scores["paper"] == "D") & (scores["criterion"] == "instruction")].fillna({"reverse_from": ""})
    assert len(d) == 3 * ITEMS * REPEATS
    for row in d.itertuples():
        number = int(row.id.removeprefix("P01_"))
        name = 10 + number if row.direction == "forward" else 20 + number
        bad = row.direction == "forward" and number in (1, 2)
        assert np.isnan(row.value) if bad else row.value == name % 7 + row.repeat, row

    counts = runs.set_index("paper")
    assert counts["asked"].to_dict() == {"B": 2 * ITEMS * REPEATS, "D": 3 * ITEMS * REPEATS}
    assert counts["invalid"].to_dict() == {"B": 2 * REPEATS, "D": REPEATS}
    assert counts["failed"].to_dict() == {"B": 0, "D": REPEATS}
    # Every readable or unreadable reply that states its tokens costs; item 3's and 11's do not state any.
    paid = {"B": 2 * (ITEMS - 1) * REPEATS, "D": 3 * ITEMS * REPEATS - 2 * REPEATS}
    assert counts["cost_usd"].to_dict() == pytest.approx({paper: n * 2000e-6 for paper, n in paid.items()})
    assert [server.seen["14", repeat] for repeat in range(REPEATS + 1)] == [1] * REPEATS + [0]  # as often as stated
    assert server.seen["1", 0] == 3 + 1  # two 500s, then each seed's own image
    assert server.seen["12", 0] == 1

    first = Counter(server.seen)
    again, reruns = ask(judges(server.url), systems(), tmp_path)
    assert again.equals(scores)
    assert {name for name, _ in server.seen - first} == {"12"}  # only what got no reply
    assert reruns.set_index("paper")["reused"].to_dict() == {"B": 20, "D": 28}
    assert runs["reused"].tolist() == [0, 0]
    means = spread(scores).set_index(["paper", "direction", "reverse_from", "criterion"])
    assert means.loc[("B", "forward", "", "editing_success"), "sd_repeats"] == pytest.approx(0.5**0.5)
    assert means.loc[("B", "forward", "", "editing_success"), "n"] == ITEMS - 1  # chains are averaged
    assert KEY not in "".join(
        [*capfd.readouterr(), *(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file())]
    )


def test_killed_in_the_middle_it_goes_on_and_asks_nothing_twice(serve, tmp_path):
    go_on = threading.Event()

    def script(name, nth, repeat):
        if sum(server.seen.values()) > 12:
            go_on.wait(30)
        return answer(server, name, repeat)

    server, replies = serve(script), tmp_path / "data/kept/replies/tester/replies.sqlite"
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_judging as t; "
    code += f"t.ask(t.judges({server.url!r}, timeout_s=60.0), t.systems(), {str(tmp_path)!r})"
    child = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not (len(Store(replies).keys()) == 12 and server.under_way == 3):
        assert time.monotonic() < deadline, "the first run did not get going"
        assert child.poll() is None, "the first run ended"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    first, kept = Counter(server.seen), []
    for record in (json.loads(value) for _, value in Store(replies).items()):
        kept.append((re.search(r"item (\w+)", record["messages"][0]["content"][-1]["text"])[1], record["repeat"]))
    go_on.set()

    scores, runs = ask(judges(server.url, timeout_s=60.0), systems(), tmp_path)
    b_names = [(str(n), r) for n in range(ITEMS) for r in range(REPEATS)] * 2
    d_names = [(f"1{n}", r) for n in range(ITEMS) for r in range(REPEATS)]
    d_names += [(f"2{n}", r) for n in range(ITEMS) for r in range(REPEATS)] * 2
    wanted = Counter(b_names + d_names)
    assert server.seen - first == wanted - Counter(kept)
    assert runs["reused"].sum() == len(kept) == 12
    assert not scores["value"].isna().any()
    assert len(scores) == len(b_names) * 3 + len(d_names) * 4


def test_a_judge_that_cannot_be_asked_leaves_a_note(serve, tmp_path, monkeypatch, capsys):
    server = serve(lambda name, nth, repeat: answer(server, name, repeat))
    monkeypatch.delenv("JUDGE_KEY")
    scores, runs = ask(judges(server.url), systems(), tmp_path)
    assert scores.empty
    assert list(scores.columns) == SCORES
    assert runs["note"].str.contains("JUDGE_KEY with the endpoint's key is not set").all()
    assert "not run" in capsys.readouterr().out
    assert not server.seen


def test_kept_replies_count_when_the_judge_cannot_be_asked_any_more(serve, tmp_path, monkeypatch):
    server = serve(lambda name, nth, repeat: answer(server, name, repeat))
    benches = systems()
    old = {**benches, "aurora": (TRAJECTORIES, benches["aurora"][1][:1])}
    before, paid = ask(judges(server.url), old, tmp_path)
    monkeypatch.delenv("JUDGE_KEY")  # and the second seed is new
    after, runs = ask(judges(server.url), benches, tmp_path)
    known = after[(after["paper"] == "D") | (after["chain"] == 0)].reset_index(drop=True)
    pd.testing.assert_frame_equal(known, before)
    new = after[(after["paper"] == "B") & (after["chain"] == 1)]
    assert len(new) > 0
    assert new["value"].isna().all()
    ours = runs.set_index(["paper", "system"])
    assert "JUDGE_KEY" in ours.loc[("B", "ours"), "note"]
    assert ours.loc[("D", "ours"), "note"] == ""  # nothing was left to ask
    assert ours.loc[("B", "ours"), "failed"] == ITEMS * REPEATS
    assert ours.loc[("D", "ours"), "failed"] == 0
    assert ours.loc[("D", "ours"), "cost_usd"] == paid.set_index(["paper", "system"]).loc[("D", "ours"), "cost_usd"] > 0


def test_requests_refused_for_good_do_not_end_a_later_run(serve, tmp_path):
    """Eleven are refused, more than end a run that gets no reply at all."""
    no = 400, {}, '{"error": {"message": "too dark"}}'
    server = serve(lambda name, nth, repeat: answer(server, name, repeat) if name == "0" else no)
    first, _ = ask(judges(server.url), only("aurora"), tmp_path)
    again, runs = ask(judges(server.url), only("aurora"), tmp_path)
    pd.testing.assert_frame_equal(first, again)
    assert again["value"].notna().sum() == 2 * REPEATS * 3
    assert runs["failed"].tolist() == [2 * REPEATS * (ITEMS - 1)]


def test_an_undone_image_without_its_done_one_is_left_out_and_counted(serve, tmp_path):
    server = serve(lambda name, nth, repeat: answer(server, name, repeat))
    benches = only("doundo")
    benches["doundo"][1][0].images[Request("long")][2] = None
    scores, runs = ask(judges(server.url, repeats=1), benches, tmp_path)
    chained = scores[(scores["reverse_from"] == "generated") & (scores["criterion"] == "instruction")]
    assert sorted(chained["id"]) == ["P01_0", "P01_1", "P01_3", "P01_4"]
    assert runs["note"].str.contains("1 undone images not shown").all()


def test_systems_are_chosen_by_the_entry(serve, tmp_path):
    server = serve(lambda name, nth, repeat: answer(server, name, repeat))
    nobody = ask(judges(server.url, systems=("another",)), systems(), tmp_path)
    assert nobody[0].empty
    assert nobody[1].empty
    ask(judges(server.url, repeats=1), only("doundo"), tmp_path)
    chained = [p for p in server.payloads if "item 20" in p["messages"][0]["content"][-1]["text"]]
    # From the true end, and from the generated image: two different first images.
    assert len({p["messages"][0]["content"][0]["image_url"]["url"] for p in chained}) == 2


def test_bad_entries_are_refused_and_without_judges_there_are_headers(tmp_path):
    scores, runs = ask((JudgeEntry("region"),), systems(), tmp_path)
    assert (list(scores.columns), list(runs.columns), len(scores), len(runs)) == (SCORES, RUNS, 0, 0)
    assert spread(scores).empty
    for entries, reason in (([JudgeEntry("oracle", model="m")], "kind 'oracle'"),
                           ([JudgeEntry("endpoint", model="m")] * 2, "called 'm'")):  # fmt: skip
        with pytest.raises(ValueError, match=reason):
            ask(entries, systems(), tmp_path)
