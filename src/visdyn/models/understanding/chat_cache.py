"""A VLM whose answers are kept on disk, so that curation can be killed anywhere and goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visdyn import images as image_files
from visdyn.compute.progress import say
from visdyn.compute.store import Store, import_lines, to_json
from visdyn.images import ImageRef


def content_key(name: str, images: Sequence[ImageRef], prompt: str) -> str:
    """Return the SHA-256 of a question: model name, prompt, and the images' pixels (not their paths)."""
    digest = hashlib.sha256(json.dumps([name, prompt, len(images)]).encode())
    for ref in images:
        pixels = np.asarray(image_files.load(ref))
        digest.update(repr(pixels.shape).encode())
        digest.update(pixels.tobytes())
    return digest.hexdigest()


class CachedVLM:
    """Wraps a `VisionLanguageModel`; each answer is kept on disk as soon as it is given.

    Args:
        model: the model to ask; its `name` should identify weights and generation settings. With a `batch_size` it is
            asked so many questions at a time, else all at once; what it answered is kept before the next are asked.
        path: of the store of answers (`visdyn.compute.store`), made when needed. A file of JSON lines of that name
            (`<stem>.jsonl`, the form of earlier versions) is taken over.
    """

    def __init__(self, model, path: str | Path) -> None:
        self.model, self.name, self.store = model, model.name, Store(Path(path).with_suffix(".sqlite"))
        self.hits = self.misses = 0
        lines = Path(path).with_suffix(".jsonl")
        if count := import_lines(self.store, lines, lambda line: (line["key"], to_json(line["answer"]))):
            say(f"{count} answers of {lines.name} were taken over by {self.store.path}")

    def answer_many(self, questions: Sequence[tuple[Sequence[ImageRef], str]]) -> list[str]:
        """Return the kept answers; the model is asked the other questions, each once, and what it says is kept."""
        keys = [content_key(self.name, images, prompt) for images, prompt in questions]
        answers = {key: json.loads(value) for key, value in self.store.get_many(keys).items()}
        unknown = {key: place for place, key in enumerate(keys) if key not in answers}
        self.hits += len(keys) - len(unknown)
        self.misses += len(unknown)
        asked = list(unknown)
        size = getattr(self.model, "batch_size", len(asked)) or 1
        for start in range(0, len(asked), size):
            part = asked[start : start + size]
            given = self.model.answer_many([questions[unknown[key]] for key in part])
            answers |= dict(zip(part, given, strict=True))
            self.store.put_many({key: to_json(answers[key]) for key in part})
        return [answers[key] for key in keys]

    def release(self) -> None:
        """Free the model's memory; the answers stay."""
        self.model.release()
