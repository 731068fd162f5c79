"""Reading and writing checkpoints: the public folder layout and the one-file form."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, replace
from math import isqrt
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from visdyn.models.bagel.config import BagelConfig, SamplerSettings, SpecialTokens
from visdyn.models.bagel.vae import Autoencoder

WEIGHT_FILES = ("ema.safetensors", "model.safetensors", "weights.safetensors")
INDEX_FILE = "model.safetensors.index.json"
SAMPLING_FILE = "sampler_config.json"
HUB_NAME = "ByteDance-Seed/BAGEL-7B-MoT"
TABLES = ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")


class CheckpointError(ValueError):
    """A checkpoint folder is incomplete or does not fit the model; the message says what to do."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what shape it has, read from a file's header only."""

    file: Path
    shape: tuple[int, ...]


def load(kind: type, folder: Path, dtype: torch.dtype | None, device: torch.device):
    """Build `kind(config)` on the meta device and put the stored tensors in place, one at a time."""
    folder = local_folder(folder)
    stored = read_headers(folder)
    tokenizer = load_tokenizer(folder)
    config = fit_to_weights(read_config(folder, tokenizer), stored)
    with torch.device("meta"):
        model = kind(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_names_and_shapes(folder, expected, stored)
    state = read_tensors(stored, dtype, device)
    model.load_state_dict(state, strict=False, assign=True)
    for name in set(TABLES) & set(expected) - set(state):
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


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Return every stored tensor by name, from one weight file or from the files of an index.

    Raises:
        CheckpointError: no weight file, or one that the index names is missing.
    """
    files = next(([folder / name] for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if files is None and (folder / INDEX_FILE).is_file():
        shards = json.loads((folder / INDEX_FILE).read_text())["weight_map"].values()
        files = [folder / name for name in sorted(set(shards))]
    if files is None:
        names = ", ".join((*WEIGHT_FILES, INDEX_FILE))
        raise CheckpointError(f"{folder} has none of {names}; download the whole checkpoint folder")
    stored = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is named in {INDEX_FILE} but missing; download it")
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                stored[name] = StoredTensor(file, tuple(tensors.get_slice(name).get_shape()))
    return stored


def read_config(folder: Path, tokenizer=None) -> BagelConfig:
    """Return the configuration of a public folder (`llm_config.json`) or of the one-file form (`config.json`)."""
    general = _read_json(folder / "config.json", optional=True)
    if (folder / "llm_config.json").is_file():
        vision = _read_json(folder / "vit_config.json", optional=True) or None
        if vision is not None:
            # The file counts SigLIP's layers; BAGEL takes features before the last and drops it.
            vision = {**vision, "num_hidden_layers": vision.get("num_hidden_layers", 27) - 1}
        general = {**general, "llm_config": _read_json(folder / "llm_config.json"), "vit_config": vision}
    elif "llm_config" not in general:
        raise CheckpointError(f"{folder} has neither llm_config.json nor a config.json with llm_config")
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


def check_names_and_shapes(folder: Path, expected: dict[str, tuple[int, ...]], stored: dict[str, StoredTensor]) -> None:
    """Compare names and shapes strictly; only the fixed position tables may be absent.

    Raises:
        CheckpointError: with the first names that are missing, unknown or of another shape.
    """
    missing = sorted(set(expected) - set(stored) - set(TABLES))
    unknown = sorted(set(stored) - set(expected))
    shapes = [
        f"{name} {stored[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointError(
                f"{folder}: {len(names)} tensors {what}: {', '.join(names[:3])}{more}; "
                "are its weights and its configuration of one model?"
            )


def read_tensors(stored: dict[str, StoredTensor], dtype: torch.dtype | None, device: torch.device) -> dict:
    """Read all tensors, converting each before the next is read."""
    state: dict[str, Tensor] = {}
    for file in sorted({tensor.file for tensor in stored.values()}):
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name)
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
    vae.load_bfl_state(load_file(folder / "ae.safetensors", device=str(device)))
    return vae


def load_tokenizer(folder: Path):
    """Return the folder's tokenizer, or None when it has no tokenizer files."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer, logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that config.json is of a family it does not know
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
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
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); fetch it again") from error


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
