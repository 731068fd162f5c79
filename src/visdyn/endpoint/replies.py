"""What is asked of an endpoint, what it answers, and every answer kept on disk and used again.

One message format serves GPT-4o, Gemini's compatible endpoint and a local vLLM server: one user turn with the images as
base64 PNG, and the prompt after or before them. (Chat templates of some local models put images first whatever order
they were sent in.)
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
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from visdyn.compute.progress import say
from visdyn.compute.store import Store, import_lines, to_json
from visdyn.images import ImageRef, load
from visdyn.paths import digest_of

# By these codes (of an error, or as the reason why a reply ends) servers say that a filter took the answer away.
BLOCKS = re.compile(r"content_?filter|content_policy|moderation|safety|prohibited|blocklist|recitation|spii|"
                    r"refusal|invalid_prompt|responsibleaipolicy", re.IGNORECASE)  # fmt: skip
_NOT_KNOWN = re.compile(r"unsupported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|not permitted|"
                        r"not allowed|extra_forbidden|cannot find field|invalid parameter", re.IGNORECASE)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """Images, shown in this order, and the prompt that follows them, or with `text_first` stands before them."""

    images: tuple[ImageRef, ...]
    prompt: str
    text_first: bool = False

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
        shown = [{"type": "image_url", "image_url": {"url": show(image)}} for image in self.images]
        text = [{"type": "text", "text": self.prompt}]
        return [{"role": "user", "content": text + shown if self.text_first else shown + text}]


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
        refusal: why there are no words, or fewer than there were: a filter, the model's own refusal, no tokens left.
        left_out: parameters that the server refuses and that were not sent, `max_tokens` perhaps under another name.
    """

    text: str
    finish_reason: str
    usage: Usage | None
    body: dict
    attempts: int = 1
    refusal: str = ""
    left_out: tuple[str, ...] = ()


def read_reply(body: object) -> Reply:
    """Read a chat completion. A reply without words that says why (a refusal, a filter, no tokens left) is one too.

    Raises:
        ValueError: it is no chat completion (an error in place of an answer), or has neither words nor a reason, and
            should be asked for again.
    """
    usage = _read_usage(body.get("usage")) if isinstance(body, dict) else None
    if code := blocked_by(body):
        return Reply("", "content_filter", usage, body, refusal=f"blocked by the server ({code})")
    try:
        choices, error = body.get("choices"), body.get("error")
        if not choices and "choices" in body and not error:  # Gemini, where a filter takes the whole answer away
            return Reply("", "no choices", usage, body, refusal="blocked by the server (no choices)")
        choice = choices[0]
        message = choice["message"] or {}
        content, refused = message.get("content"), message.get("refusal")
    except (TypeError, LookupError, AttributeError):
        raise ValueError(f"the reply is no chat completion: {json.dumps(body)[:200]}") from None
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    text, finish = content if isinstance(content, str) else "", str(choice.get("finish_reason"))
    if BLOCKS.search(finish):
        refusal = f"blocked by the server (finish_reason {finish})"
    elif isinstance(refused, str) and refused and not text.strip():
        refusal = f"the model refuses: {clipped(refused)}"
    elif not text.strip() and (finish == "length" or isinstance(content, str)):
        advice = "; allow more tokens in sampling" if finish == "length" else ""
        refusal = f"an empty answer (finish_reason {finish}{advice})"
    elif not text.strip():
        raise ValueError(f"the reply has no words and does not say why (finish_reason {finish})")
    else:
        refusal = ""
    return Reply(text, finish, usage, body, refusal=refusal)


def blocked_by(body: object) -> str | None:
    """Return the code by which an error in place of an answer says that a filter stopped the request, or None."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return None
    codes = [error.get(key) for key in ("code", "type", "status")]
    if isinstance(details := error.get("metadata"), dict) and "flagged_input" in details:  # OpenRouter, with status 403
        codes.append("moderation")
    return next((code for code in codes if isinstance(code, str) and BLOCKS.search(code)), None)


def refused_field(text: str, sent: Collection[str]) -> str | None:
    """Return which of the parameters that were sent an error says it does not know or support, or None.

    Servers name it as `param`, in quotes, or after the word parameter, field or name; what is wrong with a JSON schema
    is wrong with `response_format`.
    """
    if not _NOT_KNOWN.search(text):
        return None
    if param := re.search(r'"param"\s*:\s*"(\w+)', text):
        return param[1] if param[1] in sent else None
    quoted = re.findall(r"""[\"'`](\w+)\\?["'`]""", text)
    named = re.findall(r"\b(?:param|parameter|argument|field|name)s?:?\s+(\w+)", text, re.IGNORECASE)
    schema = re.search(r"response_?(?:format|schema)|json_?schema|additionalProperties", text)
    return next((name for name in [*quoted, *named, *(["response_format"] if schema else [])] if name in sent), None)


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
    body; `visdyn store <folder>/replies.sqlite` prints them as JSON lines. `failures.jsonl` lists
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
        """Return the kept reply, or None; one without words or a reason, as earlier versions kept them, is none."""
        value = self.store.get(key)
        try:
            return None if value is None else _reply_of(json.loads(value))
        except ValueError:
            return None

    def add(self, key: str, question: Mapping[str, object], reply: Reply) -> None:
        """Keep a reply, on disk before this returns. `question`: what was asked, for who reads the store."""
        left_out = {"left_out": list(reply.left_out)} if reply.left_out else {}
        self.store.put(key, to_json({**question, **left_out, "attempts": reply.attempts, "body": reply.body}))

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
    return replace(read_reply(record["body"]), attempts=record["attempts"], left_out=tuple(record.get("left_out", ())))
