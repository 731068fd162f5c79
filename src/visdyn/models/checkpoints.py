"""Locating a model's files: a local folder or a hub id, and the base of a LoRA adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from visdyn.models.adapters import SETTINGS, base_of
from visdyn.models.strict_load import load_adapter, load_pretrained, require_finite
from visdyn.models.weight_files import read_settings

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# A hub snapshot leaves out what is never read. Pickled weights (always read with weights_only) are fetched only where
# a repository has no others.
_DOWNLOADED = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "vqgan/*", "*.yaml", "vqgan.ckpt"]
_NOT_DOWNLOADED = ["original/*", "consolidated*", "*.bin", "*.pth"]
_PICKLED = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


@dataclass(frozen=True)
class Checkpoint:
    """The folders of a model.

    Attributes:
        name: last part of the folder's name or of the hub id.
        folder: of the model or of the adapter.
        base: of the model that an adapter adapts; else the same folder.
        base_name: the base as it was named: a folder or a hub id.
    """

    name: str
    folder: Path
    base: Path
    base_name: str

    @property
    def is_adapter(self) -> bool:
        """The folder holds a LoRA adapter (peft), whose decoder is its base's."""
        return (self.folder / SETTINGS).is_file()

    @property
    def model_type(self) -> str | None:
        """The family that config.json names; None where there is no config.json."""
        path = self.base / "config.json"
        return read_settings(path).get("model_type") if path.is_file() else None

    def holder(self, *names: str) -> Path:
        """Return the adapter's folder where it holds a file of one of these names, else the base's."""
        return self.folder if any((self.folder / name).exists() for name in names) else self.base

    def load_lm(self, model_class, dtype, attention: str, device: str, **options):
        """Load the decoder with a class of transformers; an adapter is merged into its base.

        Args:
            dtype: a `torch.dtype` or its name; `auto` is the checkpoint's own.
            attention: `sdpa` or `eager`.

        Raises:
            CheckpointError: the weights are not exactly the model's.
        """
        options |= {"dtype": dtype, "attn_implementation": attention}
        lm = load_pretrained(model_class, self.base, **options)
        lm.name_or_path = self.base_name  # what an adapter trained on it will name: a hub id, not the cache's folder
        if self.is_adapter:
            lm = load_adapter(lm, self.folder).merge_and_unload()
            require_finite(lm, f"{self.base} with {self.folder} merged")
        return lm.to(device).eval()


def locate(name_or_path: str | Path) -> Checkpoint:
    """Find a model's files; what a hub id names is taken from the Hugging Face cache, or downloaded.

    Raises:
        FileNotFoundError: there is no such folder, no such id in reach, or no base of the adapter.
    """
    folder = find_folder(name_or_path)
    if not (folder / SETTINGS).is_file():
        return Checkpoint(Path(name_or_path).name, folder, folder, str(name_or_path))
    name = base_of(folder)
    try:
        base = find_folder(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} adapts {name}, which is no folder beside or above it and cannot be downloaded; put it there"
        ) from error
    return Checkpoint(Path(name_or_path).name, folder, base, name)


def find_folder(name_or_path: str | Path, pickled: bool = False) -> Path:
    """Return the folder of a checkpoint: the one named, or the hub's files of that name, fetched where need be.

    Args:
        pickled: fetch pickled weights of a repository that has no safetensors.

    Raises:
        FileNotFoundError: there is no such folder, and no hub id in reach.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    missing = f"no model at {name_or_path}; run the stage that trains it, or `dvc pull` it"
    if not _HUB_ID.fullmatch(str(name_or_path)):
        raise FileNotFoundError(missing)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        # A snapshot in the cache may be asked for without a network; the download itself checks for what is new.
        name = str(name_or_path)
        found = Path(snapshot_download(name, allow_patterns=_DOWNLOADED, ignore_patterns=_NOT_DOWNLOADED))
        if pickled and not any(found.glob("*.safetensors")):
            found = Path(snapshot_download(name, allow_patterns=[*_DOWNLOADED, *_PICKLED]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"{missing}; as a hub id: `hf download {name_or_path}` ({type(error).__name__})"
        ) from error
    return found
