"""Kernels that operators would launch on a GPU, counted on any machine; the 7B shapes of Chameleon and BAGEL."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from visdyn.models.bagel import Bagel, BagelConfig
from visdyn.models.token.chameleon import ChameleonLM, tiny_config
from visdyn.models.token.tokens import TokenLayout

LAYERS = 32
LAYOUT_7B = TokenLayout(0, 1, 2, 8196, 8197, 8198, 4, 8192)


class Kernels(TorchDispatchMode):
    """Counts the operators that compute something: no views, and no memory that is only set aside.

    `copies` are those between host and device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.copies = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        given = {leaf.untyped_storage()._cdata for leaf in _tensors((args, kwargs or {}))}
        view = not func._schema.is_mutable and all(one.untyped_storage()._cdata in given for one in _tensors(found))
        self.count += not view and not name.startswith(("empty", "new_empty")) and name != "detach"
        devices = {leaf.device.type for leaf in _tensors((args, kwargs, found))}
        self.copies += name in ("_to_copy", "copy_") and len(devices) > 1
        return found


def _tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@contextmanager
def meta_bfloat16():
    """Make what is made here of bfloat16, without memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(before)


def chameleon_7b(layers: int = LAYERS) -> ChameleonLM:
    """Return Chameleon-7B's shape on the meta device: 4,096 wide, 32 heads, 65,536 tokens, 8,192 of them codes."""
    with meta_bfloat16():
        config = tiny_config(65536, LAYOUT_7B, 8199, 4096, 11008, layers, 32, 4096)
        return ChameleonLM._from_config(config, attn_implementation="sdpa").eval().requires_grad_(False)


def bagel_7b() -> Bagel:
    """Return the public BAGEL's shape on the meta device, without its autoencoder."""
    with meta_bfloat16():
        return Bagel(BagelConfig()).eval().requires_grad_(False)
