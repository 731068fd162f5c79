"""Muon: the matrices of the layers step by orthogonalised momentum, all else by AdamW.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the scale that lets both parts share
one learning rate is that of J. Liu et al., "Muon is scalable for LLM training" (2025), Eq. 4. `torch.optim.Muon` rounds
every matrix to bfloat16, takes one after another and leaves other parameters to a second optimiser; on processors
without bfloat16 units that is slow, and the Trainer knows one optimiser.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOMENTUM = 0.8  # .95, as for large batches, forgets too slowly for some hundred steps of 8 to 32 examples
# Of x -> ax + bx^3 + cx^5 on singular values: steepest at 0, so that five rounds lift small ones into [.7, 1.2].
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5


class Muon(torch.optim.AdamW):
    """AdamW in which groups with `orthogonal` step by orthogonalised Nesterov momentum.

    One step of such a matrix W (r, c) with gradient G: M <- mu M + (1 - mu) G, U = (1 - mu) G + mu M,
    W <- (1 - lr decay) W - .2 lr sqrt(max(r, c)) orthogonalise(U).

    Args:
        groups: of parameters, as for AdamW; `orthogonal: True` marks groups of matrices.
        others: of AdamW.
    """

    def __init__(self, groups: list[dict], **others) -> None:
        super().__init__([{"orthogonal": False, **group} for group in groups], **others)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if group["orthogonal"]:
                self._step_matrices(group)
        return super().step(closure)  # it passes over what has no gradient left

    def _step_matrices(self, group: dict) -> None:
        alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for matrix in group["params"]:
            if matrix.grad is None:
                continue
            state = self.state[matrix]
            if not state:
                state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(matrix)
            state["step"] += 1
            state["momentum"].lerp_(matrix.grad, 1 - MOMENTUM)
            alike.setdefault(matrix.shape, []).append((matrix, matrix.grad.lerp(state["momentum"], MOMENTUM)))
            matrix.grad = None
        for (rows, columns), members in alike.items():
            directions = orthogonalise(torch.stack([direction for _, direction in members]))  # (n, r, c)
            for (matrix, _), direction in zip(members, directions, strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(direction, alpha=-0.2 * group["lr"] * max(rows, columns) ** 0.5)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return matrices (n, r, c) with the same singular vectors, and singular values near 1 (about .7 to 1.2)."""
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        squares = wide @ wide.mT  # (n, r, r), the smaller side
        wide = _A * wide + (_B * squares + _C * squares @ squares) @ wide
    return wide if matrices.shape[-2] <= matrices.shape[-1] else wide.mT


def make_muon(model: nn.Module, weight_decay: float, **others) -> Muon:
    """Make the optimiser of a model's trained parameters.

    Orthogonal are the matrices inside repeated layers (`nn.ModuleList`); embeddings, heads, norms and convolutions are
    AdamW's. Weights of no dimension or one (norms, biases) do not decay.

    Args:
        others: of AdamW (lr, betas, eps, fused).
    """
    layers = {
        parameter
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        for parameter in module.parameters()
        if parameter.ndim == 2
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Muon(
        [
            {"params": [p for p in trained if p in layers], "orthogonal": True, "weight_decay": weight_decay},
            {"params": [p for p in trained if p not in layers and p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ],
        **others,
    )
