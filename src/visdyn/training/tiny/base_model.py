"""Recipe for the tiny unified base model: captioning, text-to-image and unlabelled video, from scratch."""

from __future__ import annotations

import numpy as np
import torch

from visdyn.models.token.chameleon import ChameleonLM, tiny_config
from visdyn.models.token.sequences import SequenceBuilder, TokenSequence
from visdyn.models.token.tokens import IMAGE, TokenLayout, build_tokenizer
from visdyn.models.token.unified import UnifiedModel
from visdyn.models.vqgan import VQGAN
from visdyn.readers import read_records
from visdyn.training.dynamics import fit_and_save
from visdyn.training.engine.fit import Recipe
from visdyn.training.triplets import SequenceDataset

# One word for a task: a sentence would be ten words that no caption has.
FDM_PROMPT, IDM_PROMPT = "edit {action}", "infer"
TEXT_TO_IMAGE_WEIGHT = 0.5  # a caption says little of an image; at full weight its 64 tokens drown the captions' dozen


def train_base(
    *,
    images: str,
    captions: str,
    pairs: str,
    vqgan: str,
    output: str,
    architecture: dict,
    recipe: dict,
    scratch: str,
    extra_words: list[str] | None = None,
    hardware: dict | None = None,
) -> None:
    """Train a Chameleon-style base model from scratch and save it to `output`.

    The mixture, in equal parts: image to caption; caption to image; an unlabelled frame to a later frame; two frames
    to the caption of the second. It never sees an action between two frames, so zero-shot rows are honest.

    Args:
        images: .npy, uint8 (N, H, W, 3) single frames.
        captions: JSON lines with `caption`, one for each image.
        pairs: .npy, uint8 (M, 2, H, W, 3) frames of one scene before and after something happened, unlabelled.
        vqgan: folder of the trained image tokenizer.
        architecture: arguments of `tiny_config` (hidden_size, num_layers, ...).
        extra_words: words that captions lack but actions need.
    """
    tokenizer_model = VQGAN.from_checkpoint(vqgan)
    texts = [row["caption"] for row in read_records(captions)]
    words = {word for text in [*texts, FDM_PROMPT.format(action=""), IDM_PROMPT] for word in text.split()}
    tokenizer = build_tokenizer(words | set(extra_words or ()), tokenizer_model.config.n_embed)
    layout = TokenLayout.of(tokenizer)
    config = tiny_config(len(tokenizer), layout, tokenizer.convert_tokens_to_ids(IMAGE), **architecture)
    torch.manual_seed(Recipe.of(recipe).seed)
    lm = ChameleonLM._from_config(config, attn_implementation="sdpa")
    model = UnifiedModel(lm, SequenceBuilder(tokenizer, layout, FDM_PROMPT, IDM_PROMPT), tokenizer_model)
    frames, flat = np.load(images), np.load(pairs)
    if len(texts) != len(frames):
        raise ValueError(f"{captions} holds {len(texts)} captions for the {len(frames)} images of {images}")
    codes = model.encode(list(frames))
    # (M, 2, h, w)
    pair_codes = model.encode(list(flat.reshape(-1, *flat.shape[2:]))).reshape(len(flat), 2, *codes.shape[1:])
    sequences = base_mixture(model.builder, codes, texts, pair_codes, Recipe.of(recipe).seed)
    fit_and_save(model, SequenceDataset(sequences, grouped=True), Recipe.of(recipe), output, scratch, hardware)


def base_mixture(
    builder: SequenceBuilder, codes: np.ndarray, captions: list[str], pairs: np.ndarray, seed: int
) -> list[TokenSequence]:
    """Return the four kinds of sequences in equal numbers, captions paired with codes (N, h, w), pairs (M, 2, h, w)."""
    layout, random = builder.layout, np.random.default_rng(seed)
    text = [builder.text(caption) for caption in captions]
    image = [builder.image(item) for item in codes]
    half = np.full(pairs[0, 0].size, TEXT_TO_IMAGE_WEIGHT)
    sequences = []
    for row in range(len(codes)):
        # One pair and one earlier frame a row, drawn in this order: the mixture depends on the seed alone.
        first, second = (builder.image(item) for item in pairs[random.integers(len(pairs))])
        earlier = builder.image(codes[random.integers(len(codes))])
        # Image to caption.
        prompt = [layout.bos, *image[row], layout.end_of_turn]
        sequences.append(builder.make_sequence(prompt, [*text[row], layout.eos]))
        # Caption to image: begin-of-image weighs 1, the codes `half`, end-of-image and eos 1.
        prompt = [layout.bos, *text[row], layout.end_of_turn]
        sequences.append(builder.make_sequence(prompt, [*image[row], layout.eos], (1, half, 2)))
        # Frame to a later frame, without an action.
        prompt = [layout.bos, *first, layout.end_of_turn]
        sequences.append(builder.make_sequence(prompt, [*second, layout.eos]))
        # Two frames to the caption of the second: the layout of the IDM's prompt, without its action.
        prompt = [layout.bos, *earlier, *image[row], layout.end_of_turn]
        sequences.append(builder.make_sequence(prompt, [*text[row], layout.eos]))
    return sequences
