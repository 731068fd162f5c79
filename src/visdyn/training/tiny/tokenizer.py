"""Recipe of the embedded world's image tokenizer: a small VQGAN without its discriminator.

The papers use Chameleon's tokenizer as it is; only the embedded profiles train one. Loss: L1 + L2 on pixels and a
commitment term. The codebook is no parameter: it follows exponential moving averages (van den Oord et al., 2017,
appendix A.1), starts from k-means, and codes that fall out of use move to current features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from visdyn.images import to_pixels
from visdyn.models.vqgan import VQGAN, VQGANConfig
from visdyn.training.engine.fit import Recipe, fit, write_history
from visdyn.training.tiny.patch_start import start_from_patches, take_evenly

# A code for 8 x 8 pixels, whatever the images' size. Folding 8 x 8 pixels into channels leaves one level: a fifth of
# the time of the unfolded net with widths 16 to 64.
TINY_TOKENIZER = VQGANConfig(
    ch=64,
    ch_mult=(1,),
    num_res_blocks=1,
    resolution=64,
    z_channels=32,
    n_embed=256,
    embed_dim=32,
    norm_groups=1,
    patch=8,
)


@dataclass(frozen=True)
class TokenizerSettings:
    """How the tokenizer is learnt, beside the `Recipe`.

    Attributes:
        start: `patches` (see `patch_start`; needs a single level) or `random`.
        decay: of the codebook's moving averages.
        revive_below: a code whose average count per step falls below this moves to a random current feature.
        commitment: weight of the commitment loss.
        rare_colours: see `rare_colour_weights`.
        kmeans_rounds: Lloyd's iterations at the start.
        kmeans_images: images whose features start the codebook.
    """

    start: str = "patches"
    decay: float = 0.95
    revive_below: float = 0.3
    commitment: float = 0.25
    rare_colours: float = 8.0
    kmeans_rounds: int = 10
    kmeans_images: int = 256


class ImageDataset(Dataset):
    """Images of a .npy file, uint8 (N, H, W, 3), as float32 `pixels` (3, H, W) in [-1, 1]."""

    def __init__(self, path: str | Path) -> None:
        self.images = np.load(path, mmap_mode="r")
        if self.images.ndim != 4 or self.images.shape[3] != 3 or self.images.dtype != np.uint8:
            raise ValueError(f"{path} holds {self.images.dtype} {self.images.shape}; expected uint8 (N, H, W, 3)")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixels": to_pixels(np.array(self.images[index][None]))[0]}


class TokenizerTraining(nn.Module):
    """A VQGAN with its loss; all state of the codebook is in buffers, so a checkpoint resumes it exactly."""

    def __init__(self, vqgan: VQGAN, settings: TokenizerSettings) -> None:
        super().__init__()
        self.vqgan, self.settings = vqgan, settings
        table = vqgan.quantize.embedding.weight.requires_grad_(False)
        self.register_buffer("counts", torch.ones(len(table)))
        self.register_buffer("sums", table.detach().clone())

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        features = self.vqgan.quant_conv(self.vqgan.encoder(pixels)).float()
        quantised, commitment, used = self._quantise_straight_through(features)
        decoded = self.vqgan.decoder(self.vqgan.post_quant_conv(quantised)).float()
        error, weights = (decoded - pixels).abs(), rare_colour_weights(pixels, self.settings.rare_colours)
        loss = (weights * (error + error.square())).mean() + self.settings.commitment * commitment
        return {"loss": loss, "l1": error.detach().mean(), "used_codes": used}

    def _quantise_straight_through(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return straight-through quantised features, the commitment loss and the number of codes in use."""
        with torch.autocast(features.device.type, enabled=False):
            codes = self.vqgan.quantize(features.detach())
            quantised = self.vqgan.quantize.lookup(codes)
            if self.training:
                self._update_by_ema(features.detach().permute(0, 2, 3, 1).flatten(0, 2), codes.flatten())
            commitment = functional.mse_loss(features, quantised)
        used = features.new_tensor(codes.unique().numel())
        # Straight-through: the value of the quantised features, the gradient of the features.
        return features + (quantised - features).detach(), commitment, used

    @torch.no_grad()
    def start(self, images: np.ndarray) -> None:
        """Start from principal components if the settings say so, and put the codes on k-means centres.

        Features are drawn in proportion to the square of their `rare_colour_weights`: objects are few.
        """
        config, model = self.vqgan.config, self.vqgan
        if self.settings.start == "patches":
            if len(config.ch_mult) != 1:
                raise ValueError(f"start 'patches' needs a single level, not ch_mult {config.ch_mult}; use 'random'")
            start_from_patches(model.encoder, model.decoder, images, config.patch, config.z_channels)
            for layer in (model.quant_conv, model.post_quant_conv):
                nn.init.dirac_(layer.weight)
                nn.init.zeros_(layer.bias)
        pixels = to_pixels(take_evenly(images, self.settings.kmeans_images))
        weights = functional.avg_pool2d(rare_colour_weights(pixels, self.settings.rare_colours), config.downsampling)
        rows = model.features(pixels).permute(0, 2, 3, 1).flatten(0, 2)  # (N * h * w, C)
        drawn = torch.multinomial(weights.flatten().square(), len(rows), replacement=True)
        self._init_by_k_means(rows[drawn])

    def _init_by_k_means(self, rows: Tensor) -> None:
        """Put the codes on k-means centres of `rows` (R, C)."""
        table = self.vqgan.quantize.embedding.weight
        table.copy_(_draw_rows(rows, len(table)))
        for _ in range(self.settings.kmeans_rounds):
            counts, sums = _sum_by_code(rows, self.vqgan.quantize.distances(rows).argmin(dim=1), len(table))
            centres = sums / counts.clamp(min=1)[:, None]
            table.copy_(torch.where(counts[:, None] > 0, centres, _draw_rows(rows, len(table))))
        self.counts.fill_(1.0)
        self.sums.copy_(table)

    @torch.no_grad()
    def _update_by_ema(self, rows: Tensor, codes: Tensor) -> None:
        """Update each code's EMA of counts and sums by this batch, and move dead codes onto random features of it."""
        table = self.vqgan.quantize.embedding.weight
        counts, sums = _sum_by_code(rows, codes, len(table))
        self.counts.lerp_(counts, 1 - self.settings.decay)
        self.sums.lerp_(sums, 1 - self.settings.decay)
        dead = self.counts < self.settings.revive_below
        if dead.any():
            self.sums[dead] = _draw_rows(rows, int(dead.sum()))
            self.counts[dead] = 1.0
        table.copy_(self.sums / self.counts[:, None])


