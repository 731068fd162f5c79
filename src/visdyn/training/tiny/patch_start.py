"""Initialisation of small autoencoders that read folded pixels: the principal components of the images' patches.

Sixteen principal components of an 8 x 8 patch already show every object of a kitchen, while the same network from
random weights is behind that after hundreds of steps: whole-image normalisation and small gradients of rare details
slow it down. So training starts from the linear solution and the residual blocks, silent at first, learn the rest.

How a component u passes the nonlinearity before the last convolution unchanged: as the pair (u, -u), because
silu(u) - silu(-u) = u.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from visdyn.images import to_pixels
from visdyn.models.vqgan.blocks import fold


@torch.no_grad()
def start_from_patches(
    encoder: nn.Module, decoder: nn.Module, images: np.ndarray, patch: int, num_features: int, limit: int = 256
) -> None:
    """Make encoder and decoder the principal component analysis of `images`' patches, up to a gain per image.

    Each feature is a component divided by the square root of its standard deviation: details count for more than
    they do in pixels, and for less than after whitening.

    Args:
        encoder, decoder: single-level networks with `conv_in` and `conv_out` (3 x 3), of `VQGAN` or `AutoencoderKL`.
        images: uint8 (N, H, W, 3).
        patch: side of a patch, which is the networks' whole downsampling.
        num_features: channels of the features that the encoder gives and the decoder reads.
        limit: images used, taken evenly.

    Raises:
        ValueError: a network is too narrow to carry a component and its negative for each feature.
    """
    if encoder.conv_in.out_channels < 2 * num_features:
        raise ValueError(
            f"{num_features} features need {2 * num_features} channels, not {encoder.conv_in.out_channels}: "
            "widen the network, or start from random weights"
        )
    rows = fold(to_pixels(take_evenly(images, limit)), patch).permute(0, 2, 3, 1).flatten(0, 2)
    mean, deviations, components = principal_components(rows)
    kept, scale = components[:num_features], deviations[:num_features, None].clamp(min=1e-3).sqrt()
    _silence_residuals(encoder)
    _silence_residuals(decoder)
    analysis, identity = kept / scale, torch.eye(num_features)
    _set_centre_tap(encoder.conv_in, torch.cat([analysis, -analysis]), -torch.cat([analysis, -analysis]) @ mean)
    _set_centre_tap(encoder.conv_out, torch.cat([identity, -identity], dim=1))
    _set_centre_tap(decoder.conv_in, torch.cat([identity, -identity]))
    _set_centre_tap(decoder.conv_out, torch.cat([(kept * scale).t(), -(kept * scale).t()], dim=1), mean)


@torch.no_grad()
def start_patch_embedding(embedding: nn.Conv2d, images: np.ndarray, limit: int = 256) -> None:
    """Make a transformer's patch embedding the principal components of `images`' patches, scaled as features above.

    Args:
        embedding: convolution whose stride is its kernel size; reads pixels.
        images: uint8 (N, H, W, 3).
        limit: images used, taken evenly.
    """
    patch = embedding.kernel_size[0]
    rows = fold(to_pixels(take_evenly(images, limit)), patch).permute(0, 2, 3, 1).flatten(0, 2)
    mean, deviations, components = principal_components(rows)
    weights = (components / deviations.clamp(min=1e-2).sqrt()[:, None])[: embedding.out_channels]
    embedding.weight[: len(weights)] = weights.view(len(weights), 3, patch, patch)
    if embedding.bias is not None:
        embedding.bias[: len(weights)] = -weights @ mean


def take_evenly(images: np.ndarray, limit: int) -> np.ndarray:
    """Return at most `limit` of the images, taken evenly, in memory."""
    return np.array(images[:: max(1, len(images) // limit)][:limit])


def principal_components(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (D,), standard deviations (D,), largest first, and components (D, D), one a row, of rows (R, D)."""
    mean = rows.mean(dim=0)
    # float64: the smallest of the eigenvalues are lost in float32. `eigh` gives them in ascending order.
    variances, vectors = torch.linalg.eigh(torch.cov((rows - mean).double().t()))
    deviations = variances.clamp(min=0).sqrt().flip(0)
    return mean, deviations.float(), vectors.t().flip(0).float()


def _set_centre_tap(layer: nn.Conv2d, weights: Tensor, bias: Tensor | None = None) -> None:
    """Put `weights` on the centre tap and `bias` in place, and shrink all else to a tenth."""
    layer.weight.mul_(0.1)
    layer.bias.mul_(0.1)
    layer.weight[: weights.shape[0], : weights.shape[1]] = 0
    layer.weight[: weights.shape[0], : weights.shape[1], 1, 1] = weights
    layer.bias[: weights.shape[0]] = 0 if bias is None else bias


def _silence_residuals(network: nn.Module) -> None:
    """Zero the last layer of every residual branch, so that each block starts as the identity."""
    for module in network.modules():
        last = getattr(module, "conv2", None) or getattr(module, "proj_out", None)
        if last is None and hasattr(module, "to_out"):
            last = module.to_out[0]
        if last is not None:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
