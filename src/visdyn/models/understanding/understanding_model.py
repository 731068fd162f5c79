"""Vision-language models that read images and write text only, as the paper's probes use them.

Inverse dynamics is well defined: the log-probability of an action's tokens after two images. The likelihood of a next
observation is not, because these models have no image vocabulary; the paper does not say what it scored. Every
definition here carries a label, which belongs beside each number:

- `D2`: mean log-probability over the whole interleaved sequence (source, action, target) as the model reads it, an
  image being its placeholder tokens: what labels equal to the input give. Those positions were never trained.
- `D2-target`: the same, of the target's placeholders alone.
- `D3`: log p(Yes) - log p(No) to the question whether the target is the action's result; not a likelihood.

`D1`, the likelihood of image codes, needs an image vocabulary: Chameleon and Liquid (`visdyn.models.token.unified`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from visdyn.images import ImageRef
from visdyn.models.checkpoints import locate
from visdyn.models.token.scoring import Scores
from visdyn.models.understanding.families import Family, family_of, load_image_processor, model_class
from visdyn.models.understanding.inputs import (
    ChatFormat,
    Query,
    collate,
    expand_placeholders,
    image_key,
    load_picture,
    make_query,
)
from visdyn.params.prompts import SENTENCES, Prompts, UnderstandingPrompts

DEFINITIONS = ("D2", "D2-target", "D3")
_ROWS_AT_ONCE = 512  # fp32 logits of 512 positions over 152,064 tokens take 297 MiB


@dataclass
class UnderstandingModel:
    """A language model with its vision tower, tokenizer, chat template and preprocessing.

    Attributes:
        lm: the transformers class of the family.
        padding_side: `right` or `left`; makes no difference to a score.
        batch_size: sequences in one forward.
        prompts: the words of its questions.
    """

    lm: torch.nn.Module
    chat: ChatFormat
    image_processor: object
    family: Family
    name: str = ""
    padding_side: str = "right"
    batch_size: int = 8
    prompts: UnderstandingPrompts = SENTENCES.understanding

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        device: str = "cpu",
        dtype: str = "auto",
        attention: str = "sdpa",
        batch_size: int = 8,
        prompts: Prompts | None = None,
    ) -> UnderstandingModel:
        """Load a folder or hub id, or the base of a peft adapter with the adapter merged.

        Args:
            dtype: `auto` is the checkpoint's own.
            prompts: of which it takes its family's; None takes the sentences of `visdyn.params.prompts`.

        Raises:
            FileNotFoundError: there is no such model.
            ValueError: the family is unknown, or there is no chat template.
        """
        checkpoint = locate(name_or_path)
        family = family_of(checkpoint.base)
        lm = checkpoint.load_lm(model_class(family), dtype, attention, device)
        chat = ChatFormat.from_pretrained(checkpoint.base, lm.config)
        processor, words = load_image_processor(checkpoint.base), (prompts or SENTENCES).understanding
        return cls(lm, chat, processor, family, checkpoint.name, batch_size=batch_size, prompts=words)

    @property
    def inverse_dynamics(self) -> UnderstandingInverseDynamics:
        return UnderstandingInverseDynamics(self)

    @property
    def forward_dynamics(self) -> UnderstandingForwardLikelihood:
        return UnderstandingForwardLikelihood(self)

    @torch.inference_mode()
    def score(self, queries: Sequence[Query], side: int | None = None) -> Scores:
        """Score queries; images of one batch are encoded once each, stretched to side x side where `side` is given."""
        totals, counts = [], []
        for start in range(0, len(queries), self.batch_size):
            inputs, scored = self.inputs(queries[start : start + self.batch_size], side)
            hidden = self.lm.model(**inputs, use_cache=False).last_hidden_state  # (B, T, D)
            predicted = scored[:, 1:]  # (B, T - 1): the state at t predicts the token at t + 1
            targets = inputs["input_ids"][:, 1:][predicted]
            # The head runs on the M scored positions of the whole batch only: hidden (M, D), targets (M,).
            values = log_probabilities(self.lm.lm_head, hidden[:, :-1][predicted], targets)
            lengths = predicted.sum(1)
            totals += [part.sum().cpu() for part in values.split(lengths.tolist())]
            counts.append(lengths.cpu())
        total, num_tokens = torch.stack(totals), torch.cat(counts)
        return Scores(total / num_tokens, total, num_tokens)

    def inputs(self, queries: Sequence[Query], side: int | None = None, padding_side: str | None = None):
        """Return the arguments of the language model's forward, and which tokens are scored (bool (B, T))."""
        keys = [image_key(ref) for query in queries for ref in query.images]
        features, grids, deeper = self.encode({image_key(ref): ref for query in queries for ref in query.images}, side)
        rows, counts = [], iter([len(features[key]) for key in keys])
        for query in queries:
            rows.append(expand_placeholders(query, self.chat.placeholder, [next(counts) for _ in query.images]))
        batch = collate(rows, self.chat.pad, padding_side or self.padding_side)
        batch = {name: value.to(self.lm.device) for name, value in batch.items()}
        scored = batch.pop("scored")
        batch["mm_encoder_outputs"] = {"image": _order_image_features(keys, features, deeper)}
        if grids:
            batch["image_grid_thw"] = torch.stack([grids[key] for key in keys])
        if self.family.token_types:
            batch["mm_token_type_ids"] = (batch["input_ids"] == self.chat.placeholder).int()
        return batch, scored

    def encode(self, images: dict, side: int | None = None) -> tuple[dict, dict, list[dict]]:
        """Run the vision tower over images: features (tokens, d) by key, and Qwen's patch grids (3,) by key.

        Qwen3-VL also gives features of deeper layers, which go into the first layers of the language model: a dict
        like the features for each.
        """
        pictures = [load_picture(ref, side) for ref in images.values()]
        processed = self.image_processor(images=pictures, return_tensors="pt").to(self.lm.device)
        output = self.lm.get_image_features(**processed, return_dict=True)
        layers = getattr(output, "deepstack_features", None) or []
        deeper = [dict(zip(images, layer, strict=True)) for layer in layers]
        grids = dict(zip(images, processed["image_grid_thw"], strict=True)) if "image_grid_thw" in processed else {}
        return dict(zip(images, output.pooler_output, strict=True)), grids, deeper


