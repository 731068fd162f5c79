"""LoRA adapters beside a frozen decoder in few launches: two small products for all maps that read the same states.

peft computes y = W x + s B A x map by map, in four operators beside W x. A decoded token of a 7B model then launches
896 kernels more than of a merged one. Here q, k and v share one A and one block-diagonal B, as do gate and up, and each
W x is added where B A x already stands: two kernels more a group, 256 a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # maps of one module that read the same states


def fuse_adapters(adapted: nn.Module) -> int:
    """Let a peft model compute its adapted linear maps in groups wherever no gradient is asked for.

    Results are peft's up to rounding: in float32 sums are taken in another order; in bfloat16 the scale is rounded into
    B (not at all where it is a power of two), and W x and B A x are added before they are rounded instead of after. The
    model's parameters, what it saves, its adapters' switches and its training stay as they are. The fused factors are
    copies, made now: call this last, when adapters are loaded and on their device (160 MB of a rank of 16 at 7B).

    Args:
        adapted: a model with LoRA of peft, of any number of adapters.

    Returns:
        how many maps are computed so; others (of another kind than a plain LoRA of a linear map) stay peft's.
    """
    count = 0
    for parent in adapted.modules():
        maps = {name: child for name, child in parent.named_children() if _is_plain_lora(child)}
        grouped = [[maps.pop(name) for name in names if name in maps] for names in GROUPS]
        for members in [*grouped, *([child] for child in maps.values())]:
            if members:
                group = _AdapterGroup(members)
                for number, member in enumerate(members):
                    member.forward = _Member(group, number)
                count += len(members)
    return count


def _is_plain_lora(module: nn.Module) -> bool:
    from peft.tuners.lora import Linear

    if type(module) is not Linear or type(module.base_layer) is not nn.Linear:
        return False
    return not (module.lora_variant or module.fan_in_fan_out or any(module.lora_bias.values()))


@dataclass(frozen=True)
class _Factors:
    """One adapter of a group's maps.

    Attributes:
        down: (R, D), their A one below the other.
        up: (O, R), their B times their scale on the diagonal, zero elsewhere.
        places: of a map by its number, its outputs among the O.
    """

    down: torch.Tensor
    up: torch.Tensor
    places: dict[int, slice]

    @classmethod
    def of(cls, maps: Sequence[nn.Module], name: str) -> _Factors:
        numbers = [number for number, one in enumerate(maps) if name in one.lora_A]
        down = torch.cat([maps[number].lora_A[name].weight.detach() for number in numbers])
        scaled = [maps[number].lora_B[name].weight.detach().float() * maps[number].scaling[name] for number in numbers]
        places, end = {}, 0
        for number, block in zip(numbers, scaled, strict=True):
            places[number] = slice(end, end + len(block))
            end += len(block)
        return cls(down, torch.block_diag(*scaled).to(down.dtype), places)


class _AdapterGroup:
    """Maps that read the same states, one after another; what an adapter adds to all of them is computed at the first.

    Attributes:
        read: states of the present pass, until the last map has had its part; waiting: by its number what is added to
            a map that has not been asked yet, (N, its outputs); name: of the adapter.
    """

    def __init__(self, maps: Sequence[nn.Module]) -> None:
        self.maps, self.plain = list(maps), [one.forward for one in maps]
        self.factors = {name: _Factors.of(maps, name) for name in {name for one in maps for name in one.lora_A}}
        self.read, self.name, self.waiting = None, "", {}

    def apply(self, number: int, states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """Return what map `number` makes of `states` (..., D)."""
        layer = self.maps[number]
        names = layer.active_adapters
        factors = self.factors.get(names[0]) if len(names) == 1 else None
        usual = args or kwargs or layer.training or layer.merged or layer.disable_adapters or torch.is_grad_enabled()
        if usual or factors is None or number not in factors.places or states.dtype != factors.down.dtype:
            return self.plain[number](states, *args, **kwargs)
        rows = states.flatten(0, -2)  # (N, D)
        if self.read is not states or self.name != names[0] or number not in self.waiting:
            added = F.linear(F.linear(rows, factors.down), factors.up)  # (N, O)
            self.read, self.name = states, names[0]
            self.waiting = {place: added[:, outputs] for place, outputs in factors.places.items()}
        found = self.waiting.pop(number).addmm_(rows, layer.base_layer.weight.t())
        if not self.waiting:
            self.read = None  # the states are not kept longer than the pass
        if layer.base_layer.bias is not None:
            found.add_(layer.base_layer.bias)
        return found.view(*states.shape[:-1], -1)


class _Member:
    """A map's forward: its group's, by its number."""

    def __init__(self, group: _AdapterGroup, number: int) -> None:
        self.group, self.number = group, number

    def __call__(self, states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return self.group.apply(self.number, states, *args, **kwargs)
