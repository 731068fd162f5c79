"""Random models for the benchmarks: a small one for a CPU core, or Chameleon-7B's shape for a GPU; and a clock."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from visdyn.models.chameleon import ChameleonLM, tiny_config
from visdyn.models.sequences import SequenceBuilder
from visdyn.models.tokens import IMAGE, TokenLayout, build_tokenizer
from visdyn.models.unified import UnifiedModel
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
    default = torch.get_default_dtype()
    torch.set_default_dtype(size.dtype)
    try:
        with torch.device(device):
            lm = ChameleonLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(default)
    vqgan = _vqgan(size).to(device).eval() if images else None
    return UnifiedModel(lm, SequenceBuilder(tokenizer, layout), vqgan, "random")


def _vqgan(size: Size) -> VQGAN:
    if size.side >= 32:
        return VQGAN(VQGANConfig(resolution=16 * size.side, n_embed=size.codes))
    small = {"ch": 32, "ch_mult": (1,), "num_res_blocks": 1, "z_channels": 32, "embed_dim": 32, "patch": 8}
    return VQGAN(VQGANConfig(**small, n_embed=size.codes, resolution=8 * size.side))


def seconds(work: Callable, device: str) -> tuple[float, object]:
    """Return how long a call took, and its result: CPU seconds of this process, or the wall time of a GPU's work."""
    if device == "cpu":
        began = time.process_time()
        result = work()
        return time.process_time() - began, result
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return time.perf_counter() - began, result


def title(name: str, options: argparse.Namespace) -> str:
    """Say what was run where."""
    where = torch.cuda.get_device_name() if options.device != "cpu" else "CPU, one thread"
    return f"# {name}: size {options.size}, {where}, torch {torch.__version__}"