def train_tokenizer(
    *,
    images: str,
    output: str,
    recipe: dict,
    scratch: str,
    model: dict | None = None,
    settings: dict | None = None,
) -> None:
    """Train a small VQGAN and write it to `output` as `VQGAN.from_checkpoint` reads it, with `training.csv`.

    Args:
        images: .npy file, uint8 (N, H, W, 3).
        output: folder to write.
        recipe: keys of `visdyn.training.engine.fit.Recipe`.
        scratch: folder for resume state.
        model: changes to `TINY_TOKENIZER` (fields of `VQGANConfig`).
        settings: changes to `TokenizerSettings`.
    """
    chosen, dataset = Recipe.of(recipe), ImageDataset(images)
    torch.manual_seed(chosen.seed)
    # JSON knows lists only; the configuration is hashable.
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in (model or {}).items()}
    config = VQGANConfig(**{**vars(TINY_TOKENIZER), "resolution": dataset.images.shape[1], **changes})
    training = TokenizerTraining(VQGAN(config), TokenizerSettings(**(settings or {})))
    training.start(dataset.images)
    training.to(memory_format=torch.channels_last)

    def save(history: pd.DataFrame) -> None:
        training.vqgan.save(output)
        write_history(history, output)

    fit(training, dataset, chosen, scratch, save=save)


def rare_colour_weights(pixels: Tensor, strength: float) -> Tensor:
    """Return weights (N, 1, H, W) of mean 1 that grow with the colour difference from the image's mean colour.

    With d the spread (largest minus smallest channel) of that difference, a weight is 1 + strength * d**2 before
    normalisation. The objects fill a twentieth of a kitchen image: unweighted, a short training paints them all in
    the colour of the wall. Perceptual losses serve this end in the public recipe.
    """
    difference = pixels - pixels.mean(dim=(2, 3), keepdim=True)
    spread = difference.amax(dim=1, keepdim=True) - difference.amin(dim=1, keepdim=True)
    weights = 1 + strength * spread.square()
    return weights / weights.mean(dim=(2, 3), keepdim=True)


def _draw_rows(rows: Tensor, number: int) -> Tensor:
    """Draw `number` rows, without replacement while there are enough."""
    order = torch.randperm(len(rows), device=rows.device)
    return rows[order[torch.arange(number, device=rows.device) % len(rows)]]


def _sum_by_code(rows: Tensor, codes: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """Return how many rows each code has (K,), and their sums (K, C)."""
    counts = torch.bincount(codes, minlength=num_codes).to(rows.dtype)
    return counts, torch.zeros(num_codes, rows.shape[1], device=rows.device).index_add_(0, codes, rows)
