"""Greedy text generation after images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visdyn.images import load
from visdyn.models.bagel import context as contexts
from visdyn.models.bagel.context import Context
from visdyn.models.bagel.decoder import Streams
from visdyn.models.bagel.transforms import resize, transform

if TYPE_CHECKING:
    from visdyn.models.bagel.model import Bagel


@dataclass(frozen=True)
class Generation:
    """A greedy answer.

    Attributes:
        ids: generated token ids, without begin and end markers.
        stopped: whether the end marker was produced before `max_length`.
        logits: float32 (steps, vocabulary).
        text: the decoded ids, or None when the model has no tokenizer.
    """

    ids: list[int]
    stopped: bool
    logits: Tensor
    text: str | None = None


@torch.no_grad()
def generate_text(model: Bagel, inputs: Sequence, *, max_length: int = 512) -> Generation:
    """Answer greedily. Images are read by the ViT only.

    Args:
        inputs: as in `sampler.read_inputs`, e.g. [image, question].
        max_length: most decoder steps; the begin marker is read at the first, so there are at most
            max_length - 1 generated ids.
    """
    context = contexts.new_context(model)
    for item in inputs:
        context = _read_input(model, context, item)
    return continue_text(model, context, max_length)


@torch.no_grad()
def continue_text(model: Bagel, context: Context, max_length: int = 512) -> Generation:
    """Answer greedily what a context of one sample holds; arguments as in `generate_text`."""
    special = model.config.special_tokens
    tokens, logits, stopped = [special.bos_token_id], [], False
    while len(logits) < max_length and not stopped:
        context, row = next_logits(model, context, tokens[-1])
        logits.append(row)
        tokens.append(int(row.argmax()))
        stopped = tokens[-1] == special.eos_token_id
    # Neither the end marker nor the token of the last step, which was never read, belongs to the answer (as upstream).
    ids = tokens[1:-1]
    decoded = None if model.tokenizer is None else model.tokenizer.decode(ids)
    return Generation(ids, stopped, torch.stack(logits) if logits else torch.zeros(0), decoded)


def _read_input(model: Bagel, context: Context, item) -> Context:
    if contexts.is_text(item):
        return contexts.add_text(model, context, model.encode_text(item))
    image = resize(load(item), model.config.transforms["vae"])
    return contexts.add_vit_image(model, context, transform(image, model.config.transforms["vit"]).unsqueeze(0))


def next_logits(model: Bagel, context: Context, token: int) -> tuple[Context, Tensor]:
    """Read one token and return the new context and the next token's logits, float32 (vocabulary,)."""
    und = model.language_model.model.embed_tokens(torch.tensor([[token]], device=model.device))
    streams = Streams(und, und[:, :0])
    # One token, causal or not, sees the whole context and itself.
    streams, new = contexts.run_block(model, context, streams, context.position.unsqueeze(1))
    context = contexts.append(context, new, context.position + 1)
    return context, model.language_model.lm_head(streams.und[0, -1]).float()
