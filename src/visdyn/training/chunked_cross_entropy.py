"""The weighted cross entropy over a large vocabulary, exact, a few rows of logits at a time.

The logits of one image's 1,026 tokens over Liquid's 264,192 entries take 1.1 GB in float32, and as much again for their
gradient. Here the gradient of a chunk's loss is computed with the chunk, in the forward pass, so that logits are made
once and never kept; the backward pass only scales.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

IGNORED = -100
CHUNK_ELEMENTS = 2**25  # logits that exist at one time: 128 MiB in float32, 512 rows of 65,536 or 127 of 264,192


def sum_weighted_nll(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    chunk_size: int | None = None,
) -> torch.Tensor:
    """Return sum(w * nll) without ever holding all logits, neither here nor in the backward pass.

    The head is read during the forward pass only, so that it may be a parameter that ZeRO-3 has gathered for it. It
    may be frozen, or tied to the embeddings. Under autocast the products are taken in autocast's precision; softmax and
    sums are float32 in any case.

    Args:
        hidden: (N, D) states that predict `targets`.
        head: (V, D) rows of the output head.
        targets: int64 (N,); what is -100 must weigh 0.
        weights: float32 (N,).
        chunk_size: positions whose logits exist at one time; by default as many as make 2^25 logits. What fits into
            one chunk goes through torch's own cross entropy.

    Returns:
        float32 scalar.
    """
    chunk = chunk_size or max(1, CHUNK_ELEMENTS // head.shape[0])
    if len(targets) <= chunk:
        logits = F.linear(hidden, head).float()
        return (F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none") * weights).sum()
    if not torch.is_grad_enabled():
        hidden, head = hidden.detach(), head.detach()  # nothing is computed for a backward pass that never comes
    return _Chunked.apply(hidden, head, targets, weights, chunk)


class _Chunked(torch.autograd.Function):
    """sum(w * nll) of rows (N, D) and a head (V, D), with both gradients computed chunk by chunk in the forward."""

    @staticmethod
    def forward(ctx, hidden, head, targets, weights, chunk):
        device, dtype = hidden.device.type, hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        rows, table = hidden.detach().to(dtype), head.detach().to(dtype)
        total = hidden.new_zeros((), dtype=torch.float32)
        to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        to_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        with torch.autocast(device, enabled=False):
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                # (chunk, V): the only logits that ever exist
                loss, to_logits = _with_gradient(rows[part], table, targets[part], weights[part])
                total += loss
                if to_hidden is not None:
                    to_hidden[part] = to_logits @ table  # (chunk, V) (V, D) -> (chunk, D)
                if to_head is not None:
                    _add_product(to_head, to_logits, rows[part])
        ctx.to_hidden, ctx.to_head, ctx.dtype = to_hidden, to_head, head.dtype
        return total

    @staticmethod
    def backward(ctx, scale):
        to_hidden, to_head = ctx.to_hidden, ctx.to_head
        ctx.to_hidden = ctx.to_head = None
        to_hidden = None if to_hidden is None else to_hidden * scale.to(to_hidden.dtype)
        return to_hidden, None if to_head is None else to_head.mul_(scale).to(ctx.dtype), None, None, None


def _with_gradient(rows, table, targets, weights) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a chunk's sum(w * nll), and its gradient for the logits: w * (softmax - one-hot), in the rows' type."""
    logits = F.linear(rows, table).float()
    scale = logits.logsumexp(1, keepdim=True)  # (n, 1)
    named = targets.clamp_min(0)[:, None]  # an ignored target weighs nothing
    loss = ((scale - logits.gather(1, named)).squeeze(1) * weights).sum()
    # In place: softmax minus one-hot, times the weights (n, 1); a second (n, V) array would double the peak memory.
    logits.sub_(scale).exp_().scatter_add_(1, named, logits.new_full(named.shape, -1.0)).mul_(weights[:, None])
    return loss, logits.to(rows.dtype)


def _add_product(total: torch.Tensor, to_logits: torch.Tensor, rows: torch.Tensor) -> None:
    """Add to_logits^T rows (V, D) to a float32 total."""
    if to_logits.dtype == torch.float32:
        total.addmm_(to_logits.t(), rows)
    else:
        total += to_logits.t() @ rows
