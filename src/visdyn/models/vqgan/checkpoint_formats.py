"""Readers of the three layouts in which VQGAN weights are found, each giving (VQGANConfig, state dict)."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

from torch import Tensor

from visdyn.models.strict_load import iterate_tensors, read_pickle, read_tensors
from visdyn.models.vqgan.blocks import VQGANConfig
from visdyn.models.weight_files import CheckpointError, check_counts, find_weight_files, read_settings
from visdyn.yaml_files import YamlError, read_yaml

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
    settings = read_settings(path / "config.json")
    if "ddconfig" in settings:
        weights = read_tensors(find_weight_files(path, ("weights",)))
        return config_from_public(settings, path / "config.json", len(weights)), _to_float32(weights)
    if "vq_config" in settings:
        weights = _read_transformers(path, decoder)
        flat = settings["vq_config"] if isinstance(settings["vq_config"], dict) else {}
        known = {ours: flat[theirs] for theirs, ours in _TRANSFORMERS_NAMES.items() if theirs in flat}
        return _make_config(known, path / "config.json", len(weights)), weights
    raise CheckpointError(f"{path / 'config.json'} has neither ddconfig (VQGAN) nor vq_config (Chameleon)")


def config_to_public(config: VQGANConfig) -> dict:
    """Return the public nesting: `ddconfig`, `n_embed` and `embed_dim`."""
    flat = asdict(config)
    outer = {name: flat.pop(name) for name in ("n_embed", "embed_dim")}
    flat["double_z"] = False
    return {"ddconfig": flat, **outer}


def config_from_public(settings: dict, where: Path, tensors: int) -> VQGANConfig:
    """Read the public nesting, refusing what the architecture here does not have.

    Args:
        where: the file, for messages.
        tensors: how many are stored; a shape that asks for far more layers is refused before it is built.
    """
    try:
        flat = {**settings["ddconfig"], "n_embed": settings["n_embed"], "embed_dim": settings["embed_dim"]}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{where} lacks ddconfig, n_embed or embed_dim, the shape of a VQGAN") from error
    if flat.pop("double_z", False):
        raise CheckpointError(f"{where}: double_z is true, which belongs to a VAE, not to a VQGAN")
    known = {field.name for field in fields(VQGANConfig)}
    if unknown := sorted(map(str, set(flat) - known)):
        raise CheckpointError(f"{where}: unknown VQGAN setting(s) {', '.join(unknown)}")
    return _make_config(flat, where, tensors)


def _make_config(flat: dict, where: Path, tensors: int) -> VQGANConfig:
    check_counts(flat, where, tensors)
    try:
        lists = {name: tuple(flat.get(name) or ()) for name in ("ch_mult", "attn_resolutions") if name in flat}
    except TypeError as error:
        raise CheckpointError(f"{where}: ch_mult and attn_resolutions are lists of numbers") from error
    if len(lists.get("ch_mult", ())) > max(1, tensors):
        raise CheckpointError(f"{where}: ch_mult has more levels than tensors are stored ({tensors})")
    return VQGANConfig(**{**flat, **lists})


def _read_public(checkpoint: Path) -> Checkpoint:
    beside = [checkpoint.with_suffix(".yaml"), *sorted(checkpoint.parent.glob("*.yaml"))]
    described = next((candidate for candidate in beside if candidate.is_file()), None)
    if described is None:
        raise CheckpointError(f"{checkpoint} has no yaml beside it; the public vqgan.yaml gives its shape")
    try:
        settings = read_yaml(described)
        settings = settings.get("model", settings)
        settings = settings.get("params", settings)
    except (YamlError, AttributeError) as error:
        raise CheckpointError(f"{described} is no mapping in YAML ({error}); fetch it again") from error
    loaded = read_pickle(checkpoint)
    weights = loaded.get("state_dict", loaded)
    if not isinstance(weights, dict):
        raise CheckpointError(f"{checkpoint}: its state_dict is no mapping of tensors; fetch it again")
    return config_from_public(settings, described, len(weights)), _to_float32(weights)


def _read_transformers(folder: Path, decoder: bool) -> dict[str, Tensor]:
    weights = {}
    for file in find_weight_files(folder, ("model",)):
        if file.suffix != ".safetensors":
            raise CheckpointError(f"{file} is pickled; a folder with the VQGAN inside needs safetensors")
        for key, tensor in iterate_tensors(file, _TRANSFORMERS_PREFIXES):
            prefix = next(prefix for prefix in _TRANSFORMERS_PREFIXES if key.startswith(prefix))
            weights[key.removeprefix(prefix)] = tensor
    if decoder and not any(key.startswith("decoder.") for key in weights):
        raise CheckpointError(f"{folder} holds no model.vqmodel.decoder.* weights: {NO_DECODER}")
    return _to_float32(weights)


def _to_float32(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tokenizer's own tensors in float32; what else stands there is refused by the strict load."""
    kept = {key: value for key, value in weights.items() if not str(key).startswith(_IGNORED_PREFIXES)}
    return {str(key): value.float() if isinstance(value, Tensor) else value for key, value in kept.items()}
