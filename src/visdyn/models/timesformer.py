"""LaViLa's TimeSformer with heads for verbs, nouns and actions, as its checkpoints of EPIC-KITCHENS-100 hold it.

The backbone is a CLIP image transformer to which each block adds attention over time (*Is Space-Time Attention All You
Need*, divided), with the residual of *Frozen in Time*: attention over space reads what attention over time added, and
is itself added to the block's input. Names and shapes are those of the public checkpoints.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from visdyn.models.strict_load import load_state, read_pickle, read_tensors
from visdyn.models.weight_files import CheckpointError

HEAD_WIDTH = 64  # of CLIP's transformers of every size; no tensor's shape says it


@dataclass(frozen=True)
class TimeSformerConfig:
    """Sizes; the defaults are those of `clip_openai_timesformer_large.ft_ek100_cls`.

    Attributes:
        width, depth: of the transformer.
        patch, side: of a patch and of a frame, in pixels.
        frames: of a clip.
        classes: verbs, nouns and actions.
    """

    width: int = 1024
    depth: int = 24
    patch: int = 14
    side: int = 224
    frames: int = 16
    classes: tuple[int, int, int] = (97, 300, 3806)

    @property
    def patches(self) -> int:
        """Patches of a frame."""
        return (self.side // self.patch) ** 2


class _QuickGelu(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values * torch.sigmoid(1.702 * values)


class _DividedAttention(nn.Module):
    """Each patch attends to the class token and to its own frame's patches, or to its own place in every frame."""

    def __init__(self, width: int, patches: int, over_time: bool) -> None:
        super().__init__()
        self.heads, self.patches, self.over_time = width // HEAD_WIDTH, patches, over_time
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, 1 + F * N, D), the class token first, to as many."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        whole = scaled_dot_product_attention(query[:, :, :1], key, value)  # (B, h, 1, d): the class token sees all
        own = scaled_dot_product_attention(self._group(query), *map(self._group_with_class, (key, value)))
        own = own.transpose(2, 3) if self.over_time else own  # (B, h, F, N, d)
        return self.proj(torch.cat([whole, own.flatten(2, 3)], 2).transpose(1, 2).flatten(2))

    def _group(self, part: Tensor) -> Tensor:
        """Split patches (B, h, 1 + F * N, d) into frames (B, h, F, N, d), or into places (B, h, N, F, d)."""
        frames = part[:, :, 1:].unflatten(2, (-1, self.patches))
        return frames.transpose(2, 3) if self.over_time else frames

    def _group_with_class(self, part: Tensor) -> Tensor:
        groups = self._group(part)
        shared = part[:, :, None, :1].expand(-1, -1, groups.shape[2], -1, -1)  # the class token, in each group
        return torch.cat([shared, groups], 3)


class _Block(nn.Module):
    def __init__(self, width: int, patches: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.attn = _DividedAttention(width, patches, over_time=False)
        self.timeattn = _DividedAttention(width, patches, over_time=True)
        parts = {"fc1": nn.Linear(width, 4 * width), "act": _QuickGelu(), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(parts))

    def forward(self, tokens: Tensor) -> Tensor:
        moved = tokens + self.timeattn(self.norm3(tokens))
        seen = tokens + self.attn(self.norm1(moved))  # to the block's input, not to `moved`
        return seen + self.mlp(self.norm2(seen))


class _Backbone(nn.Module):
    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__()
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.patches, width))
        self.temporal_embed = nn.Parameter(torch.zeros(1, config.frames, width))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, config.patch, config.patch, bias=False)))
        self.ln_pre = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(_Block(width, config.patches) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, clips: Tensor) -> Tensor:
        """Map clips (B, 3, F, H, W) to features (B, D)."""
        patches = self.patch_embed(clips.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)  # (B * F, N, D)
        patches = patches.unflatten(0, (len(clips), -1)) + self.pos_embed[:, None, 1:] + self.temporal_embed[:, :, None]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(clips), -1, -1)
        tokens = self.ln_pre(torch.cat([first, patches.flatten(1, 2)], 1))  # (B, 1 + F * N, D)
        return self.norm(self.blocks(tokens))[:, 0]


class TimeSformer(nn.Module):
    """The classifier: `visual`, and the heads `fc_cls` for verbs, nouns and actions."""

    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = _Backbone(config)
        self.fc_cls = nn.ModuleList(nn.Linear(config.width, count) for count in config.classes)

    def forward(self, clips: Tensor) -> tuple[Tensor, ...]:
        """Return logits of verbs, nouns and actions, each (B, classes), of clips float32 (B, 3, F, H, W)."""
        features = self.visual(clips)
        return tuple(head(features) for head in self.fc_cls)


def load_timesformer(path: str | Path) -> TimeSformer:
    """Load a multi-head classifier of EPIC-KITCHENS-100 strictly; its sizes are read from its tensors' shapes.

    Args:
        path: a public `*.pth` (a dictionary with `state_dict`), or a `*.safetensors` of the same names.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: it holds no such classifier, or not exactly its tensors.
    """
    # The public names begin with `module.`, which distributed training has put there.
    weights = {name.removeprefix("module."): value for name, value in _read_weights(Path(path)).items()}
    try:
        with torch.device("meta"):
            model = TimeSformer(_read_config(weights))
        return load_state(model, {name: value.float() for name, value in weights.items()}, path)
    except CheckpointError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no multi-head TimeSformer of EPIC-KITCHENS-100 ({error}); give LaViLa's "
            "clip_openai_timesformer_large.ft_ek100_cls checkpoint"
        ) from error


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no action classifier at {path}; data/external/models.yaml says where it is published")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    weights = read_pickle(path, [argparse.Namespace]).get("state_dict")  # the public file keeps its training's options
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{path} has no state_dict; fetch it again")
    return weights


def _read_config(weights: Mapping[str, Tensor]) -> TimeSformerConfig:
    _, places, width = weights["visual.pos_embed"].shape
    patch = weights["visual.patch_embed.proj.weight"].shape[-1]
    blocks = {int(name.split(".")[2]) for name in weights if name.startswith("visual.blocks.")}
    if blocks != set(range(len(blocks))):
        raise ValueError("its blocks are not counted from 0 on")
    return TimeSformerConfig(
        width=width,
        depth=len(blocks),
        patch=patch,
        side=patch * round((places - 1) ** 0.5),
        frames=weights["visual.temporal_embed"].shape[1],
        classes=tuple(len(weights[f"fc_cls.{head}.bias"]) for head in range(3)),
    )
