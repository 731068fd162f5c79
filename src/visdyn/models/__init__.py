"""Models of the papers' families, and the one door to them: `load_model`."""

from __future__ import annotations

import json
from pathlib import Path


def load_model(name_or_path: str | Path, task: str | None = None, **options):
    """Load a unified model, or one of its roles.

    Args:
        name_or_path: a folder in the `save_pretrained` layout.
        task: None for the `UnifiedModel`, `idp` for its `InverseDynamics`, `fdp` for its `ForwardDynamics`.
        options: passed on (`device`, `attention`).

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the task, or the family named by its config.json, is unknown.
    """
    from visdyn.models.unified import UnifiedModel

    if not Path(name_or_path).is_dir():
        raise FileNotFoundError(f"no model at {name_or_path}; run the stage that trains it, or `dvc pull` it")
    if task not in (None, "idp", "fdp"):
        raise ValueError(f"unknown task {task!r}; one of idp, fdp or None")
    config = Path(name_or_path) / "config.json"
    family = "chameleon"  # of an adapter, whose folder has no config.json
    if config.is_file():
        family = json.loads(config.read_text()).get("model_type")
    if family != "chameleon":
        raise ValueError(f"{name_or_path} holds a model of family {family!r}; load_model knows chameleon")
    model = UnifiedModel.from_pretrained(name_or_path, **options)
    return {None: model, "idp": model.inverse_dynamics, "fdp": model.forward_dynamics}[task]
