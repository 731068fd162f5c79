"""What is asked of an endpoint, what it answers, and every answer kept on disk and used again.

One message format serves GPT-4o, Gemini's compatible endpoint and a local vLLM server: one user turn with the images as
base64 PNG, then the prompt. (Chat templates of some local models put images first whatever order they were sent in.)
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import io
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from visdyn.compute.progress import say
from visdyn.compute.store import Store, import_lines, to_json
from visdyn.images import ImageRef, load
from visdyn.paths import digest_of


@dataclass(frozen=True)
class Question:
    """Images, shown in this order, and the prompt that follows them."""

    images: tuple[ImageRef, ...]
    prompt: str

    def encoded(self, max_side: int | None = None) -> list[dict]:
        """Return the request's messages, images as base64 PNG: without loss, so what `described` hashes is seen.

        Args:
            max_side: larger images are shrunk to this many pixels on the longer side; None sends them as they are.

        Raises:
            visdyn.images.ImageError: an image cannot be read.
        """
        return self._make_messages(lambda ref: _data_url(_shrink_image(ref, max_side)))

    def described(self, max_side: int | None = None) -> list[dict]:
        """Return the same messages with the SHA-256 of each image's size and pixels in place of the image."""
        return self._make_messages(lambda ref: _hash_pixels(_shrink_image(ref, max_side)))

    def _make_messages(self, show: Callable[[ImageRef], str]) -> list[dict]:
        parts = [{"type": "image_url", "image_url": {"url": show(image)}} for image in self.images]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.prompt}]}]


def _shrink_image(ref: ImageRef, max_side: int | None) -> Image.Image:
    image = load(ref)
    if max_side is not None and max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return image


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _hash_pixels(image: Image.Image) -> str:
    return "sha256:" + hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def reply_key(model: str, messages: list[dict], sampling: Mapping[str, object], repeat: int) -> str:
    """Return the SHA-256 under which a reply is kept.

    It covers the model's name, the messages as `described`, the sampling fields as sent and the repeat; not the
    address or anything that cannot change the answer (time-outs, concurrency). Two endpoints that call different
    models by one name need two folders.
    """
    return digest_of({"model": model, "messages": messages, "sampling": dict(sampling), "repeat": repeat})


class Usage(NamedTuple):
    """Tokens that went in and came out, as the endpoint counts them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: the model's words; empty where it gave none.
        finish_reason: `stop`, `length` (cut short), `content_filter`, ...
        usage: tokens; None where the endpoint did not count them.
        body: the whole reply as parsed JSON.
        attempts: times the request was sent.
    """

    text: str
    finish_reason: str
    usage: Usage | None
    body: dict
    attempts: int = 1


def read_reply(body: object) -> Reply:
    """Read a chat completion. Words may be missing (a refusal, a filter, no tokens left): that is a reply too.

    Raises:
        ValueError: it is no chat completion (an error in place of an answer, no choices).
    """
    try:
        choice = body["choices"][0]
        content, refusal = choice["message"].get("content"), choice["message"].get("refusal")
    except (TypeError, LookupError, AttributeError):
        raise ValueError(f"the reply is no chat completion: {json.dumps(body)[:200]}") from None
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    text = next((words for words in (content, refusal) if isinstance(words, str) and words), "")
    return Reply(text, str(choice.get("finish_reason")), _read_usage(body.get("usage")), body)


def _read_usage(counted: object) -> Usage | None:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    counts = [counted.get(name) for name in names] if isinstance(counted, dict) else [None]
    if not all(isinstance(count, int) and count >= 0 for count in counts[:2]):
        return None
    # Gemini's endpoint counts thinking, which is billed as output, in the total only.
    return Usage(counts[0], max(counts[1], counts[2] - counts[0] if isinstance(counts[2], int) else 0))


def error_message(text: str) -> str:
    """Return an error reply's own words, in one short line; Gemini wraps its error in a list."""
    try:
        body = json.loads(text)
        body = body[0] if isinstance(body, list) else body
        found = body.get("error", body)
        found = found.get("message") or found.get("detail") if isinstance(found, dict) else found
        return clipped(str(found or text))
    except (ValueError, LookupError, AttributeError, RecursionError):
        return clipped(text)


def clipped(text: str) -> str:
    """Return the first 300 characters in one line."""
    return " ".join(text.split())[:300]


def asked_wait(headers: Mapping[str, str], text: str = "") -> float | None:
    """Return the seconds an endpoint asks to wait, or None: `retry-after-ms`, `retry-after` (seconds or a date), or
    Gemini's `retryDelay` in the body; header names are in small letters."""
    delay = re.search(r'"retryDelay"\s*:\s*"([0-9.]+)s"', text)
    after = headers.get("retry-after", "")
    milliseconds = _parse_seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    for seconds in (_parse_seconds(after), _seconds_until(after), _parse_seconds(delay[1]) if delay else None):
        if seconds is not None:
            return seconds
    return None


def _parse_seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _seconds_until(date: str) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


class ReplyStore:
    """A folder with every reply; a kill at any moment loses only the requests that were under way.

    `replies.sqlite` is the store (`visdyn.compute.store`) of records by key: the question, the attempts and the whole
    body; `python -m visdyn.compute.store <folder>/replies.sqlite` prints them as JSON lines. `failures.jsonl` lists
    the requests that got no reply, with every attempt's reason (they are asked again by the next run). The
    `replies.jsonl` of earlier versions is taken over by the first run that meets it.

    Args:
        folder: made when needed. One run at a time asks for it, so that nothing is paid for twice.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.store = Store(self.folder / "replies.sqlite")
        self._session, self._failures = threading.Lock(), threading.Lock()

    @contextlib.contextmanager
    def session(self) -> Iterator[ReplyStore]:
        """Hold the folder for one run.

        Raises:
            RuntimeError: another process (or `ReplyStore`) holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._session, open(self.folder / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lifts it when the process dies
            except BlockingIOError:
                raise RuntimeError(f"another run is writing to {self.folder}; wait for it or end it") from None
            if count := import_lines(self.store, self.folder / "replies.jsonl", _record_of_line):
                say(f"{count} replies of {self.folder / 'replies.jsonl'} were taken over by {self.store.path.name}")
            yield self

    def keys(self) -> set[str]:
        """Return the keys of all replies that are kept whole."""
        with self.session():
            return {key for key, _ in self.store.items()}

    def get(self, key: str) -> Reply | None:
        """Return the kept reply, or None."""
        value = self.store.get(key)
        return None if value is None else _reply_of(json.loads(value))

    def add(self, key: str, question: Mapping[str, object], reply: Reply) -> None:
        """Keep a reply, on disk before this returns. `question`: what was asked, for who reads the store."""
        self.store.put(key, to_json({**question, "attempts": reply.attempts, "body": reply.body}))

    def add_failure(self, key: str, question: Mapping[str, object], reason: str, attempts: list[str]) -> None:
        """Record that a request got no reply."""
        line = to_json({"key": key, **question, "reason": reason, "attempts": attempts}) + b"\n"
        with self._failures, open(self.folder / "failures.jsonl", "ab") as file:
            file.write(line)


def _record_of_line(line: dict) -> tuple[str, bytes]:
    """Return key and record of a line of an earlier version's replies.jsonl; what it raises, the line is damaged."""
    _reply_of(line)
    key = line.pop("key")
    if not isinstance(key, str):
        raise ValueError("the key is no text")
    return key, to_json(line)


def _reply_of(record: dict) -> Reply:
    reply = read_reply(record["body"])
    return Reply(reply.text, reply.finish_reason, reply.usage, reply.body, record["attempts"])
