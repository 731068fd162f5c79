"""Chat prompts with images for understanding models: written by the checkpoint's template, expanded, padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from visdyn.images import ImageRef, load
from visdyn.models.strict_load import load_tokenizer


@dataclass(frozen=True)
class Query:
    """One sequence to score, with a single placeholder for each image.

    Attributes:
        ids: int64 (T,) token ids.
        scored: bool (T,), the tokens whose log-probabilities count.
        images: the images, in the order of their placeholders.
    """

    ids: np.ndarray
    scored: np.ndarray
    images: tuple[ImageRef, ...]


@dataclass(frozen=True)
class ChatFormat:
    """A checkpoint's tokenizer and chat template, and how its language model marks an image.

    Attributes:
        template: Jinja chat template.
        placeholder: token id that stands for one image feature.
        marked: a token before and one after say where an image begins and ends (Qwen), or none does (LLaVA).
    """

    tokenizer: object
    template: str
    placeholder: int
    marked: bool

    @classmethod
    def from_pretrained(cls, folder: str | Path, config) -> ChatFormat:
        """Read the tokenizer and the processor's chat template (before the tokenizer's own, which may lack images).

        Args:
            config: the model's configuration, which names the special tokens.

        Raises:
            ValueError: there is no chat template.
        """
        from transformers.processing_utils import ProcessorMixin

        tokenizer = load_tokenizer(Path(folder))
        template = ProcessorMixin.get_processor_dict(str(folder), local_files_only=True)[0].get("chat_template")
        template = template or tokenizer.chat_template
        template = template.get("default") if isinstance(template, dict) else template
        if template is None:
            raise ValueError(f"{folder} has no chat template; put the family's chat_template.jinja beside it")
        marked = getattr(config, "vision_start_token_id", None) is not None
        return cls(tokenizer, template, config.image_token_id, marked)

    @property
    def pad(self) -> int:
        """Token id of padding, which the attention mask hides."""
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id

    @property
    def image(self) -> list[int]:
        """One placeholder with its markers, as the template writes them."""
        ids = self.prompt(1, "image")
        at = ids.index(self.placeholder)
        return ids[at - 1 : at + 2] if self.marked else [self.placeholder]

    def prompt(self, num_images: int, text: str) -> list[int]:
        """Return the ids of a user turn (images, then text) and of the opening of the model's turn.

        Raises:
            ValueError: the ids do not hold one placeholder for each image.
        """
        content = [*[{"type": "image"}] * num_images, {"type": "text", "text": text}]
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.template,
            add_generation_prompt=True,
            tokenize=False,
        )
        # Some templates write the bos themselves, others leave it to the tokenizer.
        written = self.tokenizer.bos_token is not None and rendered.startswith(self.tokenizer.bos_token)
        ids = self.tokenizer.encode(rendered, add_special_tokens=not written)
        if ids.count(self.placeholder) != num_images:
            raise ValueError(
                f"the prompt {rendered!r} holds {ids.count(self.placeholder)} image placeholders for {num_images} "
                "images; check the chat template, and the action for special tokens"
            )
        return ids

    def answer(self, text: str) -> list[int]:
        """Return the ids of an answer, tokenised on its own, without special tokens and without the end of the turn.

        Raises:
            ValueError: the text has no tokens, or holds an image placeholder.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if not ids or self.placeholder in ids:
            raise ValueError(f"the answer {text!r} cannot be scored: it is empty or holds an image placeholder")
        return ids


def make_query(prompt: Sequence[int], completion: Sequence[int], images: Sequence[ImageRef]) -> Query:
    """Join a prompt and a completion, all of whose tokens are scored."""
    ids = np.array([*prompt, *completion])
    return Query(ids, np.arange(len(ids)) >= len(prompt), tuple(images))


def expand_placeholders(query: Query, placeholder: int, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Repeat each image's placeholder as often as the image has features: ids int64 (T',), scored bool (T',)."""
    repeats = np.ones(len(query.ids), np.int64)  # (T,), T' = their sum
    repeats[query.ids == placeholder] = counts
    scored = np.repeat(query.scored, repeats)
    scored[0] = False  # nothing predicts the first token
    return np.repeat(query.ids, repeats), scored


def collate(rows: Sequence[tuple[np.ndarray, np.ndarray]], pad: int, padding_side: str) -> dict[str, torch.Tensor]:
    """Pad rows (ids, scored) to one length.

    Returns:
        input_ids, attention_mask: int64 (B, T); scored: bool (B, T).
    """
    longest = max(len(ids) for ids, _ in rows)
    batch = {name: np.zeros((len(rows), longest), np.int64) for name in ("input_ids", "attention_mask", "scored")}
    batch["input_ids"] += pad
    for row, (ids, scored) in enumerate(rows):
        place = slice(0, len(ids)) if padding_side == "right" else slice(longest - len(ids), longest)
        batch["input_ids"][row, place], batch["attention_mask"][row, place] = ids, 1
        batch["scored"][row, place] = scored
    tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
    return {**tensors, "scored": tensors["scored"].bool()}


def load_picture(ref: ImageRef, side: int | None = None) -> Image.Image:
    """Load an image, stretched to side x side where `side` is given, so that every image has as many tokens."""
    image = load(ref)
    return image if side is None else image.resize((side, side), Image.Resampling.BICUBIC)


def image_key(ref: ImageRef) -> str | int:
    """Return what names an image within one call: its path, or the identity of the object."""
    return str(ref) if isinstance(ref, str | Path) else id(ref)
