"""The base model named in a LoRA adapter's settings: written portably, found again after a move or a clone."""

from __future__ import annotations

import json
import os
from pathlib import Path

from visdyn.models.weight_files import read_settings

SETTINGS = "adapter_config.json"


def make_portable(folder: Path, base: str) -> None:
    """Write an adapter's base into its settings: a hub id as it is, a local folder without the path of this machine.

    A local base is named from the closest folder that holds both it and the adapter, for example `models/base`.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return
    settings = read_settings(path)
    settings["base_model_name_or_path"] = base
    if Path(base).is_dir():
        absolute, adapter = Path(base).resolve(), folder.resolve()
        shared = os.path.commonpath([absolute, adapter])
        settings["base_model_name_or_path"] = absolute.relative_to(shared).as_posix()
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def base_of(folder: Path) -> str:
    """Return an adapter's base: the folder of that name beside the adapter or beside a folder above it, or the hub id.

    Raises:
        FileNotFoundError: the adapter's settings name no base.
    """
    name = read_settings(folder / SETTINGS).get("base_model_name_or_path")
    if not name or not isinstance(name, str):
        raise FileNotFoundError(f"{folder / SETTINGS} names no base model; set base_model_name_or_path to its folder")
    for parent in folder.resolve().parents:
        # A folder of that name without a config, such as /tmp/base, holds no model.
        if any((parent / name).glob("*config.json")):
            return str(parent / name)
    return str(name)
