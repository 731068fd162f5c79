"""Decoder layers compiled one by one, as a hardware file asks with `trainer: {compile_layers: true}`.

A LoRA step of a 7B decoder moves 354 GB, of which 266 GB are norms, rotations, casts and sums between the products.
Compiled, these are fused, and of a sequence 7 GiB of activations are kept instead of 16 (counted, not measured on a
GPU; `tests/test_compiled_layers.py`). Layers are compiled and not the model, because a compiled model makes
transformers build a dense mask.
"""

from __future__ import annotations

from torch import nn

BACKEND = "inductor"
KINDS = 64  # shapes and kinds of a layer, beyond which torch would go on without its compiler, and say nothing


def compile_layers(lm: nn.Module) -> int:
    """Let every layer of a decoder of transformers be compiled at its first call; return how many there are.

    Losses and gradients are the uncompiled model's up to rounding; dropout draws other numbers. A few graphs serve
    batches of all lengths. Names of weights and what is saved stay as they are.
    """
    import torch._dynamo
    import torch._functorch.config
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KINDS)
    # What a product reads and a norm or a sum wrote is computed again in the backward pass, not kept beside its inputs.
    torch._functorch.config.ban_recompute_materialized_backward = False
    for layer in layers:
        layer.compile(backend=BACKEND, dynamic=True, fullgraph=True)  # a break would be an error, not a slow step
    return len(layers)