@dataclass
class UnderstandingInverseDynamics:
    """The inverse-dynamics role; implements `InverseDynamics`.

    Attributes:
        side: images are stretched to side x side; None leaves the size to the checkpoint's preprocessing.
        max_new_tokens: longest predicted action.
    """

    model: UnderstandingModel
    side: int | None = None
    max_new_tokens: int = 64

    def score(self, sources: Sequence[ImageRef], targets: Sequence[ImageRef], actions: Sequence[str]) -> Scores:
        """Score the action's tokens, the end of the turn left out."""
        prompt, chat = self.model.chat.prompt(2, self.model.prompts.idm), self.model.chat
        queries = [
            make_query(prompt, chat.answer(action), (source, target))
            for source, target, action in zip(sources, targets, actions, strict=True)
        ]
        return self.model.score(queries, self.side)

    def log_likelihood(self, sources, targets, actions) -> torch.Tensor:
        """Return float32 (N,): mean log-probability per action token, in nats."""
        return self.score(sources, targets, actions).mean

    @torch.inference_mode()
    def predict(self, sources: Sequence[ImageRef], targets: Sequence[ImageRef]) -> list[str]:
        """Return one greedily decoded action for each pair."""
        prompt, model, texts = self.model.chat.prompt(2, self.model.prompts.idm), self.model, []
        queries = [make_query(prompt, (), pair) for pair in zip(sources, targets, strict=True)]
        for start in range(0, len(queries), model.batch_size):
            inputs, _ = model.inputs(queries[start : start + model.batch_size], self.side, padding_side="left")
            # Qwen's generation config asks for a repetition penalty, which would not be greedy decoding.
            tokens = model.lm.generate(
                **inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=self.max_new_tokens
            )
            answers = tokens[:, inputs["input_ids"].shape[1] :]
            texts += model.chat.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [text.strip() for text in texts]


@dataclass
class UnderstandingForwardLikelihood:
    """A labelled stand-in for the likelihood of the next observation; it cannot sample images.

    Attributes:
        definition: one of `DEFINITIONS`; write it beside every number.
        side: images are stretched to side x side, because the number of placeholders depends on the size and scores
            are compared over identical spans.

    Raises:
        ValueError: another definition.
    """

    model: UnderstandingModel
    definition: str = "D2"
    side: int | None = 448

    def __post_init__(self) -> None:
        if self.definition not in DEFINITIONS:
            why = " (D1 needs an image vocabulary)" if self.definition == "D1" else ""
            raise ValueError(f"unknown definition {self.definition!r}{why}; one of {', '.join(DEFINITIONS)}")

    def score(self, sources: Sequence[ImageRef], actions: Sequence[str], targets: Sequence[ImageRef]) -> Scores:
        """Score the next observation by the definition."""
        rows = list(zip(sources, actions, targets, strict=True))
        if self.definition == "D3":
            return self._score_yes_no(rows)
        return self.model.score([self._make_interleaved_query(*row) for row in rows], self.side)

    def log_likelihood(self, sources, actions, targets) -> torch.Tensor:
        """Return float32 (N,): mean nats per scored token (D2, D2-target), or a log-odds in nats (D3)."""
        return self.score(sources, actions, targets).mean

    def _make_interleaved_query(self, source: ImageRef, action: str, target: ImageRef) -> Query:
        chat = self.model.chat
        prompt = chat.prompt(1, self.model.prompts.fdm.format(action=action))
        ids = np.array([*prompt, *chat.image])
        scored = np.ones(len(ids), bool)
        if self.definition == "D2-target":
            scored = (ids == chat.placeholder) & (np.arange(len(ids)) >= len(prompt))
        return Query(ids, scored, (source, target))

    def _score_yes_no(self, rows: Sequence[tuple]) -> Scores:
        chat, queries = self.model.chat, []
        yes, no = (chat.answer(word)[:1] for word in ("Yes", "No"))
        if yes == no:
            raise ValueError(f"the tokenizer of {self.model.name} begins Yes and No with one token; D3 needs two")
        for source, action, target in rows:
            prompt = chat.prompt(2, self.model.prompts.yes_no.format(action=action))
            queries += [make_query(prompt, word, (source, target)) for word in (yes, no)]
        total = self.model.score(queries, self.side).total.view(-1, 2)
        odds = total[:, 0] - total[:, 1]  # (N,), log p(Yes) - log p(No)
        return Scores(odds, odds, torch.ones(len(rows), dtype=torch.int64))


def log_probabilities(head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return float32 (M,) log-probabilities of targets int64 (M,) after hidden states (M, d), a chunk at a time."""
    chunks = zip(hidden.split(_ROWS_AT_ONCE), targets.split(_ROWS_AT_ONCE), strict=True)
    return torch.cat([-F.cross_entropy(head(part).float(), token, reduction="none") for part, token in chunks])


def _order_image_features(keys: Sequence, features: dict, deeper: list[dict]):
    """Return the vision tower's output for images in the order of `keys`, as the language model takes it."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    output = BaseModelOutputWithPooling(pooler_output=[features[key] for key in keys])
    if deeper:
        output.deepstack_features = [[layer[key] for key in keys] for layer in deeper]
    return output
