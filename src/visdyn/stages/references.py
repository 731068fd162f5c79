"""Model folders that only name a checkpoint: `models/base` may be one, so that stages need not know which it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from visdyn.pipeline.stage import REFERENCE


def write_reference(folder: str | Path, name_or_path: str, root: str | Path = ".") -> dict[str, str]:
    """Write `<folder>/reference.json`, which `Stage.reference` follows, and return its content.

    The digest of a local checkpoint's config.json is kept beside the name: DVC sees a checkpoint of another shape under
    the same path. Weights are not hashed (tens of gigabytes); give a changed checkpoint another name.

    Args:
        name_or_path: hub id or local folder.
        root: where a relative folder starts: the profile.

    Raises:
        FileNotFoundError: an absolute path that does not exist.
    """
    path = Path(root) / name_or_path
    if Path(name_or_path).is_absolute() and not path.exists():
        raise FileNotFoundError(f"base_models.references names {name_or_path}, which does not exist; fetch it first")
    content = {"name_or_path": name_or_path}
    configs = [path / name for name in ("config.json", "llm_config.json", "model_index.json")]
    if found := [config for config in configs if config.is_file()]:
        content["config_sha256"] = hashlib.sha256(b"".join(config.read_bytes() for config in found)).hexdigest()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REFERENCE).write_text(json.dumps(content, indent=1) + "\n")
    return content
