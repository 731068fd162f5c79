"""`load_editor`, and the registry of editors that it reads."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch

from visdyn.models.adapters import SETTINGS, base_of
from visdyn.models.editors.protocol import ImageEditor, SamplingEditor
from visdyn.models.protocols import role_of
from visdyn.models.weight_files import read_settings
from visdyn.plugins import make_plugin

# Kind of editor -> an `ImageEditor` with `from_pretrained(folder, device=..., dtype=..., **options)`. The kind of a
# folder is the model_type of its config.json; BAGEL's public folder and diffusers pipelines are known by their files.
# An entry is all the registration a new editor needs.
EDITORS = {
    "bagel": "visdyn.models.editors.bagel_editor:BagelEditor",
    "diffusers": "visdyn.models.editors.diffusers_editors:DiffusersEditor",
}
PIPELINE = "model_index.json"
BAGEL_FILES = ("llm_config.json", "ema.safetensors")


def load_editor(
    name_or_path: str | Path,
    adapter: str | Path | None = None,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    **options,
) -> ImageEditor:
    """Load an image editor.

    Args:
        name_or_path: a folder or a hub id. A folder with `model_index.json` is a diffusers pipeline
            (`DiffusersEditor`); one with BAGEL's files is a `BagelEditor`; one with `adapter_config.json` is a LoRA of
            BAGEL, whose base is looked for beside it and beside the folders above it, or is a hub id; else the
            `model_type` of its config.json names a class of `EDITORS`. One of your own is named as `visdyn.plugins`
            says, such as `my_editor.py:MyEditor`; a `ForwardDynamics` becomes an editor that samples once.
        adapter: a LoRA folder of `train_bagel`, merged into the BAGEL of `name_or_path`.
        device: `cpu`, `cuda` or `cuda:<n>`.
        dtype: of the weights, such as `bfloat16`; None keeps BAGEL's as stored, and takes a pipeline's as
            `DiffusersEditor` has it.
        options: of the editor (`batch_size`, `settings`, `image_size`, ...; `preset`, `size`, `offload`, ...).

    Raises:
        FileNotFoundError: there is no such folder, or a part of it is missing.
        ValueError: the folder holds something else, or an adapter was given for something that is no BAGEL.
    """
    made = (make_plugin(group, name_or_path, device=device, dtype=dtype, **options) for group in ("editors", "models"))
    if (own := next((one for one in made if one is not None), None)) is not None:
        return own if hasattr(own, "edit") else SamplingEditor(role_of(own, "fdp"))
    kind = _detect_kind(name_or_path)
    if kind == "adapter":
        if adapter is not None:
            raise ValueError(f"{name_or_path} is an adapter itself; give its base first, or leave `adapter` out")
        kind, name_or_path, adapter = "bagel", base_of(Path(name_or_path)), name_or_path
    if adapter is not None:
        if kind != "bagel":
            raise ValueError(f"{name_or_path} is an editor of kind {kind!r}; adapters are loaded into BAGEL only")
        options["adapter"] = adapter
    if kind != "bagel" and options.get("think"):
        raise ValueError(
            f"{name_or_path} is an editor of kind {kind!r}; only BAGEL thinks: take `think` out of its entry"
        )
    module, name = EDITORS[kind].split(":")
    editor = getattr(import_module(module), name)
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return editor.from_pretrained(name_or_path, device=device, dtype=dtype, **options)


def _detect_kind(name_or_path: str | Path) -> str:
    """Detect what a folder, or a repository of the hub, holds: `adapter`, or a kind of `EDITORS`."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return _detect_kind_on_hub(str(name_or_path))
    if (folder / SETTINGS).is_file():
        return "adapter"
    if (folder / PIPELINE).is_file():
        return "diffusers"
    described = folder / "config.json"
    family = read_settings(described).get("model_type") if described.is_file() else None
    if family in EDITORS:
        return family
    if any((folder / name).is_file() for name in BAGEL_FILES):
        return "bagel"
    raise ValueError(
        f"{folder} holds no editor: expected {PIPELINE} (diffusers), {SETTINGS} (a LoRA of BAGEL), BAGEL's "
        f"{' and '.join(BAGEL_FILES)}, or a model type of EDITORS ({', '.join(EDITORS)}); found {family!r}"
    )


def _detect_kind_on_hub(name: str) -> str:
    """Detect a diffusers pipeline or a BAGEL from the files of a hub repository."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, OfflineModeIsEnabled

    if name.count("/") != 1 or name.startswith((".", "/")):
        raise FileNotFoundError(f"no editor at {name}; run the stage that trains it, or give a hub id <owner>/<name>")
    for file, kind in ((PIPELINE, "diffusers"), ("llm_config.json", "bagel")):
        try:
            hf_hub_download(name, file)
            return kind
        except (EntryNotFoundError, HFValidationError, OfflineModeIsEnabled, OSError):
            continue
    raise FileNotFoundError(
        f"{name} is no folder, and as a hub id it is out of reach or holds neither {PIPELINE} nor llm_config.json; "
        f"`hf download {name} --local-dir <folder>` where there is a network, then give the folder"
    )
