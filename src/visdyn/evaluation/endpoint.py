"""A client of any OpenAI-compatible chat endpoint: GPT-4o, Gemini's compatible endpoint, a local vLLM server.

The key is read from the environment for each request and kept nowhere; what comes back is searched for it before use.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import httpx

from visdyn.evaluation.reply_store import Question, Reply, asked_wait, clipped, error_message, read_reply

GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta/openai"
ENDPOINTS = {
    "openai": {"base_url": "https://api.openai.com/v1", "key_variable": "OPENAI_API_KEY"},
    # Gemini's compatible endpoint answers 400 to the field `seed`.
    "gemini": {"base_url": GEMINI_URL, "key_variable": "GEMINI_API_KEY", "seed": None},
    "vllm": {"base_url": "http://localhost:8000/v1"},
}
# By these codes endpoints say that no later request will do better, under statuses that usually mean something else:
# spent credit and limits at OpenAI (429), a wrong key at Gemini (400).
STOP_CODES = {"insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded",
              "project_spend_limit_exceeded", "organization_usage_limit_exceeded", "API_KEY_INVALID"}  # fmt: skip
MAX_REPLY_BYTES = 32 << 20
MIN_KEY = 8  # characters; a shorter one could be part of ordinary words, where it would be blotted out
_JSON = {"Content-Type": "application/json"}


class EndpointError(RuntimeError):
    """No usable reply; the message is one sentence, `attempts` has a line for each time the request was sent."""

    def __init__(self, message: str, attempts: Sequence[str] = ()):
        super().__init__(message)
        self.attempts = list(attempts)


class RequestRefusedError(EndpointError):
    """The endpoint refuses this request (400, 413, 422, ...); it is not sent again."""


class RequestFailedError(EndpointError):
    """Every attempt ended in a time-out, a broken or unreadable reply, 429 or 5xx."""


class EndpointStoppedError(EndpointError):
    """No request can succeed now: no or a wrong key, model or address, a spent quota, or `stop()` was called."""


@dataclass(frozen=True)
class EndpointSettings:
    """Where and how to ask. Holds no secret: the key is named by its environment variable.

    Attributes:
        base_url: address up to, not including, `/chat/completions`; without credentials and without a query.
        model: name as the endpoint knows it, e.g. `gpt-4o-2024-11-20` (Bootstrapping's judge).
        key_variable: name of the environment variable with the key, in capitals; empty sends no key.
        sampling: further fields of the request, sent as they are (`temperature`, `max_tokens`, ...).
        seed: repeat r is sent with the field `seed` = seed + r; None sends no such field.
        concurrency: requests under way at once.
        requests_per_minute: sent evenly spaced, repeated attempts included; None is no limit.
        timeout_s: seconds without a byte, or for the whole reply, after which an attempt is given up.
        max_attempts: times one request is sent before it counts as failed.
        backoff_s: wait before the second attempt; doubles with each, times a random factor from 0.5 to 1.
        max_wait_s: longest such wait; an endpoint that asks for a longer one stops the run.
        max_side: larger images are shrunk to this many pixels on the longer side; None sends them as they are.
        allow_http: permits sending the key unencrypted to another machine.

    Raises:
        ValueError: a value that cannot work, or that would expose the key.
    """

    base_url: str
    model: str
    key_variable: str = ""
    sampling: Mapping[str, object] = field(default_factory=dict)
    seed: int | None = 0
    concurrency: int = 4
    requests_per_minute: float | None = None
    timeout_s: float = 120.0
    max_attempts: int = 6
    backoff_s: float = 1.0
    max_wait_s: float = 120.0
    max_side: int | None = None
    allow_http: bool = False

    @classmethod
    def named(cls, name: str, model: str, **changes) -> EndpointSettings:
        """Return the settings of `openai`, `gemini` or `vllm`, with changes; ValueError for another name."""
        if name not in ENDPOINTS:
            raise ValueError(f"no endpoint is called {name!r}; choose one of {', '.join(ENDPOINTS)} or give a base_url")
        return cls(**{**ENDPOINTS[name], "model": model, **changes})

    def __post_init__(self) -> None:
        self._check_key_is_safe(urlsplit(self.base_url))
        if taken := {"model", "messages", "seed", "stream", "n"} & set(self.sampling):
            raise ValueError(f"sampling may not set {', '.join(sorted(taken))}; model and seed are settings themselves")
        for name in ("concurrency", "max_attempts", "timeout_s", "requests_per_minute", "max_side"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"the endpoint's {name} is {value}; it must be above 0")

    def _check_key_is_safe(self, address) -> None:
        # What is wrong here may be the key itself, so values are not quoted.
        if self.key_variable and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", self.key_variable):
            raise ValueError("key_variable is not the name of an environment variable in capitals, such as "
                             "OPENAI_API_KEY; export the key under such a name and give the name")  # fmt: skip
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("base_url is not an http or https address, such as https://api.openai.com/v1")
        if "@" in address.netloc or address.query or address.fragment:
            raise ValueError("base_url has credentials or a query; name the key's variable in key_variable instead")
        if self.key_variable and address.scheme == "http" and not (self.allow_http or _is_local(address.hostname)):
            raise ValueError(f"http would send the key to {address.hostname} unencrypted; use https or set allow_http")

    def sampling_of(self, repeat: int) -> dict:
        """Return the sampling fields of repeat 0, 1, ...; the seed among them if one is sent."""
        return dict(self.sampling) | ({} if self.seed is None else {"seed": self.seed + repeat})


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
        while (left := self._left()) > 0:
            self._sleep(left)

    def _left(self) -> float:
        with self._lock:
            now = self._clock()
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
        self._stopped, self._reason = threading.Event(), ""
        self._sleep = sleep or self._stopped.wait
        self._pacer = Pacer(settings.requests_per_minute, time.monotonic, self._pause)
        logging.getLogger("httpcore").setLevel(logging.INFO)  # its debug lines quote headers, which may echo the key
        auth, limits = _EnvironmentKey(settings.key_variable), httpx.Limits(max_connections=settings.concurrency)
        self._client = httpx.Client(auth=auth, timeout=settings.timeout_s, limits=limits)

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
        payload = {"model": self.settings.model, "messages": messages, **self.settings.sampling_of(repeat)}
        return self.post("chat/completions", payload, read_reply)

    def post(self, path: str, payload: dict, read: Callable[[object], Reply]) -> Reply:
        """Send JSON to a path below `base_url` until `read` accepts the parsed reply; raises as `ask`.

        `read` raises ValueError on a reply that should be asked for again.
        """
        content, attempts, answer = json.dumps(payload).encode(), [], None
        while len(attempts) < self.settings.max_attempts:
            if answer is not None:
                self._pause(self._wait(len(attempts), answer))
            self._pacer.wait()
            answer = self._send(path, content)
            try:
                self._check(answer, attempts)
                return replace(read(json.loads(answer.text)), attempts=len(attempts) + 1)
            except (ValueError, RecursionError) as error:
                attempts.append(clipped(f"{answer.status}, but {error}" if answer.ok else str(error)))
        raise RequestFailedError(f"no usable reply in {len(attempts)} attempts; last: {attempts[-1]}", attempts)

    def _send(self, path: str, content: bytes) -> _Answer:
        self._pause(0)
        deadline = time.monotonic() + self.settings.timeout_s
        address = f"{self.settings.base_url.rstrip('/')}/{path}"
        try:
            with self._client.stream("POST", address, content=content, headers=_JSON) as response:
                text = _body(response, deadline).decode("utf-8", errors="replace")
                return _Answer(response.status_code, dict(response.headers), self._redacted(text))
        except httpx.TimeoutException:
            problem = f"no complete reply within {self.settings.timeout_s:g} s"
        except httpx.RequestError as error:
            problem = f"{type(error).__name__}: {error}"
        return _Answer(None, {}, self._redacted(problem))

    def _check(self, answer: _Answer, attempts: list[str]) -> None:
        """Return on success; raise ValueError where another attempt may help, an EndpointError where none does."""
        if answer.ok:
            return
        if answer.status is None:
            raise ValueError(answer.text)
        problem = f"{answer.status}: {error_message(answer.text)}"
        lines = [*attempts, problem]
        if means := self._cause(answer):
            raise EndpointStoppedError(f"{self.settings.base_url} {means} ({problem})", lines)
        if answer.status not in (408, 409, 425, 429) and answer.status < 500:
            advice = "correct the item, or sampling, seed or max_side"
            raise RequestRefusedError(f"the endpoint refuses this request ({problem}); {advice}", lines)
        wait = asked_wait(answer.headers, answer.text) or 0.0
        if wait > self.settings.max_wait_s:
            means = f"asks to wait {wait:.0f} s, longer than max_wait_s; run again after that"
            raise EndpointStoppedError(f"{self.settings.base_url} {means} ({problem})", lines)
        if answer.status == 429:
            self._pacer.pause(wait)
        raise ValueError(problem)

    def _cause(self, answer: _Answer) -> str | None:
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

    def _wait(self, attempt: int, answer: _Answer) -> float:
        jitter = random.uniform(0.5, 1)
        told = asked_wait(answer.headers, answer.text)
        if told is not None:
            return told + self.settings.backoff_s * (jitter - 0.5)
        return min(self.settings.max_wait_s, self.settings.backoff_s * 2 ** (attempt - 1)) * jitter

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)
        if self._stopped.is_set():
            raise EndpointStoppedError(self._reason)

    def _redacted(self, text: str) -> str:
        key = _read_key(self.settings.key_variable)
        with contextlib.suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text))  # one way of escaping, whichever the endpoint's was
        for form in {key, json.dumps(key)[1:-1], quote(key, safe="")} - {""}:
            text = text.replace(form, "[key]")
        return text


class _EnvironmentKey(httpx.Auth):
    """Adds the key to a request on its way out; also keeps the library from looking for one in ~/.netrc."""

    def __init__(self, variable: str):
        self.variable = variable

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
        if self.variable:
            if problem := _key_problem(self.variable):
                raise EndpointStoppedError(problem)
            request.headers["Authorization"] = "Bearer " + _read_key(self.variable)
        yield request


def _body(response: httpx.Response, deadline: float) -> bytes:
    # The library's time-out starts anew with each byte; a reply that trickles needs a deadline.
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > MAX_REPLY_BYTES:
            raise httpx.ReadError(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the reply trickles")
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
