"""A VLM whose answers are kept on disk, so that curation can be killed anywhere and goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visdyn import images as image_files
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
    """Wraps a `VisionLanguageModel`; each answer is appended to a JSON-lines file as soon as it is given.

    Args:
        model: the model to ask; its `name` should identify weights and generation settings.
        path: file of lines {"key", "model", "answer"}; made when needed. A last line cut short by a kill is
            dropped with a warning, and its question asked again.
    """

    def __init__(self, model, path: str | Path) -> None:
        self.model, self.path, self.name = model, Path(path), model.name
        self.hits = self.misses = 0
        self._answers = self._read()

    def answer_many(self, questions: Sequence[tuple[Sequence[ImageRef], str]]) -> list[str]:
        """Return the kept answers; the model is asked the other questions, each once, and what it says is kept."""
        keys = [content_key(self.name, images, prompt) for images, prompt in questions]
        unknown = {key: place for place, key in enumerate(keys) if key not in self._answers}
        self.hits += len(keys) - len(unknown)
        self.misses += len(unknown)
        if unknown:
            answers = self.model.answer_many([questions[place] for place in unknown.values()])
            for key, answer in zip(unknown, answers, strict=True):
                self._answers[key] = answer
                self._append({"key": key, "model": self.name, "answer": answer})
        return [self._answers[key] for key in keys]

    def release(self) -> None:
        """Free the model's memory; the answers stay."""
        self.model.release()

    def _append(self, record: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> dict[str, str]:
        if not self.path.is_file():
            return {}
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole, cut = text[: text.rfind("\n") + 1], text[text.rfind("\n") + 1 :]
        if cut:
            warnings.warn(f"{self.path} ends in half a line, from a run that was killed; it is dropped", stacklevel=3)
            self.path.write_text(whole, encoding="utf-8")
        answers = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
                answers[record["key"]] = record["answer"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path} line {number} is no cached answer; repair or delete the file") from error
        return answers
