"""The folder of a trained editor: config.json, model.safetensors, tokenizer files, and autoencoder/ beside them."""

from __future__ import annotations

from pathlib import Path

from visdyn.models.autoencoder import load_autoencoder
from visdyn.models.flow_editor import FlowEditor


def save_flow_editor(folder: str | Path, model: FlowEditor, tokenizer, autoencoder) -> None:
    """Write a self-contained editor; an existing folder is overwritten file by file."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    autoencoder.save_pretrained(Path(folder) / "autoencoder")


def load_flow_editor(folder: str | Path, device: str = "cpu") -> tuple:
    """Return (model, tokenizer, autoencoder) of a folder that `save_flow_editor` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: the folder or a part of it is missing; the message says which.
    """
    from transformers import PreTrainedTokenizerFast

    folder = Path(folder)
    for part in ("config.json", "model.safetensors", "tokenizer.json", "autoencoder"):
        if not (folder / part).exists():
            raise FileNotFoundError(f"no flow editor in {folder}: {part} is missing; train one or check the path")
    model = FlowEditor.from_pretrained(folder, local_files_only=True).to(device).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return model, tokenizer, load_autoencoder(folder / "autoencoder").to(device).eval()
