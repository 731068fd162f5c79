"""An image editor behind an OpenAI-compatible `images/edits` endpoint (GPT Image, Gemini through a gateway, a server).

The request is a multipart form with `model`, `prompt`, `image` (PNG) and further fields as given; the answer carries
the image as `data[0].b64_json`, or as a data URL in `data[0].url`. Retries, pacing and the key's handling are
`visdyn.endpoint.client`'s. Such editors take no seed: a second run gives other images, so images are kept.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visdyn.endpoint.client import Endpoint, EndpointError, EndpointSettings, EndpointStoppedError, Form
from visdyn.images import ImageRef, decode, load
from visdyn.models.editors.protocol import check_items


@dataclass(frozen=True)
class Edited:
    """One answer: image uint8 (H, W, 3), token usage as the endpoint counts it, and the number of requests sent."""

    image: np.ndarray
    usage: dict
    attempts: int = 1


class ApiEditor:
    """Edits images by asking an endpoint; answers `edit` as `visdyn.models.editors.protocol.ImageEditor` does.

    Args:
        settings: of the endpoint; `concurrency` requests are under way at once.
        fields: further fields of the form, such as `size` or `quality`, sent as they are.
        price_per_image: in USD, for the cost line.
        log: JSON-lines file that takes a line for each request: item, outcome, usage, attempts (never the image).
        report: takes a line of progress and cost after each call of `edit`.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        fields: dict | None = None,
        price_per_image: float = 0.0,
        log: Path | None = None,
        report: Callable[[str], object] = print,
    ) -> None:
        self.settings, self.fields, self.price = settings, fields or {}, price_per_image
        self.log, self.report = log, report
        self.endpoint = Endpoint(settings)
        self.made = self.failed = 0
        self._lock = threading.Lock()

    def edit(
        self, sources: Sequence[ImageRef], prompts: Sequence[str], seeds: Sequence[int], steps=None, guidance=None
    ) -> list[np.ndarray | None]:
        """Return one image for each source and prompt, None where the endpoint gave none (`log` has the reason).

        `seeds` are not sent, and there are no steps and no guidance to set.

        Raises:
            ValueError: lists of different lengths, or `steps` or `guidance` is given.
            EndpointStoppedError: no request can succeed (no key, no quota, a wrong address).
        """
        check_items(sources, prompts, seeds)
        if steps is not None or guidance is not None:
            raise ValueError("an image endpoint has no sampling steps and no guidance; leave both out")
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            futures = [pool.submit(self._edit_one, *pair) for pair in zip(sources, prompts, strict=True)]
            try:
                images = [future.result() for future in futures]
            except EndpointStoppedError as error:
                self.endpoint.stop(str(error))
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        cost = f", {self.made * self.price:.2f} USD" if self.price else ""
        self.report(f"{self.settings.model}: {self.made} images made, {self.failed} failed{cost}")
        return images

    def _edit_one(self, source: ImageRef, prompt: str) -> np.ndarray | None:
        buffer = io.BytesIO()
        load(source).save(buffer, format="PNG")
        texts = {name: str(value) for name, value in self.fields.items()}
        form = Form(
            {"model": self.settings.model, "prompt": prompt, "n": "1", **texts},
            {"image": ("image.png", buffer.getvalue(), "image/png")},
        )
        try:
            reply = self.endpoint.post("images/edits", form, read_edited)
        except EndpointStoppedError:
            raise
        except EndpointError as error:
            self._count_reply(None)
            self._write_log({"prompt": prompt, "outcome": "failed", "reason": str(error), "attempts": error.attempts})
            return None
        self._count_reply(reply)
        self._write_log({"prompt": prompt, "outcome": "made", "usage": reply.usage, "attempts": reply.attempts})
        return reply.image

    def _count_reply(self, reply: Edited | None) -> None:
        with self._lock:
            self.made, self.failed = self.made + (reply is not None), self.failed + (reply is None)

    def _write_log(self, record: dict) -> None:
        if self.log is None:
            return
        with self._lock, open(self.log, "a", encoding="ascii") as file:
            file.write(json.dumps({"model": self.settings.model, **record}) + "\n")


def read_edited(body: object) -> Edited:
    """Read the image out of an answer.

    Raises:
        ValueError: it holds no image that can be decoded.
    """
    try:
        entry = body["data"][0]
        text = entry.get("b64_json") or entry.get("url") or ""
    except (TypeError, LookupError, AttributeError):
        raise ValueError(f"the reply holds no image: {json.dumps(body)[:200]}") from None
    if not isinstance(text, str):
        raise ValueError(f"the reply holds no image: {json.dumps(body)[:200]}")
    if text.startswith("http"):
        raise ValueError("the reply names an address, not an image; add response_format: b64_json to `fields`")
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        content = base64.b64decode(encoded, validate=True)
    except ValueError:  # binascii's errors too
        raise ValueError("the reply's image cannot be decoded (it is not valid base64)") from None
    pixels = np.asarray(decode(content, "the reply's image"))
    usage = body.get("usage")
    return Edited(pixels, usage if isinstance(usage, dict) else {})
