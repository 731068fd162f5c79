"""Verification with K = 8 candidates against K = 1, in one run: `python benchmarks/verification.py`.

Random weights; about a minute on one core. For each K: seconds to draw the candidates (one prefill, one batch), to
decode and encode their images, and to score them with the IDM (over the shared source), and the whole against K = 1.
The paper's cost was eight times: one candidate after the other. `--device cuda --size 7b` is Chameleon-7B's shape
with 1,024 codes an image.

FDM and IDM are one model here: what a pair of adapters on one base adds is measured by `--adapters`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from random_models import SIZES, add_options, random_model, seconds, title

from visdyn.models.dynamics_pair import AdaptedLM
from visdyn.models.token.decoding import uniforms
from visdyn.models.token.unified import TokenForwardDynamics, UnifiedModel

ACTION = "open the red drawer"
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "task_type": "CAUSAL_LM"}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(model: UnifiedModel) -> tuple[UnifiedModel, UnifiedModel]:
    """Return the model with two random adapters, one a role."""
    from peft import LoraConfig, get_peft_model

    adapters = get_peft_model(model.lm, LoraConfig(**LORA, target_modules=TARGETS), adapter_name="fdp")
    adapters.add_adapter("idp", LoraConfig(**LORA, target_modules=TARGETS))
    adapters.to(model.lm.dtype).eval().requires_grad_(False)
    return tuple(replace(model, lm=AdaptedLM(adapters, name)) for name in ("fdp", "idp"))


def cost(forward: TokenForwardDynamics, inverse: UnifiedModel, source: np.ndarray, k: int, device: str) -> list[float]:
    """Return seconds of drawing, of the image tokenizer and of the IDM for one item with K candidates."""
    draws = uniforms(k, source[0].size, torch.Generator().manual_seed(0))[None]
    drawing, codes = seconds(lambda: forward.sample_codes(source, [ACTION], draws)[0], device)
    pictures, again = seconds(lambda: inverse.encode(list(forward.model.decode(codes))), device)
    role = inverse.inverse_dynamics
    scoring, _ = seconds(lambda: role.score_codes(source.repeat(k, 0), again, [ACTION] * k), device)
    return [drawing, pictures, scoring]


def main() -> None:
    """Run the comparison; the options change its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--adapters", action="store_true", help="FDM and IDM as two adapters on the base")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[options.size]
    model = replace(random_model(size, options.device, images=True), shared_prefixes=True, batch_size=8)
    forward, inverse = adapted(model) if options.adapters else (model, model)
    source = np.random.default_rng(0).integers(0, size.codes, (1, size.side, size.side))
    short = TokenForwardDynamics(forward)
    cost(short, inverse, source[:, : size.side // 4], 1, options.device)  # warm up
    print(title(f"verification of K candidates{', two adapters' if options.adapters else ''}", options))
    first = None
    for k in options.k:
        parts = cost(short, inverse, source, k, options.device)
        first = first or sum(parts)
        names = "drawing {:.2f}, image tokenizer {:.2f}, IDM {:.2f}".format(*parts)
        print(f"K = {k}: {sum(parts):7.2f} s ({names})   {sum(parts) / first:4.2f} times K = {options.k[0]}")


if __name__ == "__main__":
    main()
