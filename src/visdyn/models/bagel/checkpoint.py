"""Reading and writing checkpoints: the public folder layout and the one-file form."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from math import isqrt
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from visdyn.models.bagel.config import BagelConfig, SamplerSettings, SpecialTokens
from visdyn.models.bagel.vae import Autoencoder
from visdyn.models.strict_load import iterate_tensors, load_state, read_tensors, refuse_names
from visdyn.models.strict_load import load_tokenizer as read_tokenizer
from visdyn.models.weight_files import (
    MOST_PARTS,
    CheckpointError,
    StoredTensor,
    check_counts,
    find_weight_files,
    read_headers,
    read_settings,
    unwrap_names,
)

WEIGHT_STEMS = ("ema", "model", "weights")
SAMPLING_FILE = "sampler_config.json"
HUB_NAME = "ByteDance-Seed/BAGEL-7B-MoT"
TABLES = ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")


def load(kind: type, folder: Path, dtype: torch.dtype | None, device: torch.device):
    """Build `kind(config)` on the meta device and put the stored tensors in place, one at a time."""
    folder = local_folder(folder)
    stored = find_tensors(folder)
    tokenizer = load_tokenizer(folder)
    try:
        config = fit_to_weights(read_config(folder, tokenizer, len(stored)), stored)
        with torch.device("meta"):
            model = kind(config)
    except (AttributeError, ArithmeticError, IndexError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{folder} describes a model that cannot be built: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_names_and_shapes(folder, expected, {name: tensor.shape for name, tensor in stored.items()})
    if dtype is None:
        _check_types(folder, stored)
    load_state(model, read_all(stored, dtype, device), folder, may_lack=TABLES)
    for name in set(TABLES) & set(expected) - set(stored):
        # Fixed tables: upstream fine-tuning leaves them out and computes them again.
        table = getattr(model, name.removesuffix(".pos_embed"))
        table.to_empty(device=device).to(model.vae2llm.weight.dtype).reset()
    for name in TABLES:
        if name in expected:
            getattr(model, name.removesuffix(".pos_embed")).pos_embed.requires_grad_(False)
    model.tokenizer, model.sampling = tokenizer, read_sampling(folder)
    model.vae = load_autoencoder(folder, config, device)
    return model.eval()


def local_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a checkpoint: the one named, or the hub's files of that name, fetched where need be.

    Raises:
        CheckpointError: there is no such folder, and no such repository can be reached.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    name = str(name_or_path)
    advice = f"`hf download {HUB_NAME} --local-dir {name}`"
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise CheckpointError(f"{name} is no folder; {advice}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:  # the hub raises a dozen unrelated kinds
        raise CheckpointError(f"{name} is no folder, and no repository that can be reached; {advice}") from error


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return every stored tensor by name, from one weight file or from the files of an index.

    Raises:
        CheckpointError: no weight file, or one of them is missing, cut or a pointer.
    """
    try:
        files = find_weight_files(folder, WEIGHT_STEMS)
    except FileNotFoundError as error:
        names = ", ".join(f"{stem}.safetensors" for stem in WEIGHT_STEMS)
        raise CheckpointError(f"{folder} has none of {names}; download the whole checkpoint folder") from error
    if files[0].suffix != ".safetensors":
        raise CheckpointError(f"{files[0]} is pickled; BAGEL is read from safetensors")
    stored = read_headers(files)
    return {plain: stored[name] for name, plain in unwrap_names(stored).items()}


def _check_types(folder: Path, stored: dict[str, StoredTensor]) -> None:
    """Refuse weights of several types where none was asked for; the model would fail in its first product."""
    found = {tensor.dtype for name, tensor in stored.items() if name not in TABLES}
    if len(found) > 1 or any(kind.startswith("F8") for kind in found):
        raise CheckpointError(
            f"{folder} holds weights of type {', '.join(sorted(found))}; load it with one type: dtype=torch.bfloat16 "
            "(`dtype: bfloat16` of an editor's entry)"
        )


def read_config(folder: Path, tokenizer=None, tensors: int = MOST_PARTS) -> BagelConfig:
    """Return the configuration of a public folder (`llm_config.json`) or of the one-file form (`config.json`).

    Args:
        tensors: how many are stored; a configuration that asks for far more layers is refused.
    """
    general = _read_json(folder / "config.json", optional=True)
    if (folder / "llm_config.json").is_file():
        vision = _read_json(folder / "vit_config.json", optional=True) or None
        if vision is not None:
            # The file counts SigLIP's layers; BAGEL takes features before the last and drops it.
            vision = {**vision, "num_hidden_layers": vision.get("num_hidden_layers", 27) - 1}
        general = {**general, "llm_config": _read_json(folder / "llm_config.json"), "vit_config": vision}
    elif "llm_config" not in general:
        raise CheckpointError(f"{folder} has neither llm_config.json nor a config.json with llm_config")
    check_counts(general, folder, tensors)
    config = BagelConfig.from_dict(general)
    if "special_tokens" not in general and tokenizer is not None:
        config = replace(config, special_tokens=special_tokens_of(tokenizer))
    return config


