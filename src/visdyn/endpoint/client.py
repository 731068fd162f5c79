"""A client of any OpenAI-compatible chat endpoint: GPT-4o, Gemini's compatible endpoint, a local vLLM server.

The key is read from the environment for each request and kept nowhere; what comes back is searched for it before use.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx

from visdyn.compute.progress import say
from visdyn.endpoint.replies import (
    Question,
    Reply,
    asked_wait,
    blocked_by,
    clipped,
    error_message,
    read_reply,
    refused_field,
)
from visdyn.endpoint.secrets import blot_key, host_problem
from visdyn.endpoint.settings import ENDPOINTS, GEMINI_URL, EndpointSettings, is_loopback

# By these codes endpoints say that no later request will do better, under statuses that usually mean something else:
# spent credit and limits at OpenAI (429), a wrong key at Gemini (400).
STOP_CODES = {"insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded",
              "project_spend_limit_exceeded", "organization_usage_limit_exceeded", "API_KEY_INVALID"}  # fmt: skip
T = TypeVar("T")
MAX_REPLY_BYTES = 32 << 20
MIN_KEY = 8  # characters; a shorter one could be part of ordinary words, where it would be blotted out
_JSON = "application/json"
__all__ = [
    "ENDPOINTS",
    "GEMINI_URL",
    "Endpoint",
    "EndpointError",
    "EndpointSettings",
    "EndpointStoppedError",
    "Form",
    "Pacer",
    "RequestFailedError",
    "RequestRefusedError",
]


class EndpointError(RuntimeError):
    """No usable reply; the message is one sentence, `attempts` has a line for each time the request was sent.

    `answer` is the server's last reply as text.
    """

    def __init__(self, message: str, attempts: Sequence[str] = (), answer: str = ""):
        super().__init__(message)
        self.attempts, self.answer = list(attempts), answer


class RequestRefusedError(EndpointError):
    """The endpoint refuses this request (400, 413, 422, ...); it is not sent again."""


class RequestFailedError(EndpointError):
    """Every attempt ended in a time-out, a broken or unreadable reply, 429 or 5xx."""


class EndpointStoppedError(EndpointError):
    """No request can succeed now: no or a wrong key, model or address, a spent quota, or `stop()` was called."""


@dataclass(frozen=True)
class Form:
    """A request as multipart form data, as `images/edits` takes it.

    Attributes:
        fields: plain values.
        files: field -> (file name, content, content type).
    """

    fields: Mapping[str, str]
    files: Mapping[str, tuple[str, bytes, str]]

    def encoded(self) -> tuple[bytes, str]:
        """Return the body and its content type; the same body for every attempt."""
        request = httpx.Request("POST", "http://localhost", data=dict(self.fields), files=dict(self.files))
        return request.read(), request.headers["Content-Type"]


class Pacer:
    """Spaces the requests of all threads evenly, and holds all back while the endpoint wants a pause.

    `clock` gives the seconds now, `sleep` waits so many; `per_minute` None is no limit.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float], sleep: Callable[[float], object]):
        self._gap, self._clock, self._sleep = 60 / per_minute if per_minute else 0.0, clock, sleep
        self._free_at = -math.inf
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next request may be sent."""
        while (left := self._reserve_slot()) > 0:
            self._sleep(left)

    def _reserve_slot(self) -> float:
        with self._lock:
            now = self._clock()
            # Reserve a slot of the rate limit, or say how long to wait for the next.
            if now >= self._free_at:
                self._free_at = now + self._gap
                return 0.0
            return self._free_at - now

    def pause(self, seconds: float) -> None:
        """Let no request start for so many seconds."""
        with self._lock:
            self._free_at = max(self._free_at, self._clock() + seconds)


class _Answer(NamedTuple):
    status: int | None  # None: no complete HTTP reply came
    headers: Mapping[str, str]
    text: str  # the body, or what went wrong

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Endpoint:
    """Sends questions to one endpoint; may be used from several threads. Opens no connection before the first.

    `sleep` waits so many seconds; by default until `stop()` at most.
    """

    def __init__(self, settings: EndpointSettings, sleep: Callable[[float], object] | None = None):
        self.settings = settings
        self._replaced: dict[str, str] = {}  # parameters that the server refuses, by what is sent instead ("" nothing)
        self._learning = threading.Lock()
        self._stopped, self._reason = threading.Event(), ""
        self._sleep = sleep or self._stopped.wait
        self._pacer = Pacer(settings.requests_per_minute, time.monotonic, self._sleep_unless_stopped)
        logging.getLogger("httpcore").setLevel(logging.INFO)  # its debug lines quote headers, which may echo the key
        # A connection serves one request, so that the deadline can cut it; what is local needs no proxy.
        limits = httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=0)
        trusted = not is_loopback(urlsplit(settings.base_url).hostname)
        auth = _EnvironmentKey(settings.key_variable, settings.base_url)
        self._client = httpx.Client(auth=auth, timeout=settings.timeout_s, limits=limits, trust_env=trusted)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def stop(self, reason: str = "the run was stopped; run it again to go on") -> None:
        """End all waiting; requests not yet sent raise EndpointStoppedError with this reason."""
        self._reason = reason
        self._stopped.set()

    def resume(self) -> None:
        """Let requests be sent again."""
        self._stopped.clear()

    def ask(self, question: Question, repeat: int = 0) -> Reply:
        """Return the reply to one question.

        Raises:
            RequestRefusedError, RequestFailedError, EndpointStoppedError: see there.
            visdyn.images.ImageError: an image cannot be read; nothing was sent.
        """
        messages = question.encoded(self.settings.max_side)
        while True:
            sampling, left_out = self._accepted_sampling(repeat)
            payload = {"model": self.settings.model, "messages": messages, **sampling}
            try:
                return replace(self.post("chat/completions", payload, read_reply), left_out=left_out)
            except RequestRefusedError as error:
                body = _parse_json(error.answer)
                if blocked_by(body):
                    return replace(read_reply(body), attempts=len(error.attempts), left_out=left_out)
                if (name := refused_field(error.answer, sampling)) is None:
                    raise
                self._replace_parameter(name, sampling[name], error)

    def _accepted_sampling(self, repeat: int) -> tuple[dict, tuple[str, ...]]:
        """Return the sampling fields without those that the server refuses, and the names of these."""
        asked, replaced = self.settings.sampling_of(repeat), dict(self._replaced)
        sampling = {replaced.get(name, name): value for name, value in asked.items() if replaced.get(name, name)}
        shown = (f"{name} (sent as {replaced[name]})" if replaced[name] else name for name in asked if name in replaced)
        return sampling, tuple(shown)

    def _replace_parameter(self, name: str, value: object, error: RequestRefusedError) -> None:
        """Leave a refused parameter out from now on, or send it under the name that the server wants.

        Raises:
            EndpointStoppedError: the user asked for it.
        """
        instead = "max_completion_tokens" if name == "max_tokens" and "max_completion_tokens" in error.answer else ""
        asked = next((old for old, new in self._replaced.items() if new == name), name)
        if asked not in self.settings.droppable:
            wanted = f"{name}: null, {instead}: {value}" if instead else f"{name}: null"
            raise EndpointStoppedError(
                f"{self.settings.base_url} refuses the parameter {name} for model {self.settings.model} "
                f"({error.attempts[-1]}); write sampling: {{{wanted}}} for it", error.attempts, error.answer
            )  # fmt: skip
        with self._learning:
            if self._replaced.get(asked) in (None, name):
                self._replaced[asked] = instead
                done = f"it is sent as {instead}" if instead else "it is left out"
                say(f"{self.settings.model} refuses the parameter {name}: {done} ({error.attempts[-1]})")

    def post(self, path: str, payload: dict | Form, read: Callable[[object], T]) -> T:
        """Send JSON, or a form, to a path below `base_url` until `read` accepts the parsed reply; raises as `ask`.

        `read` gives a dataclass with `attempts`; it raises ValueError on a reply that should be asked for again.
        """
        body = payload.encoded() if isinstance(payload, Form) else (json.dumps(payload).encode(), _JSON)
        attempts, answer = [], None
        while len(attempts) < self.settings.max_attempts:
            if answer is not None:
                self._sleep_unless_stopped(self._wait_seconds(len(attempts), answer))
            self._pacer.wait()
            answer = self._send_request(path, *body)
            try:
                self._check_answer(answer, attempts)
                return replace(read(json.loads(answer.text)), attempts=len(attempts) + 1)
            except (ValueError, RecursionError) as error:
                attempts.append(clipped(f"{answer.status}, but {error}" if answer.ok else str(error)))
        raise RequestFailedError(f"no usable reply in {len(attempts)} attempts; last: {attempts[-1]}", attempts)

    def _send_request(self, path: str, content: bytes, kind: str) -> _Answer:
        self._sleep_unless_stopped(0)
        address, headers = f"{self.settings.base_url.rstrip('/')}/{path}", {"Content-Type": kind}
        with _Deadline(self.settings.timeout_s) as deadline:
            try:
                with self._client.stream(
                    "POST", address, content=content, headers=headers, extensions={"trace": deadline.watch}
                ) as response:
                    text = _read_body(response).decode("utf-8", errors="replace")
                    return _Answer(response.status_code, dict(response.headers), self._redact_key(text))
            except httpx.RequestError as error:
                late = deadline.passed or isinstance(error, httpx.TimeoutException)
                limit = f"no complete reply within {self.settings.timeout_s:g} s"
                return _Answer(None, {}, self._redact_key(limit if late else f"{type(error).__name__}: {error}"))

    def _check_answer(self, answer: _Answer, attempts: list[str]) -> None:
        """Return on success; raise ValueError where another attempt may help, an EndpointError where none does."""
        if answer.ok:
            return
        if answer.status is None:
            raise ValueError(answer.text)
        problem = f"{answer.status}: {error_message(answer.text)}"
        lines = [*attempts, problem]
        if blocked_by(_parse_json(answer.text)):
            raise RequestRefusedError(f"a filter of the endpoint stops this request ({problem})", lines, answer.text)
        if means := self._find_stop_cause(answer):
            raise EndpointStoppedError(f"{self.settings.base_url} {means} ({problem})", lines)
        if answer.status not in (408, 409, 425, 429) and answer.status < 500:
            advice = "correct the item, or sampling, seed or max_side"
            raise RequestRefusedError(f"the endpoint refuses this request ({problem}); {advice}", lines, answer.text)
        wait = asked_wait(answer.headers, answer.text) or 0.0
        if wait > self.settings.max_wait_s:
            means = f"asks to wait {wait:.0f} s, longer than max_wait_s; run again after that"
            raise EndpointStoppedError(f"{self.settings.base_url} {means} ({problem})", lines)
        if answer.status == 429:
            self._pacer.pause(wait)
        raise ValueError(problem)

    def _find_stop_cause(self, answer: _Answer) -> str | None:
        """Say why no request at all can succeed, and what to do; None if another one may."""
        variable = self.settings.key_variable
        key = f"the key in {variable}; export a valid one" if variable else "requests without a key; set key_variable"
        if STOP_CODES & set(re.findall(r'"(?:code|type|status|reason)"\s*:\s*"([^"]{1,80})"', answer.text)):
            return f"has no quota left, or does not accept {key}"
        causes = {
            401: f"does not accept {key}",
            402: "wants to be paid first; see the account",
            403: f"forbids model {self.settings.model} to this account; see the account",
            404: f"knows no model {self.settings.model}, or is not the right address; correct model or base_url",
            405: "is not the right address; correct base_url",
        }
        redirects = "redirects, which is not followed; correct base_url" if 300 <= answer.status < 400 else None
        return causes.get(answer.status, redirects)

    def _wait_seconds(self, attempt: int, answer: _Answer) -> float:
        jitter = random.uniform(0.5, 1)  # threads that failed together must not retry together
        asked_seconds = asked_wait(answer.headers, answer.text)
        if asked_seconds is not None:
            return asked_seconds + self.settings.backoff_s * (jitter - 0.5)
        return min(self.settings.max_wait_s, self.settings.backoff_s * 2 ** (attempt - 1)) * jitter

    def _sleep_unless_stopped(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)
        if self._stopped.is_set():
            raise EndpointStoppedError(self._reason)

    def _redact_key(self, text: str) -> str:
        with contextlib.suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text))  # one way of escaping, whichever the endpoint's was
        return blot_key(text, _read_key(self.settings.key_variable))


class _EnvironmentKey(httpx.Auth):
    """Adds the key to a request on its way out; also keeps the library from looking for one in ~/.netrc."""

    def __init__(self, variable: str, base_url: str):
        self.variable, self.base_url = variable, base_url

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
        if self.variable:
            if problem := host_problem(self.variable, self.base_url) or _key_problem(self.variable):
                raise EndpointStoppedError(problem)
            request.headers["Authorization"] = "Bearer " + _read_key(self.variable)
        yield request


def _parse_json(text: str) -> object:
    """Return the body of a reply, of a list of errors (Gemini's) the first; None where it is no JSON."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return body[0] if isinstance(body, list) and body else body


class _Deadline:
    """Cuts a request's connection after so many seconds; the library's time-out starts anew with each byte."""

    def __init__(self, seconds: float):
        self.passed, self._streams, self._timer = False, [], threading.Timer(seconds, self._cut)

    def __enter__(self) -> _Deadline:
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, event: str, info: Mapping[str, object]) -> None:
        """Take the connection from the library's trace."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._streams.append(info["return_value"])

    def _cut(self) -> None:
        self.passed = True
        for stream in self._streams[-1:]:
            with contextlib.suppress(OSError):  # it is closed already
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _read_body(response: httpx.Response) -> bytes:
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > MAX_REPLY_BYTES:
            raise httpx.ReadError(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
    return bytes(body)


def _read_key(variable: str) -> str:
    return os.environ.get(variable, "").strip() if variable else ""


def _key_problem(variable: str) -> str | None:
    # The key stays out of every frame that raises: tracebacks can show local variables.
    if not _read_key(variable):
        return f"the environment variable {variable} with the endpoint's key is not set; export it"
    if not re.fullmatch(r"[!-~]+", _read_key(variable)):  # the HTTP library would quote it in its own error
        return f"the key in {variable} has a space or a character that is not ASCII; export it again"
    if len(_read_key(variable)) < MIN_KEY:
        return f"the key in {variable} has less than {MIN_KEY} characters; a server without keys needs no key_variable"
    return None
