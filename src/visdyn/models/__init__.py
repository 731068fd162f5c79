"""Models of the papers' families, and the one door to them: `load_model`."""

from __future__ import annotations

from pathlib import Path

# model_type in config.json -> the class here; all that understand images and write text only share one.
_UNIFIED = {"chameleon": "visdyn.models.token.unified:UnifiedModel", "gemma": "visdyn.models.token.liquid:LiquidModel"}
_UNDERSTANDING = "visdyn.models.understanding.understanding_model:UnderstandingModel"


def load_model(name_or_path: str | Path, task: str | None = None, device: str = "cpu", **options):
    """Load a model of either paper's token families, or one of its roles.

    By the `model_type` of its config.json: `chameleon` (also Anole) gives a `UnifiedModel`, `gemma` a `LiquidModel`,
    Qwen2-VL, Qwen2.5-VL, Qwen2.5-Omni, LLaVA and LLaVA-Next an `UnderstandingModel`. A folder with a LoRA adapter
    (peft) gives the family of its base, with the adapter merged.

    Args:
        name_or_path: a folder in the `save_pretrained` layout, a folder with an adapter, or a hub id.
        task: None for the model, `idp` for its `InverseDynamics`, `fdp` for its `ForwardDynamics` (of an understanding
            model: the labelled likelihood D2; it cannot sample).
        device: where the model runs.
        options: passed on: `dtype` ("auto", the default, is the checkpoint's own), `attention` (sdpa, eager),
            `batch_size`; of the token models `shared_prefixes`, and of Liquid `vqgan`.

    Raises:
        FileNotFoundError: there is no such folder, and no hub id in reach.
        ValueError: the task, or the family named by its config.json, is unknown.
    """
    from importlib import import_module

    from visdyn.models.checkpoints import locate
    from visdyn.models.understanding.families import FAMILIES

    if task not in (None, "idp", "fdp"):
        raise ValueError(f"unknown task {task!r}; one of idp, fdp or None")
    checkpoint = locate(name_or_path)
    family = checkpoint.model_type
    if family not in _UNIFIED and family not in FAMILIES:
        known = ", ".join([*_UNIFIED, *FAMILIES])
        raise ValueError(
            f"{name_or_path} holds a model of family {family!r}; load_model knows {known}, and "
            "visdyn.models.editors.load_editor knows image editors such as BAGEL"
        )
    module, name = _UNIFIED.get(family, _UNDERSTANDING).split(":")
    model = getattr(import_module(module), name).from_pretrained(name_or_path, device=device, **options)
    return {None: lambda: model, "idp": lambda: model.inverse_dynamics, "fdp": lambda: model.forward_dynamics}[task]()
