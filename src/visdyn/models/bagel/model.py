"""The BAGEL model: modules under the public checkpoint's names, loading, saving and the packed training forward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from visdyn.models.bagel import checkpoint
from visdyn.models.bagel.config import BagelConfig, SamplerSettings
from visdyn.models.bagel.decoder import LanguageModel
from visdyn.models.bagel.embeddings import Connector, PositionTable, TimestepEmbedder
from visdyn.models.bagel.forward_pack import forward_pack
from visdyn.models.bagel.vae import Autoencoder
from visdyn.models.bagel.vit import VisionTower


class Bagel(nn.Module):
    """BAGEL (arXiv 2505.14683): one decoder with an understanding and a generation expert.

    `state_dict()` has exactly the names of the public `ema.safetensors`. The autoencoder is a frozen
    companion (`vae`): it follows `.to(...)` but is no parameter of the model and no part of its state.
    """

    def __init__(self, config: BagelConfig, vae: Autoencoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = None
        self.sampling: SamplerSettings | None = None  # the checkpoint's own sampler settings
        self.vae = vae
        hidden = config.text.hidden_size
        self.language_model = LanguageModel(config.text)
        if config.vision is not None:
            self.vit_model = VisionTower(config.vision)
            self.connector = Connector(config.vision.hidden_size, hidden)
            self.vit_pos_embed = PositionTable(hidden, config.vit_max_num_patch_per_side)
        self.latent_pos_embed = PositionTable(hidden, config.max_latent_size)
        self.time_embedder = TimestepEmbedder(hidden)
        self.vae2llm = nn.Linear(config.latent_dim, hidden)
        self.llm2vae = nn.Linear(hidden, config.latent_dim)
        self.apply(_init_weights)
        nn.init.zeros_(self.llm2vae.weight)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> Bagel:
        """Load the public checkpoint folder, a folder of `save_pretrained`, or a one-file form (`config.json`,
        `weights.safetensors`, `ae.safetensors`). Tensors are read one by one straight into place.

        Args:
            dtype: of the weights; as stored by default. The autoencoder is always float32.

        Raises:
            CheckpointError: a file is missing, or names or shapes of tensors do not fit.
        """
        return checkpoint.load(cls, Path(folder), dtype, torch.device(device))

    def save_pretrained(self, folder: str | Path, **_: object) -> None:
        """Write the public layout: `ema.safetensors`, `ae.safetensors`, three JSON files, the tokenizer."""
        checkpoint.save(self, Path(folder))

    def __setattr__(self, name: str, value) -> None:
        if name == "vae":  # kept out of the registered modules on purpose
            self.__dict__["vae"] = value
        else:
            super().__setattr__(name, value)

    def _apply(self, fn, recurse: bool = True):
        if self.vae is not None:
            self.vae._apply(fn)
        return super()._apply(fn, recurse)

    @property
    def device(self) -> torch.device:
        return self.vae2llm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.vae2llm.weight.dtype

    def require_vae(self) -> Autoencoder:
        if self.vae is None:
            raise RuntimeError("this model has no autoencoder; load a folder with ae.safetensors or set model.vae")
        return self.vae

    def gradient_checkpointing_enable(self, **_: object) -> None:
        """Recompute every decoder layer in the backward pass."""
        self.language_model.model.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        self.language_model.model.gradient_checkpointing = False

    def embed_vit(self, patches: Tensor, position_ids: Tensor, lengths: list[int]) -> Tensor:
        """Return ViT tokens (n, hidden) of packed patches (n, patch_dim): tower, connector, position table."""
        if self.config.vision is None:
            raise ValueError("ViT tokens were given to a model without a ViT (config.vision is None)")
        features = self.vit_model(patches.to(self.dtype), position_ids, lengths)
        return self.connector(features) + self.vit_pos_embed(position_ids).to(self.dtype)

    def embed_latents(self, latents: Tensor, timesteps: Tensor, position_ids: Tensor) -> Tensor:
        """Return latent tokens (..., hidden) of latents (..., latent_dim); timesteps broadcast to (...)."""
        position = self.latent_pos_embed(position_ids).to(self.dtype)
        return self.vae2llm(latents.to(self.dtype)) + self.time_embedder(timesteps) + position

    forward = forward_pack  # the training forward over a pack of samples; `model(pack, ...)` returns a BagelOutput

    def encode_text(self, prompt: str | Sequence[int]) -> list[int]:
        """Return token ids of a string, without begin and end markers; ids pass through."""
        if not isinstance(prompt, str):
            return list(prompt)
        if self.tokenizer is None:
            raise RuntimeError("this model has no tokenizer; set model.tokenizer, or pass token ids instead of text")
        return self.tokenizer.encode(prompt, add_special_tokens=False)


def _init_weights(module: nn.Module) -> None:
    """Normal weights of deviation 0.02 and zero biases, for training from scratch."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
