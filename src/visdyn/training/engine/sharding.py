"""What trains and where it lies: parameters that DeepSpeed has cut apart, their types, and DeepSpeed's file."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from visdyn.models.strict_load import is_finite
from visdyn.paths import repository_root


def trained_parameters(model: nn.Module) -> dict[str, int]:
    """List exactly which parameters train: name and number of elements."""
    return {
        name: getattr(tensor, "ds_numel", tensor.numel())
        for name, tensor in model.named_parameters()
        if tensor.requires_grad
    }


def find_non_finite(model: nn.Module) -> list[str]:
    """Return the names of parameters that train and hold NaN or infinity, of those that DeepSpeed has cut apart this
    rank's part.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return [name for name, value in trained.items() if not is_finite(getattr(value, "ds_tensor", value))]


def widen_trained(model: nn.Module) -> None:
    """Keep what trains in float32, for use under autocast: an update of a few 1e-5 is lost in bfloat16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in model.modules():
        # peft would widen each input to its adapter's type, only for autocast to narrow it again: a fifth more memory.
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def resolve_hardware(hardware: dict) -> dict:
    """Find a DeepSpeed file from the repository's root, whatever the working directory is."""
    path = hardware.get("deepspeed")
    if isinstance(path, str) and not Path(path).is_file():
        return {**hardware, "deepspeed": str(repository_root() / path)}
    return dict(hardware)


def gathered(model: nn.Module, keep: bool, trained_only: bool) -> dict[str, Tensor]:
    """Return parameters on the CPU, one after another put together from all ranks where ZeRO-3 has cut them apart.

    A parameter of two names (tied) is one tensor under both. Every rank must call this; those without `keep` get None.
    """
    state, seen = {}, {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if trained_only and not parameter.requires_grad:
            continue
        if id(parameter) not in seen:
            seen[id(parameter)] = _gather_parameter(parameter, keep)
        state[name] = seen[id(parameter)]
    return state


def _gather_parameter(parameter: nn.Parameter, keep: bool) -> Tensor | None:
    if not hasattr(parameter, "ds_id"):
        return parameter.detach().cpu() if keep else None
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().cpu().clone() if keep else None
