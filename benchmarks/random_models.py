"""Random models for the benchmarks: a small one for a CPU core, or Chameleon-7B's shape for a GPU; and a clock."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from transformers import GemmaForCausalLM

from visdyn.models.token import liquid
from visdyn.models.token.chameleon import ChameleonLM, tiny_config
from visdyn.models.token.sequences import SequenceBuilder
from visdyn.models.token.tokens import IMAGE, TokenLayout, build_tokenizer
from visdyn.models.token.unified import UnifiedModel
from visdyn.models.vqgan import VQGAN, VQGANConfig

WORDS = ["edit", "infer", "open", "close", "the", "red", "blue", "drawer", "cup", "take", "put", "on"]


@dataclass(frozen=True)
class Size:
    """Shape of a decoder and its images."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int  # 0: as many as the tokenizer has
    codes: int
    side: int  # codes along a side of an image
    dtype: torch.dtype


SIZES = {
    "small": Size(256, 4, 4, 1024, 0, 512, 16, torch.float32),
    "7b": Size(4096, 32, 32, 11008, 65536, 8192, 32, torch.bfloat16),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every benchmark takes."""
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="7b is Chameleon-7B's shape, in bf16")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; 7b needs a GPU of 40 GB")


def random_model(size: Size, device: str, images: bool = False) -> UnifiedModel:
    """Build a model with random weights on a device.

    Args:
        images: with a VQGAN: the public one's shape at 16 pixels a code, a small one below 32 codes a side.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer(WORDS, size.codes)
    layout = TokenLayout.of(tokenizer)
    placeholder = tokenizer.convert_tokens_to_ids(IMAGE)
    shape = size.hidden, size.intermediate, size.layers, size.heads, 4 * size.side**2
    config = tiny_config(size.vocabulary or len(tokenizer), layout, placeholder, *shape)
    lm = built(lambda: ChameleonLM(config), size.dtype, device)
    vqgan = _vqgan(size).to(device).eval() if images else None
    return UnifiedModel(lm, SequenceBuilder(tokenizer, layout), vqgan, "random")


def random_liquid(size: Size, device: str) -> liquid.LiquidModel:
    """Build a Liquid with random weights on a device, without its VQGAN; 7b is Gemma-7B's shape and vocabulary."""
    torch.manual_seed(0)
    tokenizer = liquid.build_tokenizer(WORDS)
    layout = liquid.liquid_layout(tokenizer, size.codes)
    if size.vocabulary:
        layout = replace(layout, image_offset=256_000)
    config = liquid.tiny_config(layout, size.hidden, size.layers, size.heads)
    if size.vocabulary:
        config.update({"hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28})
        config.update({"num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256})
    config.max_position_embeddings = 4 * size.side**2
    lm = built(lambda: GemmaForCausalLM(config), size.dtype, device)
    return liquid.LiquidModel(lm, liquid.LiquidSequenceBuilder(tokenizer, layout), None, "random")


def built(build: Callable, dtype: torch.dtype, device: str):
    """Build a frozen model in a type, on a device."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return build().eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(default)


def _vqgan(size: Size) -> VQGAN:
    if size.side >= 32:
        return VQGAN(VQGANConfig(resolution=16 * size.side, n_embed=size.codes))
    small = {"ch": 32, "ch_mult": (1,), "num_res_blocks": 1, "z_channels": 32, "embed_dim": 32, "patch": 8}
    return VQGAN(VQGANConfig(**small, n_embed=size.codes, resolution=8 * size.side))


def now(device: str) -> float:
    """Return seconds of a clock: CPU time of this process, or the wall time once a GPU's work is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable, device: str) -> tuple[float, object]:
    """Return how long a call took, by `now`, and its result."""
    began = now(device)
    result = work()
    return now(device) - began, result


def peak(device: str) -> str:
    """Return the peak of a GPU's memory since the last call, in words; nothing on a CPU."""
    if device == "cpu":
        return ""
    used = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return f" ({used:.1f} GiB)"


def title(name: str, options: argparse.Namespace) -> str:
    """Say what was run where."""
    where = torch.cuda.get_device_name() if options.device != "cpu" else "CPU, one thread"
    return f"# {name}: size {options.size}, {where}, torch {torch.__version__}"
