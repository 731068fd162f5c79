"""DINO and CLIP encoders of the metrics, from checkpoints of transformers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from visdyn.images import ImageRef, load
from visdyn.models.checkpoints import find_folder
from visdyn.models.encoder_preprocess import CLIP_PRESETS, DINO_PRESETS, Preset, preset_of
from visdyn.models.precision import exact_float32
from visdyn.models.strict_load import load_pretrained, load_tokenizer
from visdyn.models.weight_files import read_settings

_DINO_TYPES = ("dinov2", "vit")


class ImageEncoder:
    """A DINO (`ViTModel`) or DINOv2 (`Dinov2Model`) checkpoint that embeds images, in float32."""

    presets = DINO_PRESETS

    def __init__(self, model: nn.Module, preset: Preset, device: str = "cpu", batch_size: int = 64) -> None:
        """Wrap a loaded model, frozen and in evaluation mode on `device`."""
        self.model = model.requires_grad_(False).eval().to(device)
        self.preset, self.device, self.batch_size = preset, device, batch_size

    @classmethod
    def from_pretrained(
        cls, path: str | Path, preset: str = "embedded", device: str = "cpu", batch_size: int = 64
    ) -> ImageEncoder:
        """Load a checkpoint: a folder or a hub id, such as `facebook/dino-vits16` or `facebook/dinov2-large`.

        Args:
            path: folder of `save_pretrained`, or hub id.
            preset: whose preprocessing and pooling: `embedded`, `bootstrapping` (= `magicbrush`) or `doundo`.
            device: torch device.
            batch_size: images encoded at once.

        Raises:
            FileNotFoundError: there is no such folder, no checkpoint in it, and no hub id in reach.
            ValueError: unknown preset, a checkpoint of another family, or weights that are not exactly the encoder's.
        """
        chosen, model = preset_of(cls.presets, preset), _load_dino(path)
        return cls(model, chosen.at_size(model.config.image_size), device, batch_size)

    def __getstate__(self) -> dict:
        """Weights travel to another process by the CPU: they may lie on a GPU that it does not see."""
        return self.__dict__ | ({} if self.device == "cpu" else {"model": copy.deepcopy(self.model).to("cpu")})

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self.model.to(self.device)

    @torch.no_grad()
    def embed_images(self, images: Sequence[ImageRef]) -> np.ndarray:
        """Return float32 (N, D), rows of unit length; raises `visdyn.images.ImageError` on a bad image."""
        return self._embed_in_batches(images, self._compute_image_features)

    def _load_pixels(self, images: Sequence[ImageRef]) -> Tensor:
        """Return float32 (N, 3, crop, crop)."""
        return torch.from_numpy(np.stack([self.preset.preprocessing(load(image)) for image in images])).to(self.device)

    def _compute_image_features(self, images: Sequence[ImageRef]) -> Tensor:
        pixels = self._load_pixels(images)
        tokens = self.model(pixel_values=pixels).last_hidden_state  # (N, 1 + patches, D), after the final norm
        return tokens[:, 0] if self.preset.pooling == "cls" else tokens.mean(dim=1)

    def _embed_in_batches(self, items: Sequence, embed) -> np.ndarray:
        if len(items) == 0:
            raise ValueError("nothing to embed: the sequence is empty")
        with exact_float32(self.device):
            parts = [embed(items[i : i + self.batch_size]) for i in range(0, len(items), self.batch_size)]
        return nn.functional.normalize(torch.cat(parts).float(), dim=1).cpu().numpy()


class ImageTextEncoder(ImageEncoder):
    """A CLIP checkpoint (`CLIPModel`) that embeds images and texts in one space, in float32."""

    presets = CLIP_PRESETS

    def __init__(self, model: nn.Module, tokenizer, preset: Preset, device: str = "cpu", batch_size: int = 64) -> None:
        super().__init__(model, preset, device, batch_size)
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls, path: str | Path, preset: str = "embedded", device: str = "cpu", batch_size: int = 64
    ) -> ImageTextEncoder:
        """Load a checkpoint: a folder or a hub id, such as `openai/clip-vit-base-patch32`.

        Arguments and errors as for `ImageEncoder.from_pretrained`.
        """
        from transformers import CLIPModel

        chosen = preset_of(cls.presets, preset)
        folder = find_folder(path, pickled=True)
        _read_model_type(folder, ("clip",))
        model = load_pretrained(CLIPModel, folder, dtype=torch.float32)
        chosen = chosen.at_size(model.config.vision_config.image_size)
        return cls(model, load_tokenizer(folder), chosen, device, batch_size)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 (N, D), rows of unit length.

        Texts longer than the encoder's context are cut (77 tokens in public CLIPs; Do-Undo's long prompts exceed it).
        """
        return self._embed_in_batches(list(texts), self._compute_text_features)

    def num_cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than the encoder's context, and therefore cut."""
        longest = self.model.config.text_config.max_position_embeddings
        return sum(len(ids) > longest for ids in self.tokenizer(list(texts), truncation=False)["input_ids"])

    def _compute_image_features(self, images: Sequence[ImageRef]) -> Tensor:
        return self.model.get_image_features(pixel_values=self._load_pixels(images)).pooler_output  # (N, D)

    def _compute_text_features(self, texts: Sequence[str]) -> Tensor:
        longest = self.model.config.text_config.max_position_embeddings
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        inputs = {name: inputs[name].to(self.device) for name in ("input_ids", "attention_mask")}
        return self.model.get_text_features(**inputs).pooler_output  # (N, D)


def _read_model_type(folder: Path, known: Sequence[str]) -> str:
    """Return the checkpoint's model type, refusing one that is not in `known`."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no encoder in {folder}: config.json is missing")
    found = read_settings(folder / "config.json").get("model_type")
    if found not in known:
        raise ValueError(f"{folder} is a {found} checkpoint; expected {' or '.join(known)}")
    return found


def _load_dino(path: str | Path) -> nn.Module:
    from transformers import Dinov2Model, ViTModel

    folder = find_folder(path, pickled=True)
    if _read_model_type(folder, _DINO_TYPES) == "dinov2":
        return load_pretrained(Dinov2Model, folder, dtype=torch.float32)
    unused = {r"^(vit\.)?pooler\.": "features are taken before the pooling head"}
    return load_pretrained(ViTModel, folder, unused, add_pooling_layer=False, dtype=torch.float32)
