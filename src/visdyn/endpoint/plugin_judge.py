"""`PluginEndpoint`: a judge of your own, outside the kit, with the interface of `endpoint.client.Endpoint`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from PIL import Image

from visdyn.endpoint.local_server import LocalEndpoint
from visdyn.endpoint.replies import Question, Reply
from visdyn.paths import file_digest
from visdyn.plugins import PluginError, file_of, make_plugin


@runtime_checkable
class AnsweringJudge(Protocol):
    """Anything that answers the judge's prompt in words; the kit reads the scores out of them."""

    def answer(self, images: Sequence[Image.Image], prompt: str, seed: int) -> str:
        """Return the answer to images (RGB, before and after, in the prompt's order) and the prompt."""


@dataclass(frozen=True)
class PluginSettings:
    """What decides such a judge's answers.

    Attributes:
        reference: as `visdyn.plugins` says, such as `my_judge.py:MyJudge`.
        sampling: keywords of its class, and part of what a kept reply is known by.
        seed: repeat r is asked with `seed` + r.
        max_side: larger images are shrunk to this many pixels on the longer side; None shows them as they are.
        device: where it runs.
    """

    reference: str
    sampling: Mapping[str, object] = field(default_factory=dict)
    seed: int | None = 0
    max_side: int | None = None
    device: str = "cpu"
    base_url: str = ""
    concurrency: int = 1

    @property
    def model(self) -> str:
        """The name that replies are kept by; a file that was edited is another judge."""
        file = file_of(self.reference)
        return f"{self.reference} {file_digest(file)[:12]}" if file else self.reference

    def sampling_of(self, repeat: int) -> dict:
        """Return the sampling fields of repeat 0, 1, ..., with its seed."""
        return dict(self.sampling) | {"seed": (self.seed or 0) + repeat}


class PluginEndpoint(LocalEndpoint):
    """Asks the judge; it is made at the first question."""

    def __init__(self, settings: PluginSettings) -> None:
        self.settings, self._judge = settings, None

    def ask(self, question: Question, repeat: int = 0) -> Reply:
        """Return the judge's reply; the body has a chat completion's form, so that `ReplyStore` keeps it.

        Raises:
            PluginError: the reference names no judge.
        """
        if self._judge is None:
            made = make_plugin("judges", self.settings.reference, device=self.settings.device, **self.settings.sampling)
            if not isinstance(made, AnsweringJudge):
                raise PluginError(f"{self.settings.reference} names no judge: it needs answer(images, prompt, seed)")
            self._judge = made
        images = [self._shrink_image(image) for image in question.images]
        text = self._judge.answer(images, question.prompt, self.settings.sampling_of(repeat)["seed"])
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return Reply(text, "stop", None, {"choices": [choice]})
