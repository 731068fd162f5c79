"""The endpoint client, against a real server on localhost that misbehaves as told."""

import base64
import io
import json
import threading
import time
import traceback

import numpy as np
import pytest
from fake_endpoint import KEY, QUIET, ask, completion, endpoint, fine, items, picture
from PIL import Image

from visdyn.endpoint.client import Endpoint, EndpointSettings, EndpointStoppedError, Pacer, RequestFailedError
from visdyn.endpoint.client import RequestRefusedError as Refused
from visdyn.endpoint.replies import Question, ReplyStore, asked_wait
from visdyn.evaluation.judges.ask import judge_items
from visdyn.evaluation.judges.judge_prompts import load_prompt

PROMPT = load_prompt("kit", "doundo")


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
        judge_items(items("12345"), PROMPT, one, ReplyStore(tmp_path), **QUIET)
    assert sum(server.seen.values()) == 1
    assert KEY not in str(caught.value)
    if "key" in name:
        assert "JUDGE_KEY" in str(caught.value)


def test_refusals_are_not_repeated_and_a_run_of_failures_gives_up(serve, tmp_path):
    server = serve(lambda *_: (400, {}, json.dumps({"error": {"message": "image too odd"}})))
    with pytest.raises(Refused, match=r"400: image too odd\); correct the item, or sampling, seed"):
        ask(server)
    assert server.seen == {("1", 0): 1}
    with (
        endpoint(server, concurrency=1) as one,
        pytest.raises(EndpointStoppedError, match="first 4 requests all failed"),
    ):
        judge_items(items("123456789"), PROMPT, one, ReplyStore(tmp_path), give_up_after=4, **QUIET)
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
        judge_items(items(map(str, range(12))), PROMPT, one, ReplyStore(tmp_path), **QUIET)
    assert server.most_under_way == 3
    with endpoint(server, requests_per_minute=600) as one:
        before = time.monotonic()
        judge_items(items(map(str, range(20, 24))), PROMPT, one, ReplyStore(tmp_path), **QUIET)
        assert time.monotonic() - before >= 0.3


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
        table = judge_items(items("12345"), PROMPT, one, ReplyStore(tmp_path), report=print)
        with pytest.raises(EndpointStoppedError, match="does not accept the key in JUDGE_KEY") as caught:
            judge_items(items("6"), PROMPT, one, ReplyStore(tmp_path), report=print)
        shown = [repr(one), repr(vars(one)), repr(one.settings), table.to_csv(), caplog.text, *capfd.readouterr()]
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown += [str(caught.value), *(str(frame.locals) for frame in trace.stack[1:])]  # the first one is this test
    shown += [*(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())]
    assert {header["Authorization"] for _, header in server.headers} == {f"Bearer {KEY}"}
    assert any(b"[key]" in value for _, value in ReplyStore(tmp_path).store.items())
    assert not [text for text in shown if KEY in text or escaped in text or KEY[10:20] in text]


def test_a_missing_or_unusable_key_is_named_and_never_shown(serve, tmp_path, monkeypatch):
    server = serve(lambda name, nth, repeat: fine(name, repeat))
    with endpoint(server) as one:
        table = judge_items(items("12"), PROMPT, one, ReplyStore(tmp_path), **QUIET)
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
        assert judge_items(items("12"), PROMPT, one, ReplyStore(tmp_path), **QUIET).equals(table)  # all kept: no key
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
