"""A LoRA training step at the papers' sequence length: tokens/s, memory and model FLOPs utilisation.

`python benchmarks/training_step.py --device cuda --size 7b` is the FDM's step on Chameleon-7B's shape: two images of
1,024 codes and an action, recognition weights, LoRA r 16 on all seven linear maps, the base in bfloat16, and the kit's
own loop (`visdyn.training.engine.fit`: the Trainer, its data loader, autocast, clipping, AdamW). `--family liquid`
has Gemma's shape and 264,192 entries. Without options a small model on one core: it shows that the benchmark runs, no
more.

Model FLOPs utilisation counts what the mathematics needs, not what recomputing adds: for a frozen weight two products
(forward, and the gradient of its input), three for one that trains; attention over the tokens before each; the head
over the answer alone. It is given against the rate of a large matrix product measured in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from itertools import pairwise
from statistics import median

import numpy as np
import torch
from random_models import SIZES, add_options, now, peak, random_liquid, random_model, seconds, title

from visdyn.models.token.sequences import TokenSequence, collate
from visdyn.models.token.unified import UnifiedModel
from visdyn.params.dynamics import Lora
from visdyn.training.dynamics import CompletionLoss, add_adapter
from visdyn.training.engine.fit import Recipe, fit
from visdyn.training.engine.sharding import trained_parameters, widen_trained

LORA = Lora(rank=16, alpha=32, dropout=0.05, modules_to_save=())
ACTION = "open the red drawer"
FAMILIES = {"chameleon": partial(random_model, images=True), "liquid": random_liquid}


class TimedLoss(CompletionLoss):
    """The loss of the recipes, which notes when each of its batches began."""

    def __init__(self, lm, device: str) -> None:
        super().__init__(lm)
        self.device, self.began = device, []

    def forward(self, **batch):
        self.began.append(now(self.device))
        return super().forward(**batch)


def sequences(model: UnifiedModel, side: int, count: int) -> list[TokenSequence]:
    """Return FDM sequences of random images, with weights that average 1."""
    draw = np.random.default_rng(0)
    codes = draw.integers(0, model.layout.num_image_codes, (2, count, side, side))
    weights = draw.exponential(size=(count, side * side)).astype(np.float32)
    rows = zip(*codes, weights / weights.mean(1, keepdims=True), strict=True)
    return [model.builder.forward(source, ACTION, target, weight) for source, target, weight in rows]


def model_flops(model: UnifiedModel, rows: list[TokenSequence]) -> float:
    """Return the FLOPs of one sequence's training step, as the module's text defines them."""
    lm = model.lm.get_base_model()
    layers = [parameter for name, parameter in lm.named_parameters() if ".layers." in name and parameter.ndim == 2]
    frozen = sum(parameter.numel() for parameter in layers if not parameter.requires_grad)
    trained = sum(trained_parameters(model.lm).values())
    answer = len(rows[0].completion)
    length = len(rows[0].prompt) + answer
    config = lm.config
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    # Scores and sums of values: 2 * 2 * width for each of length^2 / 2 pairs, and twice that for the gradients.
    attention = 6 * width * length**2 * config.num_hidden_layers
    head = 4 * config.vocab_size * config.hidden_size * answer
    return (4 * frozen + 6 * trained) * length + attention + head


def product_rate(dtype: torch.dtype, device: str) -> float:
    """Return the FLOP/s of a large matrix product."""
    side, repeats = (8192, 20) if device != "cpu" else (1024, 3)
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    one @ other
    began = now(device)
    for _ in range(repeats):
        one @ other
    return 2 * side**3 * repeats / (now(device) - began)


def measure(model: UnifiedModel, rows: list, batch_size: int, hardware: dict, options) -> float:
    """Train for some steps as `hardware` says and return the median seconds of one, the first two left out."""
    loss = TimedLoss(model.lm, options.device)
    bf16 = next(model.lm.parameters()).dtype == torch.bfloat16
    recipe = Recipe(options.steps, batch_size, 2e-4, precision="bf16" if bf16 else "fp32", log_every=100)
    pad = model.layout.pad
    with tempfile.TemporaryDirectory() as scratch:
        fit(loss, rows, recipe, f"{scratch}/run", lambda part: collate(part, pad), hardware)
    return median(after - before for before, after in pairwise(loss.began[1:]))


def encoding(model: UnifiedModel, side: int, device: str, pairs: int = 4) -> float:
    """Return the seconds that the image tokenizer takes for one sequence's two images, in float32."""
    step = model.vqgan.config.downsampling
    pixels = torch.rand(2 * pairs, 3, step * side, step * side, device=device) * 2 - 1
    model.vqgan.features(pixels[:2])
    return seconds(lambda: model.vqgan.features(pixels), device)[0] / pairs


def main() -> None:
    """Run the cases; the options change their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--family", choices=sorted(FAMILIES), default="chameleon")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="sequences of a step")
    parser.add_argument("--steps", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[options.size]
    model = FAMILIES[options.family](size, options.device)
    add_adapter(model, "random", LORA)
    widen_trained(model.lm)
    model.lm.train()
    rows = sequences(model, size.side, max(options.batch) * options.steps)
    rate = product_rate(size.dtype, options.device)
    length, flops = len(rows[0].prompt) + len(rows[0].completion), model_flops(model, rows)
    print(title(f"LoRA step of an FDM, {options.family}, {length} tokens a sequence", options))
    print(f"a large matrix product runs at {rate / 1e12:.2f} TFLOP/s; {flops / 1e12:.3f} TFLOP a sequence")
    if model.vqgan is not None:
        spent = encoding(model, size.side, options.device)
        print(f"its two images through the image tokenizer, which cached codes save: {spent:.3f} s a sequence")
    for recompute in (False, True):
        for batch_size in options.batch:
            name = f"batch {batch_size}, activations {'recomputed' if recompute else 'kept'}"
            peak(options.device)
            try:
                spent = measure(model, rows, batch_size, {"activation_checkpointing": recompute}, options)
            except torch.cuda.OutOfMemoryError:
                print(f"{name:34} does not fit into the GPU's memory", flush=True)
                continue
            share = flops * batch_size / spent / rate
            print(
                f"{name:34} {spent:6.3f} s a step   {length * batch_size / spent:7.0f} tokens/s   "
                f"MFU {share:.0%} of the product's rate{peak(options.device)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
