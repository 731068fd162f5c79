"""FDM and IDM as two LoRA adapters on one resident base: sampling and verification without loading the base twice.

At 7B a second copy of the decoder costs 13.5 GB; the adapters cost 80 MB each, and 160 MB fused
(`visdyn.models.fused_adapters`). Adapters stay unmerged, because merging and unmerging in bf16 would change the base a
little at every switch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from visdyn.models import TOKEN_MODELS, load_model
from visdyn.models.adapters import SETTINGS
from visdyn.models.checkpoints import Checkpoint, locate
from visdyn.models.fused_adapters import fuse_adapters
from visdyn.models.strict_load import load_adapter
from visdyn.models.token.unified import TokenForwardDynamics, TokenInverseDynamics, UnifiedModel
from visdyn.models.weight_files import read_settings
from visdyn.plugins import find_plugin

ROLES = ("fdp", "idp")
# Decoding multiplies by the rows of these itself, so an adapter of them would be left out.
_NOT_ADAPTED = ("lm_head", "embed_tokens")


class AdaptedLM:
    """A decoder as one of its adapters makes it; every use switches that adapter on first."""

    def __init__(self, adapters, name: str) -> None:
        self._load_adapters, self._name = adapters, name

    def __call__(self, *args, **kwargs):
        return self._activate_adapter()(*args, **kwargs)

    def __getattr__(self, attribute: str):
        return getattr(self._activate_adapter(), attribute)

    def _activate_adapter(self):
        if self._load_adapters.active_adapter != self._name:
            self._load_adapters.set_adapter(self._name)
            self._load_adapters.requires_grad_(False)
        return self._load_adapters.get_base_model()


@dataclass(frozen=True)
class DynamicsPair:
    """A forward and an inverse model over one base; use them in turns, not at the same time from two threads."""

    forward: UnifiedModel
    inverse: UnifiedModel

    @classmethod
    def from_pretrained(cls, forward: str | Path, inverse: str | Path, device: str = "cpu", **options) -> DynamicsPair:
        """Load the base once and both adapters.

        Args:
            forward, inverse: folders of LoRA adapters of one base (`shares_base` says so).
            options: as of `visdyn.models.load_model`.

        Raises:
            ValueError: the two cannot share a base.
        """
        checkpoints = locate(forward), locate(inverse)
        if not _can_share_base(*checkpoints):
            raise ValueError(f"{forward} and {inverse} are not two adapters of one base's linear maps; load each alone")
        base = load_model(checkpoints[0].base, device=device, **options)
        adapters = _load_adapters(base.lm, checkpoints, device)
        forward_lm, inverse_lm = (AdaptedLM(adapters, name) for name in ROLES)
        return cls(_make_role(base, checkpoints[0], forward_lm), _make_role(base, checkpoints[1], inverse_lm))

    @property
    def forward_dynamics(self) -> TokenForwardDynamics:
        return self.forward.forward_dynamics

    @property
    def inverse_dynamics(self) -> TokenInverseDynamics:
        return self.inverse.inverse_dynamics


def shares_base(forward: str | Path, inverse: str | Path) -> bool:
    """Say whether both folders hold LoRA adapters of one token model that can be switched on it."""
    if any(find_plugin("models", one) is not None for one in (forward, inverse)):
        return False
    return _can_share_base(locate(forward), locate(inverse))


def load_dynamics(forward: str | Path, inverse: str | Path, device: str = "cpu", **options):
    """Return the `ForwardDynamics` and the `InverseDynamics` of two folders, over one base where they share it."""
    if shares_base(forward, inverse):
        pair = DynamicsPair.from_pretrained(forward, inverse, device, **options)
        return pair.forward_dynamics, pair.inverse_dynamics
    return load_model(forward, "fdp", device, **options), load_model(inverse, "idp", device, **options)


def _can_share_base(forward: Checkpoint, inverse: Checkpoint) -> bool:
    if not (forward.is_adapter and inverse.is_adapter) or forward.base.resolve() != inverse.base.resolve():
        return False
    return forward.model_type in TOKEN_MODELS and _is_switchable(forward) and _is_switchable(inverse)


def _is_switchable(checkpoint: Checkpoint) -> bool:
    """Say whether an adapter changes linear maps inside the decoder only, which peft can switch on and off."""
    settings = read_settings(checkpoint.folder / SETTINGS)
    targets = settings.get("target_modules") or ()
    names = [targets] if isinstance(targets, str) else list(targets)
    names += settings.get("modules_to_save") or []
    if settings.get("bias", "none") != "none" or settings.get("peft_type") != "LORA":
        return False
    return not any(left in name for name in names for left in _NOT_ADAPTED)


def _load_adapters(lm, checkpoints: tuple[Checkpoint, Checkpoint], device: str):
    # In the decoder's own precision, as merged weights would be.
    options = {"autocast_adapter_dtype": False}
    adapters = lm
    for checkpoint, role in zip(checkpoints, ROLES, strict=True):
        adapters = load_adapter(adapters, checkpoint.folder, role, **options)
    adapters.to(device=device, dtype=lm.dtype).eval().requires_grad_(False)
    fuse_adapters(adapters)
    return adapters


def _make_role(base: UnifiedModel, checkpoint: Checkpoint, lm: AdaptedLM) -> UnifiedModel:
    path = checkpoint.holder("dynamics.json") / "dynamics.json"
    prompts = read_settings(path) if path.is_file() else {}
    prompts.pop("public_pixels", None)
    return replace(base, lm=lm, builder=replace(base.builder, **prompts), name=checkpoint.name)
