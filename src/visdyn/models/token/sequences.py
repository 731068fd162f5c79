"""Token sequences of the dynamics tasks: a prompt, and the completion that is trained on or scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from visdyn.models.token.tokens import TokenLayout
from visdyn.params.prompts import DynamicsPrompts


@dataclass(frozen=True)
class TokenSequence:
    """One sequence: token ids of the prompt and of the completion, with a loss weight per completion token."""

    prompt: np.ndarray
    completion: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class SequenceBuilder:
    """Writes the sequences of a Chameleon-style model.

    The text stands before the images, so that the distance between a source token and the target token at the
    same place is constant. An answer follows the end-of-turn token, as in the public model's dialogue format.

    Attributes:
        fdm_prompt: text before the source image; `{action}` is replaced.
        idm_prompt: text before the two images.
    """

    tokenizer: PreTrainedTokenizerBase
    layout: TokenLayout
    fdm_prompt: str = DynamicsPrompts.fdm
    idm_prompt: str = DynamicsPrompts.idm

    def text(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def image(self, codes: np.ndarray) -> list[int]:
        """Return begin-of-image, the codes (h * w,) as vocabulary ids, end-of-image."""
        layout = self.layout
        ids = (np.asarray(codes).reshape(-1) + layout.image_offset).tolist()
        return [layout.begin_of_image, *ids, layout.end_of_image]

    def forward_prompt(self, source: np.ndarray, action: str) -> list[int]:
        """bos, text with the action, source image, end of turn."""
        text = self.text(self.fdm_prompt.format(action=action))
        return [self.layout.bos, *text, *self.image(source), self.layout.end_of_turn]

    def inverse_prompt(self, source: np.ndarray, target: np.ndarray) -> list[int]:
        """bos, text, source image, target image, end of turn."""
        return self.question_prompt([source, target], self.idm_prompt)

    def question_prompt(self, images: Sequence[np.ndarray], question: str) -> list[int]:
        """bos, text, the images' codes, end of turn: a question outside the dynamics tasks."""
        shown = [token for codes in images for token in self.image(codes)]
        return [self.layout.bos, *self.text(question), *shown, self.layout.end_of_turn]

    def forward(
        self, source: np.ndarray, action: str, target: np.ndarray, weights: np.ndarray | None = None
    ) -> TokenSequence:
        """The FDM's sequence; the answer is begin-of-image, the codes, end-of-image, eos.

        Args:
            weights: loss weights (h * w,) of the target's codes; the other tokens of the answer weigh 1.
        """
        prompt = self.forward_prompt(source, action)
        return self.make_sequence(
            prompt, [*self.image(target), self.layout.eos], None if weights is None else (1, weights, 2)
        )

    def inverse(self, source: np.ndarray, target: np.ndarray, action: str) -> TokenSequence:
        """The IDM's sequence; the answer is the action, eos."""
        return self.make_sequence(self.inverse_prompt(source, target), [*self.text(action), self.layout.eos])

    def make_sequence(
        self, prompt: Sequence[int], completion: Sequence[int], weights: tuple | None = None
    ) -> TokenSequence:
        """Join a prompt and a completion; `weights` = (ones before, weights, ones after), or None for all ones."""
        values = np.ones(len(completion), np.float32)
        if weights is not None:
            before, inner, after = weights  # inner: (h * w,)
            values = np.concatenate([np.ones(before), np.asarray(inner).reshape(-1), np.ones(after)]).astype(np.float32)
        return TokenSequence(np.asarray(prompt), np.asarray(completion), values)


def collate(sequences: Sequence[TokenSequence], pad: int) -> dict[str, torch.Tensor]:
    """Right-pad sequences to one length.

    Under causal attention no token sees what comes after it, so no padding reaches a real token's state and no mask is
    needed: attention takes its causal path, which has the fast kernels.

    Returns:
        input_ids: int64 (B, T); targets: int64 (B, K), -100 where a completion is shorter than K; places: int64
        (B, K), the position whose state predicts each target, 0 where there is none; weights: float32 (B, K), 0 there.
    """
    width = max(len(item.completion) for item in sequences)  # K
    places = np.zeros((len(sequences), width), np.int64)
    targets = np.full_like(places, -100)
    weights = np.zeros(places.shape, np.float32)
    for row, item in enumerate(sequences):
        size = len(item.completion)
        places[row, :size] = np.arange(size) + len(item.prompt) - 1
        targets[row, :size], weights[row, :size] = item.completion, item.weights
    tensors = {"input_ids": pad_right(sequences, pad), "places": places, "targets": targets, "weights": weights}
    return {name: torch.from_numpy(values) for name, values in tensors.items()}


def pad_right(sequences: Sequence[TokenSequence], pad: int) -> np.ndarray:
    """Return int64 (B, T): every prompt with its completion, then padding.

    Raises:
        ValueError: an empty prompt.
    """
    if not all(len(item.prompt) for item in sequences):
        raise ValueError("a sequence has an empty prompt, so that nothing predicts the first token of its completion")
    rows = [np.concatenate([item.prompt, item.completion]) for item in sequences]
    ids = np.full((len(rows), max(map(len, rows))), pad, np.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
    return ids
