"""`load_model`, and the registry of model families that it reads."""

from __future__ import annotations

from pathlib import Path

# Token models: model_type in config.json -> a subclass of UnifiedModel. This entry is all the registration a new token
# model needs: `load_model` loads it, and two LoRA adapters of it share their base (`models.dynamics_pair`).
TOKEN_MODELS = {
    "chameleon": "visdyn.models.token.unified:UnifiedModel",
    "gemma": "visdyn.models.token.liquid:LiquidModel",
}
# One class serves every family that reads images and writes text only (`models.understanding.families`).
_UNDERSTANDING = "visdyn.models.understanding.understanding_model:UnderstandingModel"


def load_model(name_or_path: str | Path, task: str | None = None, device: str = "cpu", **options):
    """Load a model of either paper's token families, or one of its roles.

    By the `model_type` of its config.json: `chameleon` (also Anole) gives a `UnifiedModel`, `gemma` a `LiquidModel`,
    Qwen2-VL, Qwen2.5-VL, Qwen2.5-Omni, LLaVA and LLaVA-Next an `UnderstandingModel`. A folder with a LoRA adapter
    (peft) gives the family of its base, with the adapter merged. A model of your own that answers as
    `visdyn.models.protocols` asks is named as `visdyn.plugins` says.

    Args:
        name_or_path: a folder in the `save_pretrained` layout, a folder with an adapter, a hub id, or a plug-in such as
            `my_model.py:MyModel`.
        task: None for the model, `idp` for its `InverseDynamics`, `fdp` for its `ForwardDynamics` (of an understanding
            model: the labelled likelihood D2; it cannot sample).
        device: where the model runs.
        options: passed on: `dtype` ("auto", the default, is the checkpoint's own), `attention` (sdpa, eager),
            `batch_size`, `prompts` (`visdyn.params.prompts`); of the token models `shared_prefixes`, and of Liquid
            `vqgan`.

    Raises:
        FileNotFoundError: there is no such folder, and no hub id in reach.
        ValueError: the task, or the family named by its config.json, is unknown.
    """
    from importlib import import_module

    from visdyn.models.checkpoints import locate
    from visdyn.models.protocols import role_of
    from visdyn.models.understanding.families import FAMILIES
    from visdyn.plugins import make_plugin

    if task not in (None, "idp", "fdp"):
        raise ValueError(f"unknown task {task!r}; one of idp, fdp or None")
    if (own := make_plugin("models", name_or_path, device=device, **options)) is not None:
        return own if task is None else role_of(own, task)
    checkpoint = locate(name_or_path)
    family = checkpoint.model_type
    if family not in TOKEN_MODELS and family not in FAMILIES:
        known = ", ".join([*TOKEN_MODELS, *FAMILIES])
        raise ValueError(
            f"{name_or_path} holds a model of family {family!r}; load_model knows {known}, and "
            "visdyn.models.editors.load_editor knows image editors such as BAGEL"
        )
    module, name = TOKEN_MODELS.get(family, _UNDERSTANDING).split(":")
    model = getattr(import_module(module), name).from_pretrained(name_or_path, device=device, **options)
    if task == "idp":
        return model.inverse_dynamics
    if task == "fdp":
        return model.forward_dynamics
    return model
