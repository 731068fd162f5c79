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
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from visdyn.images import ImageRef, load


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
        return self._messages(lambda ref: _data_url(_sent(ref, max_side)))

    def described(self, max_side: int | None = None) -> list[dict]:
        """Return the same messages with the SHA-256 of each image's size and pixels in place of the image."""
        return self._messages(lambda ref: _digest(_sent(ref, max_side)))

    def _messages(self, show: Callable[[ImageRef], str]) -> list[dict]:
        parts = [{"type": "image_url", "image_url": {"url": show(image)}} for image in self.images]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.prompt}]}]


def _sent(ref: ImageRef, max_side: int | None) -> Image.Image:
    image = load(ref)
    if max_side is not None and max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return image


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _digest(image: Image.Image) -> str:
    return "sha256:" + hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def reply_key(model: str, messages: list[dict], sampling: Mapping[str, object], repeat: int) -> str:
    """Return the SHA-256 under which a reply is kept.

    It covers the model's name, the messages as `described`, the sampling fields as sent and the repeat; not the
    address or anything that cannot change the answer (time-outs, concurrency). Two endpoints that call different
    models by one name need two folders.
    """
    asked = {"model": model, "messages": messages, "sampling": dict(sampling), "repeat": repeat}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


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
    return Reply(text, str(choice.get("finish_reason")), _usage(body.get("usage")), body)


def _usage(counted: object) -> Usage | None:
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
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    for seconds in (_number(after), _seconds_until(after), _number(delay[1]) if delay else None):
        if seconds is not None:
            return seconds
    return None


def _number(text: str) -> float | None:
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

    Files, all of JSON lines: `replies.jsonl`, one line a reply with its key, question and whole body;
    `failures.jsonl`, requests that got none, with every attempt's reason (they are asked again by the next run);
    `damaged.jsonl`, lines that were cut short or cannot be read, set aside when a run starts.

    Args:
        folder: made when needed. One run at a time writes to it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._records: dict[str, dict] = {}
        self._size = 0  # of replies.jsonl when last read or written
        self._session, self._writing = threading.Lock(), threading.Lock()

    @property
    def num_damaged(self) -> int:
        """Lines ever set aside in this folder."""
        path = self.folder / "damaged.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    @contextlib.contextmanager
    def session(self) -> Iterator[ReplyStore]:
        """Hold the folder for one run, with what is on disk read in.

        Raises:
            RuntimeError: another process (or store) is writing to the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._session, open(self.folder / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lifts it when the process dies
            except BlockingIOError:
                raise RuntimeError(f"another run is writing to {self.folder}; wait for it or end it") from None
            self._read()
            yield self

    def keys(self) -> set[str]:
        """Return the keys of all replies on disk."""
        with self.session():
            return set(self._records)

    def get(self, key: str) -> Reply | None:
        """Return the kept reply, or None."""
        record = self._records.get(key)
        return None if record is None else _reply_of(record)

    def add(self, key: str, question: Mapping[str, object], reply: Reply) -> None:
        """Keep a reply, on disk before this returns. `question`: what was asked, for the reader of the file."""
        record = {"key": key, **question, "attempts": reply.attempts, "body": reply.body}
        self._append("replies.jsonl", record)
        self._records[key] = record

    def add_failure(self, key: str, question: Mapping[str, object], reason: str, attempts: list[str]) -> None:
        """Record that a request got no reply."""
        self._append("failures.jsonl", {"key": key, **question, "reason": reason, "attempts": attempts})

    def _append(self, name: str, record: dict) -> None:
        # ASCII: what models write can hold half a surrogate pair, which has no UTF-8.
        line = json.dumps(record).encode("ascii") + b"\n"
        with self._writing, open(self.folder / name, "ab") as file:
            before = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)  # a full disk must not leave half a line for the next one to be glued to
                raise
            if name == "replies.jsonl":
                self._size = before + len(line)

    def _read(self) -> None:
        path = self.folder / "replies.jsonl"
        data = path.read_bytes() if path.is_file() else b""
        if len(data) == self._size:
            return
        lines = [line for line in data.split(b"\n") if line.strip()]
        records = [_record(line) for line in lines]
        if damaged := [line for line, record in zip(lines, records, strict=True) if record is None]:
            self._set_aside(damaged)
        whole = [line for line, record in zip(lines, records, strict=True) if record is not None]
        clean = b"".join(line + b"\n" for line in whole)
        if clean != data:
            replace_file(path, clean)
        self._records = {}
        for record in filter(None, records):
            self._records.setdefault(record["key"], record)
        self._size = len(clean)

    def _set_aside(self, lines: list[bytes]) -> None:
        for line in lines:
            self._append("damaged.jsonl", {"line": line.decode("utf-8", errors="backslashreplace")})
        warnings.warn(
            f"{len(lines)} damaged lines of {self.folder / 'replies.jsonl'} (a run was killed while writing?) were set "
            "aside in damaged.jsonl; their questions will be asked again",
            stacklevel=5,
        )


def _record(line: bytes) -> dict | None:
    """Parse a line of replies.jsonl; None if it is not whole."""
    try:
        record = json.loads(line)
        _reply_of(record)
        return record if isinstance(record["key"], str) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _reply_of(record: dict) -> Reply:
    reply = read_reply(record["body"])
    return Reply(reply.text, reply.finish_reason, reply.usage, reply.body, record["attempts"])


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a kill leaves either the old or the new one."""
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
