"""Judges over HTTP, against a real server on localhost that misbehaves as told."""

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visdyn.evaluation.endpoint import Endpoint, EndpointSettings, EndpointStoppedError, Pacer, RequestFailedError
from visdyn.evaluation.endpoint import RequestRefusedError as Refused
from visdyn.evaluation.endpoint_judge import (
    DOUNDO,
    EDITING,
    EndpointJudge,
    JudgedItem,
    judge_items,
    read_doundo,
    read_scores,
    summarise,
)
from visdyn.evaluation.reply_store import Prices, Question, Reply, ReplyStore, asked_wait, read_reply, reply_key

KEY = "sk-visdyn/0123456789+secret"
QUIET = {"report": lambda line: None}


def completion(text, finish="stop", **usage):
    body = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
    return 200, {}, json.dumps(body | ({"usage": usage} if usage else {}))


def fine(name, repeat):
    """What the server answers for an item when nothing is wrong: scores that name the item and the repeat."""
    scores = {"instruction": int(name) % 8 + repeat, "identity": 9, "temporal_coherence": 8, "object_consistency": 7}
    return completion(json.dumps(scores), prompt_tokens=100, completion_tokens=20, total_tokens=150)


class FakeEndpoint(ThreadingHTTPServer):
    """`script(name, nth, repeat)` gives (status, headers, text) for the nth request for "item <name>".

    Header `x-cut` sends half the text and hangs up; `x-drip` sends a byte at a time.
    """

    daemon_threads, block_on_close, request_queue_size = True, False, 64

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.seen, self.payloads, self.headers, self.times = script, Counter(), [], [], []
        self.lock, self.under_way, self.most_under_way = threading.Lock(), 0, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address):
        """A client that was killed or gave up waiting is part of these tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        server, payload = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = re.search(r"item (\w+)", payload["messages"][0]["content"][-1]["text"])[1]
        repeat = payload.get("seed", 0)
        with server.lock:
            server.seen[name, repeat] += 1
            server.payloads.append(payload)
            server.headers.append((self.path, dict(self.headers)))
            server.times.append(time.monotonic())
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            status, headers, text = server.script(name, server.seen[name, repeat], repeat)
        finally:
            server.under_way -= 1
        self.answer(status, dict(headers), text.encode())

    def answer(self, status, headers, data):
        cut, drip = headers.pop("x-cut", None), headers.pop("x-drip", None)
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(header, value)
        self.end_headers()
        if cut:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        for i in range(len(data) if drip else 0):
            self.wfile.write(data[i : i + 1])
            time.sleep(0.05)
        if not cut and not drip:
            self.wfile.write(data)


@pytest.fixture
def serve(monkeypatch):
    servers = []
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def start(script):
        servers.append(FakeEndpoint(script))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def endpoint(server, **changes):
    quick = {"model": "judge-1", "key_variable": "JUDGE_KEY", "backoff_s": 0.01, "timeout_s": 30, "max_attempts": 3}
    return Endpoint(EndpointSettings(server.url, **{**quick, **changes}))


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def items(names, system="ours"):
    return [JudgedItem(system, name, picture(1), picture(int(name) + 2), f"open item {name}") for name in names]


def ask(server, prompt="item 1", **changes):
    with endpoint(server, **changes) as one:
        return one.ask(Question((picture(1),), prompt))


@pytest.mark.parametrize("name", ["openai", "gemini", "vllm"])
def test_one_message_format_for_all(serve, name):
    server = serve(lambda name, nth, repeat: fine(name, repeat))
    named = EndpointSettings.named(name, "some-model")
    with endpoint(server, key_variable=named.key_variable and "JUDGE_KEY", seed=named.seed,
                  sampling={"temperature": 0.5}) as one:  # fmt: skip
        one.ask(Question((picture(1), picture(2)), "item 1"), repeat=3)
    (path, headers), payload = server.headers[0], server.payloads[0]
    assert path == "/v1/chat/completions"
    assert headers.get("Authorization") == (None if name == "vllm" else f"Bearer {KEY}")
    seed = {} if name == "gemini" else {"seed": 3}
    assert payload == {"model": "judge-1", "messages": payload["messages"], "temperature": 0.5} | seed
    [message] = payload["messages"]
    assert (message["role"], [part["type"] for part in message["content"]]) == ("user", ["image_url"] * 2 + ["text"])
    kind, data = message["content"][1]["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), picture(2))


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
        "30": lambda nth: (503, {}, "busy"),
        "31": lambda nth: (400, {}, json.dumps([{"error": {"code": 400, "message": "image too odd"}}])),
        "32": lambda nth: (200, {}, '{"error": {"message": "upstream is down"}}'),
    }  # fmt: skip
    names = ["0", "1", *scripts]
    server = serve(lambda name, nth, repeat: scripts.get(name, lambda _: None)(nth) or fine(name, repeat))
    lines, store = [], ReplyStore(tmp_path)
    judged = [*items(names), JudgedItem("ours", "40", picture(1), tmp_path / "missing.png", "open item 40")]
    with endpoint(server) as one:
        table = judge_items(judged, DOUNDO, one, store, prices=Prices(2.5, 10), report=lines.append)
        asked = {"10": 2, "11": 3, "13": 2, "14": 2, "30": 3, "31": 1, "32": 3}
        assert server.seen == {(name, 0): asked.get(name, 1) for name in names}
        again = judge_items(judged, DOUNDO, one, store, **QUIET)
    assert {name: count - asked.get(name, 1) for (name, _), count in server.seen.items() if count != asked.get(name, 1)
            } == {"30": 3, "31": 1, "32": 3}  # only what got no reply is asked again  # fmt: skip
    assert again.equals(table)
    reasons = table.drop_duplicates("id").set_index("id")["reason"]
    for name, reason in {"20": "not stated", "21": "raise max_tokens", "22": "content_filter", "30": "503: busy",
                         "31": "image too odd", "32": "upstream is down", "40": "missing.png"}.items():  # fmt: skip
        assert reason in reasons[name], reasons[name]
    row = summarise(table).set_index("metric").loc["instruction"]
    counts = ["n_items", "n_asked", "n_answered", "n_unparsable", "n_failed"]
    assert list(row[counts]) == [13, 13, 6, 3, 4]
    assert row["mean"] == pytest.approx(np.mean([int(name) % 8 for name in ["0", "1", "10", "11", "13", "14"]]))
    assert (row["judge"], row["prompt"]) == ("judge-1", DOUNDO.version)
    assert DOUNDO.version.startswith("doundo-reconstructed-")
    # Six counted replies of 100 tokens in and 50 out: thinking stands in the total only.
    assert lines[-1] == ("judge: 12/12 (0 kept from before, 3 failed), 600 tokens in, 300 out, 0.0045 USD, "
                         "tokens of 3 replies not stated")  # fmt: skip
    failures = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert sorted(len(failure["attempts"]) for failure in failures) == [1, 1, 3, 3, 3, 3]


def test_retry_after_is_honoured_by_all_threads(serve):
    server = serve(lambda name, nth, repeat: (429, {"Retry-After": "0.5"}, "{}") if nth == 1 else fine(name, repeat))
    assert ask(server).attempts == 2
    assert server.times[1] - server.times[0] >= 0.5
    busy = serve(lambda name, nth, repeat: (503, {"Retry-After": "0.5"}, "") if nth == 1 else fine(name, repeat))
    assert ask(busy).attempts == 2
    assert busy.times[1] - busy.times[0] >= 0.5
    with endpoint(server) as one:
        one._pacer.pause(0.3)
        before = time.monotonic()
        one.ask(Question((), "item 1"))
        assert time.monotonic() - before >= 0.3


def test_a_silent_and_a_trickling_endpoint_run_into_the_time_out(serve):
    over = threading.Event()

    def script(name, nth, repeat):
        if name == "1" and nth == 1:
            over.wait(20)
        status, headers, text = fine(name, repeat)
        return status, headers | ({"x-drip": "1"} if name == "2" and nth == 1 else {}), text

    server = serve(script)
    with endpoint(server, timeout_s=1.0) as one:
        for name in "12":
            before = time.monotonic()
            assert one.ask(Question((), f"item {name}")).attempts == 2
            assert time.monotonic() - before >= 1
    over.set()
    server.seen.clear()
    with pytest.raises(RequestFailedError, match="within 1 s"):
        ask(server, timeout_s=1.0, max_attempts=1, prompt="item 2")


STOPS = {
    "wrong key": (401, {}, json.dumps({"error": {"message": f"no such key: {KEY}"}})),
    "forbidden": (403, {}, "no"),
    "unknown model": (404, {}, "{}"),
    "redirect": (307, {"Location": "https://elsewhere.example/"}, ""),
    "spent": (429, {}, json.dumps({"error": {"code": "insufficient_quota", "message": "pay"}})),
    "Gemini's wrong key": (400, {}, json.dumps([{"error": {"details": [{"reason": "API_KEY_INVALID"}]}}])),
    "long wait": (429, {"Retry-After": "86400"}, "{}"),
}


@pytest.mark.parametrize("name", STOPS)
def test_what_no_request_survives_stops_the_run_at_once(serve, tmp_path, name):
    server = serve(lambda *_: STOPS[name])
    with endpoint(server, concurrency=1) as one, pytest.raises(EndpointStoppedError, match="http://127") as caught:
        judge_items(items("12345"), DOUNDO, one, ReplyStore(tmp_path), **QUIET)
    assert sum(server.seen.values()) == 1
    assert KEY not in str(caught.value)
    if "key" in name:
        assert "JUDGE_KEY" in str(caught.value)


def test_refusals_are_not_repeated_and_a_run_of_failures_gives_up(serve, tmp_path):
    server = serve(lambda *_: (400, {}, json.dumps({"error": {"message": "Unknown name seed"}})))
    with pytest.raises(Refused, match=r"400: Unknown name seed\); correct the item, or sampling, seed"):
        ask(server)
    assert server.seen == {("1", 0): 1}
    with (
        endpoint(server, concurrency=1) as one,
        pytest.raises(EndpointStoppedError, match="first 4 requests all failed"),
    ):
        judge_items(items("123456789"), DOUNDO, one, ReplyStore(tmp_path), give_up_after=4, **QUIET)
    assert sum(server.seen.values()) <= 1 + 5


def test_back_off_doubles_with_jitter(serve):
    server, waits = serve(lambda *_: (502, {}, "")), []
    patient = EndpointSettings(server.url, "judge-1", backoff_s=1, max_wait_s=6, max_attempts=6)
    with Endpoint(patient, sleep=waits.append) as one, pytest.raises(RequestFailedError, match="in 6 attempts"):
        one.ask(Question((), "item 1"))
    for wait, most in zip(waits, (1, 2, 4, 6, 6), strict=True):
        assert most / 2 <= wait <= most
    assert len({wait / most for wait, most in zip(waits, (1, 2, 4, 6, 6), strict=True)}) == 5


def test_asked_waits_are_read():
    assert asked_wait({"retry-after": "2"}) == 2
    assert asked_wait({"retry-after": "9", "retry-after-ms": "250"}) == 0.25
    assert asked_wait({}, '[{"error": {"details": [{"retryDelay": "17.5s"}]}}]') == 17.5
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert 28 < asked_wait({"retry-after": date}) <= 30
    assert [asked_wait({"retry-after": text}) for text in ("", "-1", "nan", "inf", "soon")] == [None] * 5


def test_requests_per_minute_and_concurrency(serve, tmp_path):
    now = [0.0]
    pacer = Pacer(120, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))
    times = [(pacer.wait(), now[0])[1] for _ in range(4)]
    assert times == [0, 0.5, 1, 1.5]
    pacer.pause(10)
    pacer.wait()
    assert now[0] == 11.5
    server = serve(lambda name, nth, repeat: time.sleep(0.05) or fine(name, repeat))
    with endpoint(server, concurrency=3) as one:
        judge_items(items(map(str, range(12))), DOUNDO, one, ReplyStore(tmp_path), **QUIET)
    assert server.most_under_way == 3
    with endpoint(server, requests_per_minute=600) as one:
        before = time.monotonic()
        judge_items(items(map(str, range(20, 24))), DOUNDO, one, ReplyStore(tmp_path), **QUIET)
        assert time.monotonic() - before >= 0.3


def judge_kitchen(url, folder):
    """What the killed process and its successor both run."""
    with Endpoint(EndpointSettings(url, "judge-1", key_variable="JUDGE_KEY", concurrency=3)) as one:
        return judge_items(items(map(str, range(10))), DOUNDO, one, ReplyStore(folder), repeats=2, every_s=0)


def test_kill_in_the_middle_and_restart(serve, tmp_path, capfd):
    go_on = threading.Event()

    def script(name, nth, repeat):
        if sum(server.seen.values()) > 8:
            go_on.wait(30)
        return fine(name, repeat)

    server, replies = serve(script), tmp_path / "replies" / "replies.jsonl"
    code = f"import sys; sys.path.insert(0, {str(os.path.dirname(__file__))!r}); import test_endpoint as t; "
    child = subprocess.Popen([sys.executable, "-c", f"{code}t.judge_kitchen({server.url!r}, {str(replies.parent)!r})"])
    deadline = time.monotonic() + 30
    while not (replies.is_file() and replies.read_bytes().count(b"\n") == 8 and server.under_way == 3):
        assert time.monotonic() < deadline, "the first run did not get going"
        assert child.poll() is None, "the first run ended"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    kept, first = set(), Counter(server.seen)
    for record in map(json.loads, replies.read_text().splitlines()):
        text = record["messages"][0]["content"][-1]["text"]
        kept.add((re.search(r"item (\w+)", text)[1], record["repeat"]))
    with open(replies, "ab") as file:
        file.write(replies.read_bytes()[:100])  # as if the kill had come while writing
    go_on.set()

    with pytest.warns(UserWarning, match="1 damaged lines .* set aside"):
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
    assert ReplyStore(replies.parent).num_damaged == 1
    printed = capfd.readouterr()
    assert "judge: 20/20 (8 kept from before, 0 failed)" in printed.out
    everything = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert KEY not in "".join([*everything, printed.out, printed.err])


def test_the_key_is_nowhere_even_where_the_endpoint_echoes_it(serve, tmp_path, caplog, capfd):
    escaped = KEY.replace("/", r"\/").replace("+", r"\u002b")
    scripts = {
        "1": completion(f"You said {KEY}"),
        "2": (200, {}, completion("KEY")[2].replace("KEY", escaped)),
        "3": (500, {"x-echo": KEY}, f"Bearer {KEY} failed"),
        "4": (400, {}, json.dumps({"error": {"message": f"what is {KEY}?"}})),
        "5": (200, {}, f"{{{KEY}"),
        "6": (401, {}, f'{{"error": {{"message": "bad key {escaped}"}}}}'),
    }
    server = serve(lambda name, nth, repeat: scripts[name])
    caplog.set_level(1)
    with endpoint(server) as one:
        table = judge_items(items("12345"), DOUNDO, one, ReplyStore(tmp_path), report=print)
        with pytest.raises(EndpointStoppedError, match="does not accept the key in JUDGE_KEY") as caught:
            judge_items(items("6"), DOUNDO, one, ReplyStore(tmp_path), report=print)
        shown = [repr(one), repr(vars(one)), repr(one.settings), table.to_csv(), caplog.text, *capfd.readouterr()]
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown += [str(caught.value), *(str(frame.locals) for frame in trace.stack[1:])]  # the first one is this test
    shown += [*(path.read_text() for path in tmp_path.rglob("*") if path.is_file())]
    assert {header["Authorization"] for _, header in server.headers} == {f"Bearer {KEY}"}
    assert "[key]" in (tmp_path / "replies.jsonl").read_text()
    assert not [text for text in shown if KEY in text or escaped in text or KEY[10:20] in text]


def test_a_missing_or_unusable_key_is_named_and_never_shown(serve, tmp_path, monkeypatch):
    server = serve(lambda name, nth, repeat: fine(name, repeat))
    with endpoint(server) as one:
        table = judge_items(items("12"), DOUNDO, one, ReplyStore(tmp_path), **QUIET)
        for key, problem in {
            "": "not set",
            "two\nlines-secret": "a space",
            "sécret-key": "ASCII",
            "short": "less than 8",
        }.items():
            monkeypatch.setenv("JUDGE_KEY", key)
            with pytest.raises(EndpointStoppedError, match=f"JUDGE_KEY .*{problem}") as caught:
                one.ask(Question((), "item 1"))
            assert "ecret" not in str(caught.value)
        monkeypatch.delenv("JUDGE_KEY")
        assert judge_items(items("12"), DOUNDO, one, ReplyStore(tmp_path), **QUIET).equals(table)  # all kept: no key
    assert sum(server.seen.values()) == 2


@pytest.mark.parametrize(
    "changes",
    [{"key_variable": "sk-secret"}, {"key_variable": "AIzaSecret"}, {"base_url": "https://me:secret@host/v1"},
     {"base_url": "https://host/v1?key=secret"}, {"base_url": "host/v1"}, {"base_url": "http://host/v1"},
     {"sampling": {"seed": 1}}, {"concurrency": 0}, {"requests_per_minute": 0}, {"timeout_s": float("nan")}],
)  # fmt: skip
def test_settings_that_cannot_work_or_would_show_the_key(changes):
    good = {"base_url": "https://host/v1", "model": "m", "key_variable": "JUDGE_KEY"}
    EndpointSettings(**good)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        EndpointSettings(**{**good, **changes})
    assert "ecret" not in str(caught.value)


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


def kept_replies(folder, texts):
    store = ReplyStore(folder)
    with store.session():
        for number, text in enumerate(texts):
            store.add(f"key{number}", {"model": "m"}, read_reply(json.loads(completion(text)[2])))
    return folder / "replies.jsonl"


def texts_in(folder, count):
    with (store := ReplyStore(folder)).session():
        found = [store.get(f"key{number}") for number in range(count)]
    return [reply and reply.text for reply in found]


def test_cut_and_damaged_lines_are_set_aside(tmp_path):
    path = kept_replies(tmp_path, ["first", "half a pair \ud800", "third"])
    data = path.read_bytes()
    start = data.rindex(b"\n", 0, -1) + 1
    cuts = [*range(start + 1, len(data) - 1, 9), len(data) - 2]
    for number, cut in enumerate(cuts, start=1):
        path.write_bytes(data[:cut])
        with pytest.warns(UserWarning, match="1 damaged"):
            assert texts_in(tmp_path, 3) == ["first", "half a pair \ud800", None]
        assert path.read_bytes() == data[:start]
        assert ReplyStore(tmp_path).num_damaged == number
    path.write_bytes(data[:-1])  # only the line's end is missing: the reply is whole
    assert texts_in(tmp_path, 3)[2] == "third"
    assert path.read_bytes() == data
    path.write_bytes(data[:start] + b'\0\0\xff\n{"key": 3}\n[]\n' + data[start:])
    with pytest.warns(UserWarning, match="3 damaged"):
        assert texts_in(tmp_path, 3)[2] == "third"
    assert path.read_bytes() == data


def test_a_store_has_one_writer_and_survives_a_full_disk(tmp_path, monkeypatch):
    path = kept_replies(tmp_path, ["first"])
    before, store = path.read_bytes(), ReplyStore(tmp_path)
    with store.session():
        with pytest.raises(RuntimeError, match="another run is writing"), ReplyStore(tmp_path).session():
            pass
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            store.add("key1", {}, store.get("key0"))
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert store.get("key1") is None


def test_repeats_have_a_spread_and_a_bad_reply_is_no_zero(serve, tmp_path):
    server = serve(lambda name, nth, repeat: completion("?") if (name, repeat) == ("3", 2) else fine(name, repeat))
    judged = [*items("123"), *items("123", "twin")]
    with endpoint(server) as one:
        table = judge_items(judged, DOUNDO, one, ReplyStore(tmp_path), repeats=3, **QUIET)
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
                judge_items(wrong, DOUNDO, one, ReplyStore(tmp_path), **QUIET)


def test_judge_behind_the_protocol(serve, tmp_path):
    scripts = {"1": completion('{"score": [8, 6]}'), "2": completion("Nice."), "3": (400, {}, "{}")}
    server = serve(lambda name, nth, repeat: scripts[name])
    with endpoint(server) as one:
        judge = EndpointJudge(one, ReplyStore(tmp_path))
        first, second, third = (judge.score(picture(1), picture(2), None, f"open item {name}") for name in "123")
        again = judge.score(picture(1), picture(2), None, "open item 1")
        table = judge_items(items("1"), EDITING, one, ReplyStore(tmp_path), **QUIET)
    assert (first.scores, first.score, first.answer) == ((8, 6), 6, '{"score": [8, 6]}')
    assert again == first
    assert (second.scores, second.answer) == (None, "Nice.")
    assert "no score field" in second.reason
    assert "400" in third.reason
    assert server.seen["1", 0] == 2  # the table's images differ
    assert dict(zip(table["metric"], table["value"], strict=True)) == {
        "editing_success": 8, "minimal_editing": 6, "score": 6}  # fmt: skip


FOUR = '{"instruction": 8, "identity": 9, "temporal_coherence": 10, "object_consistency": 7'
WANTED = {"instruction": 8, "identity": 9, "temporal_coherence": 10, "object_consistency": 7}
READ = [
    FOUR + "}",
    f'Sure!\n```json\n{FOUR}, "reasoning": "ok"}}\n```',
    FOUR.replace('"', "'") + "}",
    FOUR.replace('"', "”") + ', "reasoning": "cut of',
    FOUR.replace('"', "") + "}",
    "**Instruction**: 8/10\n- **Identity preservation:** 9\n- Temporal coherence: 10/10\n- Object consistency = 7.0",
    re.sub(r"(\d+)", r'{"score": \1, "why": "x"}', FOUR) + "}",
    re.sub(r"(\d+)", r'"\1"', FOUR) + "}",
    f"The instruction: unclear.\n{FOUR}}}\nSo again: identity: 9.",
]
REFUSED = ["", "I cannot.", FOUR, '"score": [8, 9, 10, 7]', DOUNDO.prompts["forward"], FOUR[:50] + "}"]
REFUSED += [FOUR.replace("8", value) + "}" for value in ("high", "7,5", "11", "-1", "8-9", "4/5")]
REFUSED += [FOUR + "} or rather {" + FOUR[1:].replace("8", "3") + "}"]


def test_four_scores_are_read_or_refused_with_a_reason():
    for text in READ:
        assert read_doundo(text) == (WANTED, None), text
    for text in REFUSED:
        scores, reason = read_doundo(text)
        assert scores is None, text
        assert reason
    assert set(DOUNDO.prompts) == {"forward", "reverse"}
    assert len(set(DOUNDO.prompts.values())) == 2
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
