"""A training step that reads cached codes against one that encodes its images, at 256 and 512 pixels.

`python benchmarks/cached_codes.py`: about two minutes on a CPU. The tokenizer has the public VQGAN's depth and
downsampling (16) at a quarter of its width; the decoder is a Chameleon of 4 layers of width 256, FDM with recognition
weights, one triplet a step. What a real model gains depends on both; the tokenizer of the papers has 16 times the
arithmetic of this one for an image, a 7B decoder several hundred times that of ours.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from visdyn.models.token.chameleon import ChameleonLM, tiny_config
from visdyn.models.token.sequences import SequenceBuilder, collate
from visdyn.models.token.tokens import IMAGE, TokenLayout, build_tokenizer
from visdyn.models.token.unified import UnifiedModel
from visdyn.models.vqgan import VQGAN, VQGANConfig
from visdyn.models.vqgan.cached_pairs import CachedTriplets, write_triplets
from visdyn.models.vqgan.code_cache import CodeCache, ModelEncoder
from visdyn.quarantine import Quarantine
from visdyn.training.dynamics import CompletionLoss
from visdyn.training.losses import recognition_weights
from visdyn.training.triplets import LazySequences
from visdyn.trajectory import Trajectory

STEPS = 4


def build(size: int) -> UnifiedModel:
    """Return a random model whose images have `size` pixels."""
    torch.manual_seed(0)
    vqgan = VQGAN(VQGANConfig(ch=32, embed_dim=64, z_channels=64, n_embed=8192, resolution=size)).eval()
    tokenizer = build_tokenizer(["edit", "open", "the", "drawer"], 8192)
    layout = TokenLayout.of(tokenizer)
    placeholder = tokenizer.convert_tokens_to_ids(IMAGE)
    config = tiny_config(len(tokenizer), layout, placeholder, 256, 688, 4, 4, max_positions=4096)
    return UnifiedModel(ChameleonLM(config), SequenceBuilder(tokenizer, layout), vqgan, "bench")


def images(folder: Path, size: int) -> list[Trajectory]:
    """Write photographs' sizes, a quarter wider than high."""
    draw, items = np.random.default_rng(0), []
    for row in range(STEPS):
        for end in "st":
            small = draw.integers(0, 256, (12, 15, 3), dtype=np.uint8)
            Image.fromarray(small).resize((size * 5 // 4, size)).save(folder / f"{row}{end}.jpg", quality=90)
        items.append(Trajectory(folder / f"{row}s.jpg", "open the drawer", folder / f"{row}t.jpg", "ag", str(row)))
    return items


def encoded(model: UnifiedModel, item: Trajectory):
    """Return a sequence from the images themselves."""
    features = [model.vqgan.features(model.pixels([ref])) for ref in (item.source, item.target)]
    source, target = (model.vqgan.quantize(value)[0].numpy() for value in features)
    weights = recognition_weights(*features)[0].numpy()
    return model.builder.forward(source, item.action, target, weights)


def seconds(model: UnifiedModel, sequences) -> tuple[float, list[float]]:
    """Return CPU seconds a training step, and the losses."""
    loss = CompletionLoss(model.lm.train())
    losses, began = [], time.process_time()
    for sequence in sequences:
        value = loss(**collate([sequence], model.layout.pad))["loss"]
        value.backward()
        model.lm.zero_grad()
        losses.append(value.item())
    return (time.process_time() - began) / STEPS, losses


def compare(size: int) -> None:
    """Print one line."""
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), build(size)
        items = images(folder, size)
        began = time.process_time()
        encoder = ModelEncoder(model, partial(recognition_weights, normalization="none"))
        write_triplets(folder / "triplets", CodeCache(folder / "codes", encoder, "stat"), items, Quarantine())
        once = (time.process_time() - began) / STEPS
        cached = LazySequences(CachedTriplets(folder / "triplets"), model.builder, "fdm", "recognition", 0.0)
        seconds(model, [cached[0]] * STEPS)
        slow, expected = seconds(model, (encoded(model, item) for item in items))
        fast, losses = seconds(model, (cached[row] for row in range(STEPS)))
        reading = time.process_time()
        for _ in range(250):
            [cached[row] for row in range(STEPS)]
        reading = (time.process_time() - reading) / 250 / STEPS
    codes = (size // 16) ** 2
    print(
        f"{size} px ({codes} codes an image)   s a step {slow:.2f} encoding -> {fast:.2f} cached "
        f"({slow / fast:.2f} times faster)   once {once:.2f} s a pair, then {1e3 * reading:.2f} ms   "
        f"losses differ by {max(abs(np.subtract(losses, expected))):.0e}",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for side in (256, 512):
        compare(side)
