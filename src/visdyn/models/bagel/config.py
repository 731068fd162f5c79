"""Sizes and fixed choices of a BAGEL model; the defaults are those of the public 7B checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from math import isqrt

RENORMS = ("global", "channel", "text_channel")


class ConfigError(ValueError):
    """A configuration asks for something that BAGEL is not; the message names the key."""


@dataclass(frozen=True)
class TextConfig:
    """Shape of the language model (Qwen2 with q/k norm and two experts per layer)."""

    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class VisionConfig:
    """Shape of the SigLIP tower. `num_hidden_layers` counts the layers that exist and run (26 of SigLIP's 27)."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 26
    num_attention_heads: int = 16
    image_size: int = 980
    patch_size: int = 14
    num_channels: int = 3
    layer_norm_eps: float = 1e-6

    @property
    def side(self) -> int:
        """Patches along one side of the learned position table."""
        return self.image_size // self.patch_size

    @property
    def patch_dim(self) -> int:
        return self.num_channels * self.patch_size**2


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the FLUX autoencoder. `norm_groups` is 32 in public weights; smaller ones allow narrower networks.

    `in_channels` and `out_ch` are 3, or 3 * p * p where p x p pixels are folded into channels.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    in_channels: int = 3
    out_ch: int = 3
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159
    norm_groups: int = 32

    @classmethod
    def of(cls, values) -> AutoencoderConfig:
        """Translate the configuration of a `diffusers.AutoencoderKL`.

        Raises:
            ConfigError: its levels do not widen by whole factors, or it has quant convolutions.
        """
        widths = tuple(values["block_out_channels"])
        if values["use_quant_conv"] or values["use_post_quant_conv"] or any(width % widths[0] for width in widths):
            raise ConfigError("BAGEL's autoencoder has no quant convolutions, and each level a multiple of the first")
        return cls(
            ch=widths[0],
            ch_mult=tuple(width // widths[0] for width in widths),
            num_res_blocks=values["layers_per_block"],
            z_channels=values["latent_channels"],
            in_channels=values["in_channels"],
            out_ch=values["out_channels"],
            scale_factor=values["scaling_factor"],
            shift_factor=values["shift_factor"] or 0.0,
            norm_groups=values["norm_num_groups"],
        )

    @property
    def fold(self) -> int:
        """Side p of the pixel blocks that are folded into channels.

        Raises:
            ConfigError: `in_channels` is not 3 * p * p.
        """
        side = isqrt(self.in_channels // 3)
        if 3 * side**2 != self.in_channels:
            raise ConfigError(f"vae_config.in_channels is {self.in_channels}; expected 3, or 3 * p * p to fold pixels")
        return side

    @property
    def downsample(self) -> int:
        """Image pixels along one side of a latent."""
        return self.fold * 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids of the four markers; Qwen2.5's by default."""

    bos_token_id: int = 151644
    eos_token_id: int = 151645
    start_of_image: int = 151652
    end_of_image: int = 151653


@dataclass(frozen=True)
class TransformConfig:
    """Limits of an image resize, in pixels."""

    max_image_size: int
    min_image_size: int
    image_stride: int
    max_pixels: int = 14 * 14 * 9 * 1024


@dataclass(frozen=True)
class SamplerSettings:
    """Sampler settings; the defaults are those of the released Do-Undo inference script.

    Attributes:
        num_timesteps: points of the schedule; one fewer evaluations.
        timestep_shift: shift of the schedule towards noise.
        cfg_text_scale, cfg_img_scale: strength of the branch without text and without images; 1 = off.
            As in the reference, image guidance has no effect unless text guidance is on.
        cfg_interval: guidance acts at timesteps lo < t <= hi.
        cfg_renorm_type: `global` (one norm per image), `channel` (per token), `text_channel` (per token, after
            text guidance and before image guidance).
        cfg_renorm_min: smallest factor of the renormalisation.
    """

    num_timesteps: int = 50
    timestep_shift: float = 3.0
    cfg_text_scale: float = 4.0
    cfg_img_scale: float = 2.0
    cfg_interval: tuple[float, float] = (0.4, 1.0)
    cfg_renorm_type: str = "global"
    cfg_renorm_min: float = 0.0

    def __post_init__(self) -> None:
        if self.cfg_renorm_type not in RENORMS:
            raise ValueError(f"cfg_renorm_type is {self.cfg_renorm_type!r}; known are {RENORMS}")


def _public_transforms() -> dict[str, TransformConfig]:
    return {
        "vae": TransformConfig(1024, 512, 16),
        "vit": TransformConfig(980, 224, 14),  # of inference, here as in the authors' script
        "edit_vit": TransformConfig(518, 224, 14),  # of training on edits: upstream trains at another size
        "vlm_vit": TransformConfig(980, 378, 14, 2_007_040),
    }


@dataclass(frozen=True)
class BagelConfig:
    """Everything needed to build a `Bagel`. `vision=None` leaves out the ViT, its connector and its position table."""

    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig | None = field(default_factory=VisionConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    latent_patch_size: int = 2
    max_latent_size: int = 64
    vit_max_num_patch_per_side: int = 70
    timestep_shift: float = 1.0
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)
    transforms: dict[str, TransformConfig] = field(default_factory=_public_transforms)

    @property
    def edit_vit(self) -> TransformConfig:
        """How the ViT sees the sources of edits in training; `vit` where the configuration says nothing of them."""
        return self.transforms.get("edit_vit", self.transforms["vit"])

    @property
    def latent_dim(self) -> int:
        """Channels of one latent token."""
        return self.autoencoder.z_channels * self.latent_patch_size**2

    @property
    def latent_downsample(self) -> int:
        """Image pixels along one side of a latent token."""
        return self.autoencoder.downsample * self.latent_patch_size

    @classmethod
    def from_dict(cls, values: dict) -> BagelConfig:
        """Read the one-file form: `llm_config`, `vit_config` (or null), `vae_config`, `bagel_config`, ...

        Raises:
            ConfigError: a part asks for an option that this implementation does not have.
        """
        bagel = values.get("bagel_config", values)
        check_fixed_choices(values.get("llm_config") or {}, values.get("vit_config") or {}, bagel)
        optional = {name: bagel[name] for name in _SCALARS if name in bagel}
        if values.get("special_tokens"):
            optional["special_tokens"] = _build_dataclass(SpecialTokens, values["special_tokens"])
        if values.get("image_transforms"):
            optional["transforms"] = {
                k: _build_dataclass(TransformConfig, v) for k, v in values["image_transforms"].items()
            }
        vision = values.get("vit_config")
        return cls(
            text=_build_dataclass(TextConfig, values.get("llm_config") or {}),
            vision=None if vision is None else _build_dataclass(VisionConfig, vision),
            autoencoder=_build_dataclass(AutoencoderConfig, values.get("vae_config") or {}),
            **optional,
        )

    def to_dict(self) -> dict:
        """Return the one-file form that `from_dict` reads."""
        return {
            "llm_config": {**asdict(self.text), **_FIXED_TEXT},
            "vit_config": None if self.vision is None else {**asdict(self.vision), **_FIXED_VISION},
            "vae_config": {**asdict(self.autoencoder), "downsample": self.autoencoder.downsample},
            "bagel_config": {**{name: getattr(self, name) for name in _SCALARS}, **_FIXED_BAGEL},
            "special_tokens": asdict(self.special_tokens),
            "image_transforms": {name: asdict(transform) for name, transform in self.transforms.items()},
        }


_SCALARS = ("latent_patch_size", "max_latent_size", "vit_max_num_patch_per_side", "timestep_shift")
_FIXED_TEXT = {"hidden_act": "silu"}
_FIXED_VISION = {"hidden_act": "gelu_pytorch_tanh"}
_FIXED_BAGEL = {"connector_act": "gelu_pytorch_tanh", "interpolate_pos": False}


def check_fixed_choices(text: dict, vision: dict, bagel: dict) -> None:
    """Refuse configurations that BAGEL's public code never uses and this one does not implement."""
    # SigLIP's rope switch and the interpolated positions exist upstream but are off in every released checkpoint.
    fixed = ((text, "llm_config", _FIXED_TEXT), (vision, "vit_config", {**_FIXED_VISION, "rope": False}))
    for values, where, expected in (*fixed, (bagel, "bagel_config", _FIXED_BAGEL)):
        for key, value in expected.items():
            if values.get(key, value) != value:
                raise ConfigError(f"{where}.{key} is {values[key]!r}; only {value!r} is implemented")


def _build_dataclass(kind: type, values: dict):
    """Build a dataclass from the keys it knows; configuration files carry many more."""
    known = {f.name: values[f.name] for f in fields(kind) if values.get(f.name) is not None}
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in known.items()})