def special_tokens_of(tokenizer) -> SpecialTokens:
    """Return the ids that a Qwen2.5 tokenizer gives to BAGEL's four markers.

    Raises:
        CheckpointError: the tokenizer lacks one.
    """
    texts = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
    vocabulary = tokenizer.get_vocab()
    if missing := [text for text in texts if text not in vocabulary]:
        raise CheckpointError(f"the tokenizer lacks {missing}; use the tokenizer files of the BAGEL checkpoint")
    return SpecialTokens(*(vocabulary[text] for text in texts))


def fit_to_weights(config: BagelConfig, stored: dict[str, StoredTensor]) -> BagelConfig:
    """Take the sides of the position tables from the weights where these are stored.

    The public config.json may still carry the code's default of 32 where the weights have 64 (issue 131 upstream:
    images come out as garbage), so the weights decide.
    """
    for name, key in zip(TABLES, ("max_latent_size", "vit_max_num_patch_per_side"), strict=True):
        if name in stored and (side := isqrt(stored[name].shape[0])) != getattr(config, key):
            declared = getattr(config, key)
            warnings.warn(
                f"{key} is {declared} in the configuration, {side} in the weights; using {side}", stacklevel=2
            )
            config = replace(config, **{key: side})
    return config


def check_names_and_shapes(folder: Path, expected: dict[str, tuple], stored: dict[str, tuple]) -> None:
    """Compare names and shapes strictly; only the fixed position tables may be absent.

    Raises:
        CheckpointError: with the first names that are missing, unknown or of another shape.
    """
    shapes = [
        f"{name} {stored[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in stored and stored[name] != shape
    ]
    refuse_names(folder, set(expected) - set(stored) - set(TABLES), set(stored) - set(expected), shapes)


def read_all(stored: dict[str, StoredTensor], dtype: torch.dtype | None, device: torch.device) -> dict[str, Tensor]:
    """Read all tensors, converting each before the next is read."""
    state: dict[str, Tensor] = {}
    for file in sorted({tensor.file for tensor in stored.values()}):
        for name, tensor in iterate_tensors(file, device=str(device)):
            state[name] = tensor if dtype is None else tensor.to(dtype)
    return state


def read_sampling(folder: Path) -> SamplerSettings | None:
    """Return the settings that a folder asks to be sampled with (`sampler_config.json`); public ones ask for none."""
    values = _read_json(folder / SAMPLING_FILE, optional=True)
    if "cfg_interval" in values:
        values["cfg_interval"] = tuple(values["cfg_interval"])
    return SamplerSettings(**values) if values else None


def load_autoencoder(folder: Path, config: BagelConfig, device: torch.device) -> Autoencoder | None:
    """Return the autoencoder of `ae.safetensors`, in float32, or None without that file."""
    if not (folder / "ae.safetensors").is_file():
        return None
    with torch.device("meta"):
        vae = Autoencoder(config.autoencoder)
    vae.load_bfl_state(read_tensors(folder / "ae.safetensors", str(device)), folder / "ae.safetensors")
    return vae


def load_tokenizer(folder: Path):
    """Return the folder's tokenizer, or None when it has no tokenizer files."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    from transformers import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that config.json is of a family it does not know
    try:
        return read_tokenizer(folder)
    finally:
        logging.set_verbosity(verbosity)


def save(model, folder: Path) -> None:
    """Write the public layout; a ViT's `num_hidden_layers` is written one higher, as upstream's file counts."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "ema.safetensors", metadata={"format": "pt"})
    if model.vae is not None:
        save_file(model.vae.bfl_state(), folder / "ae.safetensors", metadata={"format": "pt"})
    values = model.config.to_dict()
    _write_json(folder / "llm_config.json", values["llm_config"])
    if model.config.vision is not None:
        layers = model.config.vision.num_hidden_layers + 1
        _write_json(folder / "vit_config.json", {**values["vit_config"], "num_hidden_layers": layers})
    general = {**values["bagel_config"], "vae_config": asdict(model.config.autoencoder)}
    general |= {name: values[name] for name in ("special_tokens", "image_transforms")}
    _write_json(folder / "config.json", {"model_type": "bagel", **general})
    if model.sampling is not None:
        _write_json(folder / SAMPLING_FILE, asdict(model.sampling))
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)


def _read_json(path: Path, optional: bool = False) -> dict:
    if not path.is_file():
        if optional:
            return {}
        raise CheckpointError(f"{path} is missing; download the whole checkpoint folder")
    return read_settings(path)


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
