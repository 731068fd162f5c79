"""`LocalEndpoint`: a vision-language model on this machine with the interface of `endpoint.client.Endpoint`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from visdyn.compute.gpus import Processes, open_processes
from visdyn.compute.workers import WorkerLostError
from visdyn.endpoint.client import EndpointError
from visdyn.endpoint.replies import Question, Reply, Usage
from visdyn.images import load
from visdyn.models.understanding.chat import TransformersVLM


@dataclass(frozen=True)
class LocalSettings:
    """What decides a local model's answers.

    Attributes:
        model: hub id or folder of a family that `visdyn.models.understanding.families` lists.
        sampling: `max_tokens`; `temperature`, 0 being greedy decoding, whose repeats are all alike.
        seed: repeat r is drawn with the seed `seed` + r; no use at temperature 0.
        max_side: larger images are shrunk to this many pixels on the longer side; None shows them as they are.
        device, dtype: where and in which precision it runs.
        concurrency: processes that answer side by side, each with a model and, where there are some, a GPU of its own.
    """

    model: str
    sampling: Mapping[str, object] = field(default_factory=lambda: {"max_tokens": 400, "temperature": 0.0})
    seed: int | None = 0
    max_side: int | None = None
    device: str = "cpu"
    dtype: str = "auto"
    base_url: str = ""
    concurrency: int = 1

    def sampling_of(self, repeat: int) -> dict:
        """Return the sampling fields of repeat 0, 1, ...; with the seed where one is drawn."""
        drawn = self.seed is not None and float(self.sampling.get("temperature") or 0) > 0
        return dict(self.sampling) | ({"seed": self.seed + repeat} if drawn else {})


class LocalEndpoint:
    """Answers `ask` as `visdyn.endpoint.client.Endpoint` does; loads the model at the first question.

    A question is asked alone and drawn with its own seed, so that no reply depends on how many processes there are.
    """

    _processes: Processes | None = None  # a GPU each, where several questions are asked at once

    def __init__(self, settings: LocalSettings) -> None:
        self.settings = settings
        if settings.concurrency > 1:
            alone = LocalEndpoint(replace(settings, concurrency=1))
            self._processes = open_processes(_ask_alone, alone, settings.concurrency)
        length = int(settings.sampling.get("max_tokens") or 400)
        self._vlm = TransformersVLM(settings.model, length, settings.device, settings.dtype)

    def __enter__(self) -> LocalEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        if self._processes is not None:
            self._processes.end()

    def resume(self) -> None:
        """Do nothing: a local model is never stopped."""

    def stop(self, reason: str = "") -> None:
        """Do nothing: no request waits."""

    def ask(self, question: Question, repeat: int = 0) -> Reply:
        """Return the model's reply; the body has a chat completion's form, so that `ReplyStore` keeps it.

        Raises:
            visdyn.images.ImageError: an image cannot be read.
            EndpointError: the process that was asked died, as did the one that took its place.
        """
        images = tuple(self._shrink_image(image) for image in question.images)
        if self._processes is not None:
            try:
                return self._processes.call((replace(question, images=images), repeat))
            except WorkerLostError as error:
                raise EndpointError(str(error), [str(error)]) from error
        return self._answer(images, question.prompt, repeat)

    def _answer(self, images: tuple, text: str, repeat: int) -> Reply:
        import torch

        from visdyn.models.understanding.inputs import make_query

        sampling, model = self.settings.sampling_of(repeat), self._vlm.load_model()
        prompt = model.chat.prompt(len(images), text)
        temperature = float(sampling.get("temperature") or 0)
        drawn = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(int(sampling.get("seed", 0)))
            inputs, _ = model.inputs([make_query(prompt, (), images)], padding_side="left")
            # Qwen's generation config asks for a repetition penalty, another sampling than was asked for.
            tokens = model.lm.generate(
                **inputs, **drawn, repetition_penalty=1.0, max_new_tokens=self._vlm.max_new_tokens
            )
        answer = tokens[0, inputs["input_ids"].shape[1] :]
        text = model.chat.tokenizer.decode(answer, skip_special_tokens=True).strip()
        usage = Usage(inputs["input_ids"].shape[1], len(answer))
        return _make_reply(text, "length" if len(answer) >= self._vlm.max_new_tokens else "stop", usage)

    def _shrink_image(self, ref):
        image = load(ref)
        if self.settings.max_side is not None and max(image.size) > self.settings.max_side:
            image = image.copy()
            image.thumbnail((self.settings.max_side, self.settings.max_side))
        return image


def _ask_alone(endpoint: LocalEndpoint, asked: tuple[Question, int]) -> Reply:
    return endpoint.ask(*asked)


def _make_reply(text: str, finish: str, usage: Usage) -> Reply:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return Reply(text, finish, usage, {"choices": [choice], "usage": usage._asdict()})
