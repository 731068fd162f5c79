"""Where a key may go, what is blotted out of what comes back, and a deadline that no trickle outlasts."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time

import pytest
from fake_endpoint import KEY, ask, completion, endpoint, picture

from visdyn.endpoint.client import EndpointSettings, EndpointStoppedError, RequestFailedError
from visdyn.endpoint.replies import Question
from visdyn.endpoint.secrets import HOSTS_VARIABLE, blot_key, host_problem

ECHOES = {
    "masked, as OpenAI does": f"Incorrect API key provided: {KEY[:8]}*****{KEY[-4:]}.",
    "masked with dots": f"bad key {KEY[:6]}...{KEY[-4:]}",
    "masked with an ellipsis": f"bad key {KEY[:6]}…",
    "in capitals": KEY.upper(),
    "in base64": base64.b64encode(KEY.encode()).decode(),
    "in base64, after a word": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "in base64 for addresses, after a name": base64.urlsafe_b64encode(f"me:{KEY}".encode()).decode(),
    "in hexadecimal digits": KEY.encode().hex(),
}


@pytest.mark.parametrize("name", ECHOES)
def test_no_spelling_of_the_key_comes_through(name):
    text = blot_key(ECHOES[name], KEY)
    assert "[key]" in text
    for part in (KEY[:6], KEY[-4:], KEY.upper()[3:9], ECHOES[name][12:-8]):
        assert part not in text or part in "Incorrect API key provided: bad key "


def test_ordinary_words_stay():
    for text in ("wait... and see", "rate is 5 ** 2", "**bold** words", "", "https://host/a/b"):
        assert blot_key(text, KEY) == text
        assert blot_key(text, "") == text


def test_a_masked_key_reaches_no_reason(serve):
    masked = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY[:8]}*****{KEY[-4:]}"}})
    with pytest.raises(EndpointStoppedError, match=r"provided: \[key\]") as caught:
        ask(serve(lambda *_: (401, {}, masked)))
    assert KEY[-4:] not in str(caught.value)


def test_a_key_goes_where_the_user_has_said(monkeypatch):
    monkeypatch.delenv(HOSTS_VARIABLE, raising=False)
    for variable, url in (("OPENAI_API_KEY", "https://api.openai.com/v1"), ("ANY", "http://localhost:8000/v1"),
                          ("GEMINI_API_KEY", "https://generativelanguage.googleapis.com/v1beta/openai")):  # fmt: skip
        assert host_problem(variable, url) is None
    for variable, url in (("AWS_SECRET_ACCESS_KEY", "https://evil.example/v1"), ("OPENAI_API_KEY", "https://evil.example"),
                          ("GEMINI_API_KEY", "https://api.openai.com/v1"),
                          ("OPENAI_API_KEY", "https://api.openai.com.evil.example/v1")):  # fmt: skip
        assert f"{HOSTS_VARIABLE}=" in host_problem(variable, url)
    monkeypatch.setenv(HOSTS_VARIABLE, "gateway.example, EVIL.example")
    assert host_problem("MY_KEY", "https://gateway.example/v1") is None
    assert host_problem("MY_KEY", "https://evil.example/v1") is None
    assert "other.example" in host_problem("MY_KEY", "https://other.example/v1")


def test_a_host_that_nobody_named_gets_no_request(serve, monkeypatch):
    monkeypatch.delenv(HOSTS_VARIABLE, raising=False)
    server = serve(lambda *_: completion("fine"))
    with endpoint(server) as one:
        one._client.auth.base_url = "https://evil.example/v1"
        with pytest.raises(EndpointStoppedError, match="nobody has allowed the key in JUDGE_KEY to go to evil"):
            one.ask(Question((picture(1),), "item 1"))
    assert not server.seen


def test_a_proxy_of_the_environment_never_sees_what_is_local(serve, monkeypatch):
    server, trap = serve(lambda *_: completion("fine")), serve(lambda *_: completion("trapped"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, trap.url.removesuffix("/v1"))
    assert ask(server).text == "fine"
    assert not trap.headers


def drip(listener, line):
    """Accept connections and send them a header line for ever."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=trickle, args=(connection, line), daemon=True).start()


def trickle(connection, line):
    try:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            time.sleep(0.1)
            connection.sendall(line)
    except OSError:
        pass


def test_headers_that_trickle_run_into_the_time_out(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener, b"x-more: 1\r\n"), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server = type("Server", (), {"url": url})
        before = time.monotonic()
        with pytest.raises(RequestFailedError, match="no complete reply within 1 s"):
            ask(server, timeout_s=1.0, max_attempts=2)
        assert time.monotonic() - before < 20


@pytest.mark.parametrize("end", ["\r\nX-Other: 1", "\n", "\t", " /v1", "\x7f"])
def test_an_address_with_control_characters_is_refused(end):
    with pytest.raises(ValueError, match="control character"):
        EndpointSettings(f"https://host/v1{end}", "m")
