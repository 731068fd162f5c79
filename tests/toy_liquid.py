"""A tiny random Liquid on disk."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = (
    "editing the given image according to the following prompt : infer the action between the two consecutive images ."
)
NUM_CODES = 16


def save_tiny_liquid(folder: Path, extra_words: list[str]) -> Path:
    """Save a Liquid of 2 layers of width 32 with 16 codes, 16 x 16 pixels to 4 x 4 codes."""
    from transformers import GemmaForCausalLM

    from visdyn.models.liquid import LiquidModel, LiquidSequenceBuilder, build_tokenizer, liquid_layout, tiny_config
    from visdyn.models.vqgan import VQGAN, VQGANConfig

    torch.manual_seed(0)
    shape = {"ch": 8, "ch_mult": (1,), "num_res_blocks": 1, "z_channels": 4, "embed_dim": 4, "norm_groups": 4}
    vqgan = VQGAN(VQGANConfig(**shape, n_embed=NUM_CODES, resolution=16, patch=4)).eval()
    features = vqgan.features(torch.rand(4, 3, 16, 16) * 2 - 1).permute(0, 2, 3, 1).reshape(-1, 4)
    vqgan.quantize.embedding.weight.data = features[torch.randperm(len(features))[:NUM_CODES]].clone()
    tokenizer = build_tokenizer([*WORDS.split(), *extra_words])
    layout = liquid_layout(tokenizer, NUM_CODES)
    lm = GemmaForCausalLM(tiny_config(layout, 32, num_layers=2, num_heads=2)).eval()
    LiquidModel(lm, LiquidSequenceBuilder(tokenizer, layout), vqgan).save(folder)
    return folder
