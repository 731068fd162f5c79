"""Readers of the three layouts in which VQGAN weights are found, each giving (VQGANConfig, state dict)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from visdyn.models.vqgan.blocks import VQGANConfig

Checkpoint = tuple[VQGANConfig, dict[str, Tensor]]

# ChameleonVQVAEConfig of transformers -> the public names.
_TRANSFORMERS_NAMES = {
    "base_channels": "ch",
    "channel_multiplier": "ch_mult",
    "num_res_blocks": "num_res_blocks",
    "attn_resolutions": "attn_resolutions",
    "in_channels": "in_channels",
    "resolution": "resolution",
    "latent_channels": "z_channels",
    "dropout": "dropout",
    "num_embeddings": "n_embed",
    "embed_dim": "embed_dim",
}
_TRANSFORMERS_PREFIXES = ("model.vqmodel.", "vqmodel.")
_IGNORED_PREFIXES = ("loss.",)
NO_DECODER = (
    "the official conversion of Chameleon drops them; use an Anole conversion that keeps them, or the public vqgan.ckpt"
)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which file and why."""


def read_checkpoint(path: str | Path, decoder: bool = True) -> Checkpoint:
    """Read a VQGAN's shape and float32 weights.

    Args:
        path: a folder with `config.json` and `weights.safetensors`; the public `vqgan.ckpt` (or a folder holding it)
            with `vqgan.yaml` beside it; or a Chameleon or Anole folder in the transformers layout.
        decoder: refuse a checkpoint that has none.

    Raises:
        FileNotFoundError: no such file or folder.
        CheckpointError: none of the three layouts, or one with a part missing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no VQGAN at {path}; expected a checkpoint folder or the public vqgan.ckpt")
    if path.is_file():
        return _read_public(path)
    if (path / "vqgan.ckpt").is_file():
        return _read_public(path / "vqgan.ckpt")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has neither config.json nor vqgan.ckpt, so it is no VQGAN checkpoint")
    settings = json.loads((path / "config.json").read_text())
    if "ddconfig" in settings:
        return config_from_public(settings, path), _to_float32(load_file(path / "weights.safetensors"))
    if "vq_config" in settings:
        return _config_from_transformers(settings["vq_config"]), _read_transformers(path, decoder)
    raise CheckpointError(f"{path / 'config.json'} has neither ddconfig (VQGAN) nor vq_config (Chameleon)")


def config_to_public(config: VQGANConfig) -> dict:
    """Return the public nesting: `ddconfig`, `n_embed` and `embed_dim`."""
    flat = asdict(config)
    outer = {name: flat.pop(name) for name in ("n_embed", "embed_dim")}
    flat["double_z"] = False
    return {"ddconfig": flat, **outer}


def config_from_public(settings: dict, where: str | Path) -> VQGANConfig:
    """Read the public nesting, refusing what the architecture here does not have."""
    flat = {**settings["ddconfig"], "n_embed": settings["n_embed"], "embed_dim": settings["embed_dim"]}
    if flat.pop("double_z", False):
        raise CheckpointError(f"{where}: double_z is true, which belongs to a VAE, not to a VQGAN")
    known = {field.name for field in fields(VQGANConfig)}
    if unknown := sorted(set(flat) - known):
        raise CheckpointError(f"{where}: unknown VQGAN setting(s) {', '.join(unknown)}")
    return _make_config(flat)


def _make_config(flat: dict) -> VQGANConfig:
    lists = {name: tuple(flat.get(name) or ()) for name in ("ch_mult", "attn_resolutions") if name in flat}
    return VQGANConfig(**{**flat, **lists})


def _config_from_transformers(settings: dict) -> VQGANConfig:
    return _make_config({ours: settings[theirs] for theirs, ours in _TRANSFORMERS_NAMES.items() if theirs in settings})


def _read_public(checkpoint: Path) -> Checkpoint:
    import yaml

    beside = [checkpoint.with_suffix(".yaml"), *sorted(checkpoint.parent.glob("*.yaml"))]
    described = next((candidate for candidate in beside if candidate.is_file()), None)
    if described is None:
        raise CheckpointError(f"{checkpoint} has no yaml beside it; the public vqgan.yaml gives its shape")
    settings = yaml.safe_load(described.read_text())
    settings = settings.get("model", settings)
    loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return config_from_public(settings.get("params", settings), described), _to_float32(
        loaded.get("state_dict", loaded)
    )


def _read_transformers(folder: Path, decoder: bool) -> dict[str, Tensor]:
    weights = {}
    for shard in _list_shards(folder):
        with safe_open(shard, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                if prefix := next((p for p in _TRANSFORMERS_PREFIXES if key.startswith(p)), None):
                    weights[key.removeprefix(prefix)] = file.get_tensor(key)
    if decoder and not any(key.startswith("decoder.") for key in weights):
        raise CheckpointError(f"{folder} holds no model.vqmodel.decoder.* weights: {NO_DECODER}")
    return _to_float32(weights)


def _list_shards(folder: Path) -> Iterable[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    names = json.loads(index.read_text())["weight_map"]
    return sorted({folder / shard for key, shard in names.items() if key.startswith(_TRANSFORMERS_PREFIXES)})


def _to_float32(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float() for key, value in weights.items() if not key.startswith(_IGNORED_PREFIXES)}
