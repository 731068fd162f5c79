"""How each family of models is asked a multiple-choice question: in words, and by the likelihood of the options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from visdyn.evaluation.benches.bench_spatial import QuestionAnswering
from visdyn.images import ImageRef
from visdyn.models.token.decoding import generate_text
from visdyn.models.token.scoring import Scores, score_completions
from visdyn.models.token.unified import UnifiedModel
from visdyn.models.understanding.inputs import make_query
from visdyn.models.understanding.understanding_model import UnderstandingModel


def answers_of(model: object, max_new_tokens: int = 32) -> QuestionAnswering:
    """Return what asks questions of a model that `load_model` gave.

    Raises:
        TypeError: a model of another kind.
    """
    if isinstance(model, UnifiedModel):
        return UnifiedAnswers(model, max_new_tokens)
    if isinstance(model, UnderstandingModel):
        return UnderstandingAnswers(model, max_new_tokens)
    raise TypeError(f"a {type(model).__name__} cannot be asked questions; give a unified or an understanding model")


@dataclass(frozen=True)
class UnifiedAnswers:
    """A unified token model in both modes; its sequence builder writes the question (`question_prompt`).

    Chameleon and Anole crop images to their centre square, so what is asked about at the left and right edges may be
    out of sight; Liquid pads them to a square, and nothing is.
    """

    model: UnifiedModel
    max_new_tokens: int = 32

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    def answer_many(self, questions: Sequence[tuple[Sequence[ImageRef], str]]) -> list[str]:
        """See `AnswersInWords`."""
        prompts = [self.ids(images, prompt) for images, prompt in questions]
        answers = generate_text(self.model.lm, self.model.layout, prompts, self.max_new_tokens)[0]
        return [self.model.builder.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]

    def score_options(self, image: ImageRef, prompt: str, options: Sequence[str]) -> Scores:
        """See `ScoresOptions`; the end-of-sequence token is not scored."""
        builder, layout, ids = self.model.builder, self.model.layout, self.ids([image], prompt)
        sequences = [builder.make_sequence(ids, [*builder.text(option), layout.eos]) for option in options]
        return score_completions(self.model.lm, sequences, slice(0, -1), layout.pad)

    def ids(self, images: Sequence[ImageRef], prompt: str) -> list[int]:
        """Return the token ids of the prompt, up to where the answer begins."""
        return self.model.builder.question_prompt(self.model.encode(list(images)), prompt)


@dataclass(frozen=True)
class UnderstandingAnswers:
    """A VLM of the understanding families, by its own chat template and preprocessing."""

    model: UnderstandingModel
    max_new_tokens: int = 32

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    @torch.inference_mode()
    def answer_many(self, questions: Sequence[tuple[Sequence[ImageRef], str]]) -> list[str]:
        """See `AnswersInWords`."""
        return [self._answer(images, prompt) for images, prompt in questions]

    def _answer(self, images: Sequence[ImageRef], prompt: str) -> str:
        model = self.model
        query = make_query(model.chat.prompt(len(images), prompt), (), tuple(images))
        inputs, _ = model.inputs([query], padding_side="left")
        # Qwen's generation config asks for a repetition penalty, which would not be greedy decoding.
        tokens = model.lm.generate(
            **inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=self.max_new_tokens
        )
        text = model.chat.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text.strip()

    def score_options(self, image: ImageRef, prompt: str, options: Sequence[str]) -> Scores:
        """See `ScoresOptions`; the end of the turn is not scored."""
        chat = self.model.chat
        ids = chat.prompt(1, prompt)
        return self.model.score([make_query(ids, chat.answer(option), (image,)) for option in options])
