"""`exact_float32`: float32 arithmetic without autocast and TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_float32(device: str | torch.device) -> Iterator[None]:
    """Keep products of float32 numbers in float32: without autocast, and on a GPU without TF32.

    By default torch rounds the factors of a GPU's convolutions to TF32, which has the ten bits of float16: codes of an
    image tokenizer flip, and a metric differs from a CPU's in the fourth digit.
    """
    kind = torch.device(device).type
    with torch.autocast(kind, enabled=False):
        if kind != "cuda":
            yield
            return
        backends = torch.backends.cudnn, torch.backends.cuda.matmul
        before = [backend.allow_tf32 for backend in backends]
        for backend in backends:
            backend.allow_tf32 = False
        try:
            yield
        finally:
            for backend, allowed in zip(backends, before, strict=True):
                backend.allow_tf32 = allowed
