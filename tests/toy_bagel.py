"""Records, words and mixtures for the tests of BAGEL's training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from test_bagel_model import picture, small_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from visdyn.models.bagel import Dropout
from visdyn.params.doundo import BagelFineTuning, BagelTraining, ConditionDropout, GeneratorLora, Mixture
from visdyn.training.bagel.mixture import KINDS, BagelMixture, Caption, Question, collate
from visdyn.trajectory import ReversiblePair

KEPT = Dropout()
MIXTURES = [{kind: 1.0} for kind in KINDS]
MIXTURES += [{"edit": 1.0, "undo": 1.0}, {"undo": 1.0, "understanding": 1.0}, dict.fromkeys(KINDS, 1.0)]
WORDS = ["?", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "open", "close", "it", "what"]


def words() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")


def encode(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def pairs(n: int = 3) -> list[ReversiblePair]:
    images = [[np.asarray(picture(24, 16, 2 * i + k)) for k in (0, 1)] for i in range(n)]
    texts = ("open it it", "close it it", "open it", "close it")
    return [ReversiblePair(*both, *texts, "open it", "open", "it", f"p{i}") for i, both in enumerate(images)]


def save_annotations(path: Path, given: list[ReversiblePair]) -> None:
    """Write pairs as annotations of the benchmark's form, their images beside them."""
    names = ("forward_prompt", "reverse_prompt", "forward_short", "reverse_short", "narration", "verb", "noun")
    rows = []
    for pair in given:
        images = {end: path.parent / f"{pair.id}-{end}.png" for end in ("start", "end")}
        for end, file in images.items():
            Image.fromarray(getattr(pair, end)).save(file)
        overrides = {f"{end}_img": str(file) for end, file in images.items()}
        rows.append({"narration_id": pair.id, **{name: getattr(pair, name) for name in names}, **overrides})
    path.write_text(json.dumps(rows))


RECORDS = {
    "edit": pairs(),
    "undo": pairs(),
    "text_to_image": [Caption(picture(16, 16, 10 + i), "open it") for i in range(2)],
    "understanding": [Question(picture(30, 20, 20 + i), "what", "close it") for i in range(2)],
}


def mixture(weights: dict, length: int = 6, **options) -> BagelMixture:
    return BagelMixture(RECORDS, weights, encode, small_config(), length, **{"dropout": KEPT, **options})


def batch_of(data: BagelMixture, *indices: int):
    return collate([data[i] for i in indices or range(len(data))], data.config, data.dropout)["batch"]


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def fine_tuning(**changes) -> BagelFineTuning:
    """The configuration of a LoRA on all kinds of samples, with upstream's dropout; `training` has its own changes."""
    training = {"steps": 4, "batch_size": 2, "learning_rate": 1e-2, "weight_decay": 0.0, "warmup_steps": 0}
    training |= {"scheduler": "cosine", "precision": "fp32", **changes.pop("training", {})}
    lora = {"rank": 64, "alpha": 64, "dropout": 0.0, **changes.pop("lora", {})}
    options = {
        "adapter": "lora",
        "mixture": Mixture(1.0, 1.0, 1.0, 1.0),
        "long_share": 1.0,
        "dropout": ConditionDropout(text=0.1, vit=0.3, vae=0.3),
        "timestep_shift": 1.0,
        "average_decay": None,
        "latents": None,
        "mse_weight": 1.0,
        "ce_weight": 1.0,
        "consistency": None,
    }
    return BagelFineTuning(**{**options, **changes}, lora=GeneratorLora(**lora), training=BagelTraining(**training))
