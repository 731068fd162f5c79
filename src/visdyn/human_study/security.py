"""Security of the web application: headers, hosts, origins, request sizes, and the access token."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import threading
import time
from collections import deque
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_TOKEN = 16  # characters
MAX_BODY = 16 * 1024
MAX_DRAIN = 8 * 1024 * 1024  # read and thrown away of a body too large, so that the refusal still reaches its sender
MAX_FIELDS = 64
MAX_VALUE = 200  # characters of one form field
BODY_SECONDS = 30.0  # for a form, which a slow connection sends in one
MAX_CLIENTS = 10_000  # addresses that a `Limit` remembers

_HEADERS = {
    # No script at all: nothing on these pages needs one.
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # A resume link is a credential and must not reach other sites; `no-referrer` would blank the Origin checked below.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Robots-Tag": "noindex",
}


class Guard:
    """ASGI middleware: refuses foreign Host and Origin headers and adds the security headers to every response."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None, public_url: str = "") -> None:
        """Guard `app`.

        Args:
            hosts: the names it may be called by, None any (where an access token is required).
            public_url: where browsers see it, of a proxy that ends TLS before it: what links and cookies go by,
                whatever scheme and Host the proxy passes on.
        """
        public = urlsplit(public_url)
        self.app, self.scheme, self.place = app, public.scheme, public.netloc
        self.hosts = [*hosts, public.hostname] if hosts is not None and public_url else hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if reason := self._find_refusal(Headers(scope=scope), scope["method"]):
            return await PlainTextResponse(reason, 403)(scope, receive, protected)
        await self.app(self._rewrite_to_public(scope), receive, protected)

    def _rewrite_to_public(self, scope: Scope) -> Scope:
        """Return a request as the browser sent it to the public address."""
        if not self.place:
            return scope
        headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
        return {**scope, "scheme": self.scheme, "headers": [*headers, (b"host", self.place.encode("idna"))]}

    def _find_refusal(self, headers: Headers, method: str) -> str | None:
        host = headers.get("host", "")
        # A name that an attacker's DNS points at 127.0.0.1 would make a local study readable to a web page.
        if self.hosts is not None and _read_hostname(f"//{host}") not in self.hosts:
            return "This study is served to this machine only. Open it by the address that it printed at its start."
        origin = headers.get("origin")
        if method == "POST" and origin is not None and origin.partition("://")[2] != (self.place or host):
            return "This form was sent from another site. Open the study's own page and send it from there."
        return None


class Limit:
    """So many events an address and span of time; the addresses that are remembered are bounded too."""

    def __init__(self, count: int, seconds: float) -> None:
        """Allow `count` events in any `seconds`."""
        self.count, self.seconds = count, seconds
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def is_reached(self, address: str) -> bool:
        """Tell whether an address has had its events."""
        with self._lock:
            return len(self._recent(address)) >= self.count

    def note(self, address: str) -> None:
        """Count one event."""
        with self._lock:
            times = self._recent(address)
            times.append(time.monotonic())
            self._times.pop(address, None)
            self._times[address] = times  # the latest last
            while len(self._times) > MAX_CLIENTS:
                self._times.pop(next(iter(self._times)))

    def _recent(self, address: str) -> deque[float]:
        times, since = self._times.get(address, deque(maxlen=self.count)), time.monotonic() - self.seconds
        while times and times[0] < since:
            times.popleft()
        return times


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a posted form.

    Raises:
        HTTPException: 415 for another content type, 413 for a body over `MAX_BODY`, 400 for bad encoding, too many
            fields, a field sent twice or one over `MAX_VALUE` characters, 408 for a body that takes longer than
            `BODY_SECONDS`, 400 for one that is cut off.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "This page takes only its own form.")
    try:
        text = (await asyncio.wait_for(_read_body(request), BODY_SECONDS)).decode("latin-1")
    except TimeoutError as error:
        raise HTTPException(408, f"The form took longer than {BODY_SECONDS:.0f} seconds. Send it again.") from error
    except ClientDisconnect as error:  # nobody is there to read this
        raise HTTPException(400, "The form was cut off. Send it again.") from error
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, encoding="utf-8", errors="strict")
    except ValueError as error:
        raise HTTPException(400, "The form could not be read. Go back, reload the page and send it again.") from error
    fields = dict(pairs)
    if len(fields) < len(pairs) or any(len(value) > MAX_VALUE for value in fields.values()):
        raise HTTPException(400, f"A field was sent twice, or is longer than {MAX_VALUE} characters.")
    return fields


async def _read_body(request: Request) -> bytes:
    kept, total = [], 0
    async for chunk in request.stream():
        total += len(chunk)
        if total <= MAX_BODY:
            kept.append(chunk)
        elif total > MAX_DRAIN:
            break
    if total > MAX_BODY:
        raise HTTPException(413, f"The form is larger than {MAX_BODY // 1024} kB.")
    return b"".join(kept)


def check_public_url(url: str) -> None:
    """Refuse a public address that is not `https://host` (or http, or with a port), without a path.

    Raises:
        ValueError: it is not.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"{url} is no public address of a study: give https://host, or https://host:port, alone")


def check_token(host: str, token: str | None) -> None:
    """Refuse to serve beyond this machine without an access token that cannot be guessed.

    Raises:
        ValueError: `host` is not this machine and the token is missing, or the token is too short.
    """
    if token is None and host not in LOOPBACK:
        raise ValueError(f"host {host} can be reached from other machines and needs an access token; set one")
    if token is not None and len(token) < MIN_TOKEN:
        raise ValueError(f"the access token has {len(token)} characters; use {MIN_TOKEN} or more, random ones")


def access_proof(secret: str, token: str) -> str:
    """Return what a browser that knew the access token keeps in place of it."""
    return hmac.new(secret.encode(), f"access:{token}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def same(given: str | None, expected: str) -> bool:
    """Compare secrets in constant time."""
    return hmac.compare_digest((given or "").encode("utf-8", "surrogatepass"), expected.encode())


def _read_hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
