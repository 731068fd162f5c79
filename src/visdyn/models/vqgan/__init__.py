"""The VQGAN image tokenizer of Chameleon, Anole and Liquid (taming-transformers; Esser et al., 2021), in float32."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from visdyn.models.precision import exact_float32
from visdyn.models.strict_load import load_state
from visdyn.models.vqgan.blocks import Decoder, Encoder, VQGANConfig
from visdyn.models.vqgan.checkpoint_formats import NO_DECODER, config_to_public, read_checkpoint
from visdyn.models.weight_files import CheckpointError

__all__ = ["VQGAN", "CheckpointError", "VQGANConfig"]

_ROWS_AT_ONCE = 4096  # distances of 4,096 features to 8,192 codes take 128 MiB


class Codebook(nn.Module):
    """The table of code vectors; calling it quantises features to the nearest codes."""

    def __init__(self, num_codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, dim)

    def forward(self, features: Tensor) -> Tensor:
        """Return the nearest code of each feature: float32 (N, C, h, w) to int64 (N, h, w)."""
        rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])  # (N * h * w, C)
        codes = [self.distances(chunk).argmin(dim=1) for chunk in rows.split(_ROWS_AT_ONCE)]
        return torch.cat(codes).view(features.shape[0], *features.shape[2:])

    def distances(self, rows: Tensor) -> Tensor:
        """Return squared distances (R, num_codes) of `rows` (R, C), summed in the order of the public code."""
        table = self.embedding.weight  # (num_codes, C)
        return rows.square().sum(dim=1, keepdim=True) + table.square().sum(dim=1) - 2 * rows @ table.t()

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the code vectors: int64 (N, h, w) to float32 (N, C, h, w)."""
        return self.embedding(codes).permute(0, 3, 1, 2).contiguous()


class VQGAN(nn.Module):
    """Images to a grid of discrete codes and back.

    Weights and arithmetic are float32, also under autocast and on GPUs with TF32: the argmin over 8,192 codes flips
    at lower precision.
    """

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = Codebook(config.n_embed, config.embed_dim)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)

    @property
    def device(self) -> torch.device:
        return self.quant_conv.weight.device

    @classmethod
    def from_checkpoint(cls, path: str | Path, decoder: bool = True) -> VQGAN:
        """Load a tokenizer, frozen and in evaluation mode.

        Args:
            path: a folder with `config.json` and `weights.safetensors`; the public `vqgan.ckpt` with its yaml beside
                it; or a Chameleon or Anole folder of transformers whose shards hold `model.vqmodel.*` and its decoder.
            decoder: False takes a checkpoint without one too (the official Chameleon), which can encode only.

        Raises:
            FileNotFoundError: nothing is there.
            CheckpointError: another layout, no decoder, or weights that do not fit the stated shape.
        """
        config, weights = read_checkpoint(path, decoder)
        try:
            with torch.device("meta"):
                model = cls(config)
        except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(f"{path} describes a VQGAN that cannot be built: {error}") from error
        if not decoder and not any(key.startswith("decoder.") for key in weights):
            model.decoder = None
        load_state(model, weights, path)
        return model.requires_grad_(False).eval()

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `weights.safetensors` (float32) into `folder`, as `from_checkpoint` reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = json.dumps(config_to_public(self.config), indent=2, sort_keys=True)
        (folder / "config.json").write_text(settings + "\n")
        weights = {key: value.detach().float().cpu().contiguous() for key, value in self.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Return the features that are quantised: float32 (N, 3, H, W) in [-1, 1] to float32 (N, embed_dim, h, w).

        Raises:
            ValueError: the sides are no multiples of the downsampling, or the weights are not float32.
        """
        step = self.config.downsampling
        if pixels.ndim != 4 or pixels.shape[2] % step or pixels.shape[3] % step:
            raise ValueError(f"pixels are (N, 3, H, W) with sides divisible by {step}, not {tuple(pixels.shape)}")
        with self._require_float32():
            return self.quant_conv(self.encoder(pixels.to(self.device).float()))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Return codes int64 (N, h, w) of pixels float32 (N, 3, H, W) in [-1, 1]; errors as for `features`."""
        features = self.features(pixels)
        with self._require_float32():
            return self.quantize(features)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Return pixels float32 (N, 3, H, W), not clamped to [-1, 1], of codes int64 (N, h, w).

        Raises:
            ValueError: a code lies outside the codebook, or the weights are not float32.
            CheckpointError: the checkpoint had no decoder.
        """
        if self.decoder is None:
            raise CheckpointError(f"this VQGAN was loaded without decoder weights: {NO_DECODER}")
        if codes.ndim != 3 or (codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.config.n_embed):
            raise ValueError(f"codes are (N, h, w) with values from 0 to {self.config.n_embed - 1}")
        with self._require_float32():
            return self.decoder(self.post_quant_conv(self.quantize.lookup(codes.to(self.device))))

    @contextmanager
    def _require_float32(self) -> Iterator[None]:
        if self.quant_conv.weight.dtype != torch.float32:
            raise ValueError(f"the VQGAN runs in float32, but its weights were cast to {self.quant_conv.weight.dtype}")
        with exact_float32(self.device):
            yield
