"""Judges behind an endpoint and the store of replies, against a real server on localhost."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
from fake_endpoint import KEY, QUIET, completion, endpoint, fine, items, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visdyn.compute.store import Store
from visdyn.endpoint.client import Endpoint, EndpointSettings
from visdyn.endpoint.replies import Question, Reply, ReplyStore, read_reply, reply_key
from visdyn.endpoint.request_progress import Prices
from visdyn.evaluation.judges.ask import JudgedItem, judge_items, read_scores, summarise
from visdyn.evaluation.judges.doundo_answers import read_doundo
from visdyn.evaluation.judges.judge_criteria import DOUNDO, EDITING
from visdyn.evaluation.judges.judge_prompts import load_prompt

PROMPT = load_prompt("kit", "doundo")


def test_every_outcome_is_in_the_table_and_asked_as_often_as_stated(serve, tmp_path):
    scripts = {
        "10": lambda nth: (429, {"Retry-After": "0.3"}, "{}") if nth == 1 else None,
        "11": lambda nth: (500, {}, "oops") if nth < 3 else None,
        "13": lambda nth: (200, {}, '{"choices": [') if nth == 1 else None,
        "14": lambda nth: (*fine("14", 0)[:1], {"x-cut": "1"}, fine("14", 0)[2]) if nth == 1 else None,
        "20": lambda nth: completion("I would rather not."),
        "21": lambda nth: completion('{"instruction": 9, "identity": 9, "temporal_coherence": 9, '
                                     '"object_consistency": 1', "length"),
        "22": lambda nth: completion(None, "content_filter"),
        "23": lambda nth: completion("", "stop"),
        "24": lambda nth: completion(None, "length"),
        "25": lambda nth: (400, {}, '{"error": {"code": "content_filter", "message": "filtered"}}'),
        "26": lambda nth: (200, {}, '{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 0}}'),
        "27": lambda nth: (200, {}, '{"choices": [{"finish_reason": "SAFETY", "message": null}]}'),
        "28": lambda nth: (200, {}, '{"choices": [{"message": {"content": null, "refusal": "I will not."}}]}'),
        "29": lambda nth: completion(None) if nth == 1 else None,  # no words and no reason: asked again
        "33": lambda nth: completion(None, "tool_calls"),
        "30": lambda nth: (503, {}, "busy"),
        "31": lambda nth: (400, {}, json.dumps([{"error": {"code": 400, "message": "image too odd"}}])),
        "32": lambda nth: (200, {}, '{"error": {"message": "upstream is down"}}'),
    }  # fmt: skip
    names = ["0", "1", *scripts]
    server = serve(lambda name, nth, repeat: scripts.get(name, lambda _: None)(nth) or fine(name, repeat))
    lines, store = [], ReplyStore(tmp_path)
    judged = [*items(names), JudgedItem("ours", "40", picture(1), tmp_path / "missing.png", "open item 40")]
    with endpoint(server) as one:
        table = judge_items(judged, PROMPT, one, store, prices=Prices(2.5, 10), report=lines.append)
        asked = {"10": 2, "11": 3, "13": 2, "14": 2, "29": 2, "30": 3, "31": 1, "32": 3, "33": 3}
        assert server.seen == {(name, 0): asked.get(name, 1) for name in names}
        again = judge_items(judged, PROMPT, one, store, **QUIET)
    assert {name: count - asked.get(name, 1) for (name, _), count in server.seen.items() if count != asked.get(name, 1)
            } == {"30": 3, "31": 1, "32": 3, "33": 3}  # only what got no reply is asked again  # fmt: skip
    assert again.equals(table)
    reasons = table.drop_duplicates("id").set_index("id")["reason"]
    for name, reason in {"20": "not stated", "21": "allow more tokens", "22": "content_filter", "23": "an empty answer",
                         "24": "allow more tokens", "25": "content_filter", "26": "no choices", "27": "SAFETY",
                         "28": "I will not.", "30": "503: busy", "31": "image too odd", "32": "upstream is down",
                         "33": "does not say why", "40": "missing.png"}.items():  # fmt: skip
        assert reason in reasons[name], reasons[name]
    row = summarise(table).set_index("metric").loc["instruction"]
    outcomes = table.drop_duplicates("id").set_index("id")["outcome"]
    assert set(outcomes[outcomes == "refused"].index) == {"22", "23", "24", "25", "26", "27", "28"}
    assert table.loc[table["outcome"] == "refused", "value"].isna().all()  # and no 0
    counts = ["n_items", "n_asked", "n_answered", "n_unparsable", "n_refused", "n_failed"]
    assert list(row[counts]) == [21, 21, 7, 2, 7, 5]
    assert row["mean"] == pytest.approx(np.mean([int(name) % 8 for name in ["0", "1", "10", "11", "13", "14", "29"]]))
    assert list(row[["judge", "judge_prompt", "prompt_version"]]) == ["judge-1", "kit", PROMPT.full_version]
    # Seven counted replies of 100 tokens in and 50 out: thinking stands in the total only. One of 9 tokens is blocked.
    assert lines[-1] == ("judge: 20/20 (0 kept from before, 4 failed), 709 tokens in, 350 out, 0.0053 USD, "
                         "tokens of 8 replies not stated")  # fmt: skip
    failures = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert sorted(len(failure["attempts"]) for failure in failures) == [1, 1, 3, 3, 3, 3, 3, 3]


def judge_kitchen(url, folder):
    """What the killed process and its successor both run."""
    with Endpoint(EndpointSettings(url, "judge-1", key_variable="JUDGE_KEY", concurrency=3)) as one:
        return judge_items(items(map(str, range(10))), PROMPT, one, ReplyStore(folder), repeats=2, every_s=0)


def test_kill_in_the_middle_and_restart(serve, tmp_path, capfd):
    go_on = threading.Event()

    def script(name, nth, repeat):
        if sum(server.seen.values()) > 8:
            go_on.wait(30)
        return fine(name, repeat)

    server, replies = serve(script), tmp_path / "replies" / "replies.sqlite"
    code = f"import sys; sys.path.insert(0, {str(os.path.dirname(__file__))!r}); import test_endpoint_judge as t; "
    child = subprocess.Popen([sys.executable, "-c", f"{code}t.judge_kitchen({server.url!r}, {str(replies.parent)!r})"])
    deadline = time.monotonic() + 120
    while not (len(Store(replies).keys()) == 8 and server.under_way == 3):
        assert time.monotonic() < deadline, "the first run did not get going"
        assert child.poll() is None, "the first run ended"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    kept, first = set(), Counter(server.seen)
    for record in (json.loads(value) for _, value in Store(replies).items()):
        text = record["messages"][0]["content"][-1]["text"]
        kept.add((re.search(r"item (\w+)", text)[1], record["repeat"]))
    go_on.set()

    table = judge_kitchen(server.url, replies.parent)
    wanted = {(str(name), repeat) for name in range(10) for repeat in range(2)}
    second = server.seen - first
    assert len(kept) == 8
    assert second == Counter(wanted - kept)  # the rest, once each, and nothing that was kept
    assert server.seen == Counter(wanted) + (first - Counter(kept))  # twice: the three under way at the kill
    scores = table[table["metric"] == "instruction"]
    assert list(scores["value"]) == [name % 8 + repeat for name in range(10) for repeat in range(2)]
    assert set(table["outcome"]) == {"answered"}
    assert judge_kitchen(server.url, replies.parent).equals(table)
    assert server.seen - first == second
    printed = capfd.readouterr()
    assert "judge: 20/20 (8 kept from before, 0 failed)" in printed.out
    everything = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert KEY not in "".join([*everything, printed.out, printed.err])


def test_a_key_covers_all_that_changes_the_answer(tmp_path):
    path = tmp_path / "one.png"
    Image.fromarray(picture(1)).save(path)

    pair = picture(1), picture(2)

    def key(model="m", images=pair, prompt="p", sampling=(), repeat=0, max_side=None):
        return reply_key(model, Question(images, prompt).described(max_side), dict(sampling), repeat)

    changed = [key(), key(model="n"), key(images=(picture(2), picture(1))), key(images=(picture(1), picture(3))),
               key(images=(picture(1),)), key(prompt="q"), key(sampling={"temperature": 1}), key(repeat=1),
               key(max_side=4), key(images=(picture(1).reshape(8, 6, 3), picture(2)))]  # fmt: skip
    assert len(set(changed)) == len(changed)
    assert key(images=(str(path), Image.fromarray(picture(2)))) == key()


def texts_in(folder, count):
    with (store := ReplyStore(folder)).session():
        found = [store.get(f"key{number}") for number in range(count)]
    return [reply and reply.text for reply in found]


def test_replies_that_an_earlier_version_paid_for_are_found(tmp_path, capsys):
    """The old form: lines of JSON, of which a kill or the disk may have damaged some."""
    texts = ["first", "half a pair \ud800", "third"]
    bodies = [json.loads(completion(text)[2]) for text in texts]
    lines = [json.dumps({"key": f"key{n}", "model": "m", "attempts": 2, "body": body}) for n, body in enumerate(bodies)]
    damaged = '\0\0\xff\n{"key": 3}\n[]\n' + lines[0].replace("key0", "key3")[:-20]
    (tmp_path / "replies.jsonl").write_text("\n".join([*lines, damaged]))
    with pytest.warns(UserWarning, match="4 damaged lines"):
        assert texts_in(tmp_path, 4) == [*texts, None]
    assert "3 replies of" in capsys.readouterr().out
    assert texts_in(tmp_path, 4) == [*texts, None]
    assert ReplyStore(tmp_path).keys() == {"key0", "key1", "key2"}
    assert ReplyStore(tmp_path).get("key2").attempts == 2
    assert (tmp_path / "replies.jsonl.imported").read_text().endswith(lines[0].replace("key0", "key3")[:-20])


def test_a_store_has_one_writer_and_survives_a_full_disk(tmp_path, monkeypatch):
    store, reply = ReplyStore(tmp_path), read_reply(json.loads(completion("first")[2]))
    with store.session():
        store.add("key0", {"model": "m"}, reply)
        with pytest.raises(RuntimeError, match="another run is writing"), ReplyStore(tmp_path).session():
            pass
        monkeypatch.setattr(Store, "put_many", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            store.add("key1", {}, reply)
        monkeypatch.undo()
        assert store.get("key1") is None
    assert texts_in(tmp_path, 2) == ["first", None]


def test_repeats_have_a_spread_and_a_bad_reply_is_no_zero(serve, tmp_path):
    server = serve(lambda name, nth, repeat: completion("?") if (name, repeat) == ("3", 2) else fine(name, repeat))
    judged = [*items("123"), *items("123", "twin")]
    with endpoint(server) as one:
        table = judge_items(judged, PROMPT, one, ReplyStore(tmp_path), repeats=3, **QUIET)
    assert server.seen == {(name, repeat): 1 for name in "123" for repeat in range(3)}  # equal questions, one reply
    rows = summarise(table).set_index(["system", "metric"])
    row = rows.loc["ours", "instruction"]
    assert list(row[["n_asked", "n_answered", "n_unparsable", "n_failed", "n_repeats"]]) == [9, 8, 1, 0, 3]
    assert row["mean"] == pytest.approx(np.mean([2, 3, 3.5]))
    assert row["sd_items"] == pytest.approx(np.std([2, 3, 3.5], ddof=1))
    assert row["sd_repeats"] == pytest.approx(np.std([2, 3, 3.5], ddof=1))
    assert rows.loc["twin", "instruction"].equals(row)
    assert (rows.loc["ours", "identity"][["mean", "sd_repeats"]] == [9, 0]).all()
    bad = [[*items("1"), *items("1")], [JudgedItem("ours", "1", picture(1), picture(2), " ")],
           [JudgedItem("ours", "1", picture(1), picture(2), "x", direction="sideways")]]  # fmt: skip
    with endpoint(server) as one:
        for wrong in bad:
            with pytest.raises(ValueError, match=r"twice|instruction|direction"):
                judge_items(wrong, PROMPT, one, ReplyStore(tmp_path), **QUIET)


FOUR = '{"instruction": 8, "identity": 9, "temporal_coherence": 10, "object_consistency": 7'
WANTED = {"instruction": 8, "identity": 9, "temporal_coherence": 10, "object_consistency": 7}
READ = [
    FOUR + "}",
    FOUR + ', "reasoning": "identity: 3 fingers visible"}',
    '{"reasoning": "the instruction: open 2 doors was followed", ' + FOUR[1:] + "}",
    re.sub(r"(\d+)", r'{"reason": "it is", "score": \1}', FOUR) + "}",
    '{"scores": ' + FOUR.replace('"instruction"', '"Instruction Following"') + "}}",
    FOUR.replace('"', "'") + """, 'reasoning': "identity: 3 of 'em"}""",
    f'Sure!\n```json\n{FOUR}, "reasoning": "ok"}}\n```',
    FOUR.replace('"', "'") + "}",
    FOUR.replace('"', "”") + ', "reasoning": "cut of',
    FOUR.replace('"', "") + "}",
    "**Instruction**: 8/10\n- **Identity preservation:** 9\n- Temporal coherence: 10/10\n- Object consistency = 7.0",
    re.sub(r"(\d+)", r'{"score": \1, "why": "x"}', FOUR) + "}",
    re.sub(r"(\d+)", r'"\1"', FOUR) + "}",
    f"The instruction: unclear.\n{FOUR}}}\nSo again: identity: 9.",
]
REFUSED = ["", "I cannot.", FOUR, '"score": [8, 9, 10, 7]', PROMPT.fill("open it"), FOUR[:50] + "}"]
REFUSED += [FOUR.replace("8", value) + "}" for value in ("high", "7,5", "11", "-1", "8-9", "4/5")]
REFUSED += [FOUR + "} or rather {" + FOUR[1:].replace("8", "3") + "}"]


def test_four_scores_are_read_or_refused_with_a_reason():
    for text in READ:
        assert read_doundo(text) == (WANTED, None), text
    for text in REFUSED:
        scores, reason = read_doundo(text)
        assert scores is None, text
        assert reason
    cases = [("stop", f"<think>identity: 3</think>{FOUR}}}", True), ("length", "<think>" + FOUR + "}", False),
             ("length", "score1: 8, score2: 1", False), ("stop", "score1: 8, score2: 1", True)]  # fmt: skip
    for finish, text, found in cases:
        scores, reason = read_scores(Reply(text, finish, None, {}), EDITING if "score1" in text else DOUNDO)
        assert (scores is not None) == found, (text, reason)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([*"{}[]:,=\"'\n* ", *WANTED, "score", "8", "10", "11", "7.5", "/10", "-"]), max_size=40)
)
def test_no_answer_raises_and_no_score_is_made_up(pieces):
    text = "".join(pieces)
    scores, reason = read_doundo(text)
    if scores is None:
        assert reason
    else:
        stated = {float(number) for number in re.findall(r"[0-9]+\.?[0-9]*", text)}
        assert all(value in stated and 0 <= value <= 10 for value in scores.values())
