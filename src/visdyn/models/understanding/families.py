"""The models that the paper probes, and the class of transformers for each family of understanding models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from visdyn.models.strict_load import load_processor
from visdyn.models.weight_files import read_settings


@dataclass(frozen=True)
class Family:
    """How transformers loads and calls one family.

    Attributes:
        class_name: the class; of Qwen2.5-Omni only the thinker, which reads images and writes text.
        token_types: its forward wants `mm_token_type_ids` (1 at image placeholders) for its 3D positions.
    """

    class_name: str
    token_types: bool = False


# Keyed by `model_type` in a checkpoint's config.json.
FAMILIES = {
    "qwen2_vl": Family("Qwen2VLForConditionalGeneration", token_types=True),
    "qwen2_5_vl": Family("Qwen2_5_VLForConditionalGeneration", token_types=True),
    "qwen3_vl": Family("Qwen3VLForConditionalGeneration", token_types=True),
    "qwen3_vl_moe": Family("Qwen3VLMoeForConditionalGeneration", token_types=True),
    "llava": Family("LlavaForConditionalGeneration"),
    "llava_next": Family("LlavaNextForConditionalGeneration"),
    "qwen2_5_omni": Family("Qwen2_5OmniThinkerForConditionalGeneration"),
    "qwen2_5_omni_thinker": Family("Qwen2_5OmniThinkerForConditionalGeneration"),
}


@dataclass(frozen=True)
class ProbedModel:
    """One column of the paper's Fig. 2: its name there, a public checkpoint (our reading) and its `model_type`."""

    name: str
    checkpoint: str
    model_type: str


PROBED_MODELS = (
    ProbedModel("Qwen2-VL-2B", "Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl"),
    ProbedModel("Qwen2-VL-7B", "Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl"),
    ProbedModel("Qwen2.5-VL-3B", "Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl"),
    ProbedModel("Qwen2.5-VL-7B", "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
    ProbedModel("LLaVA-Next-7B", "llava-hf/llava-v1.6-mistral-7b-hf", "llava_next"),
    ProbedModel("LLaVA-Interleave", "llava-hf/llava-interleave-qwen-7b-hf", "llava"),
    ProbedModel("Qwen-Omni-3B", "Qwen/Qwen2.5-Omni-3B", "qwen2_5_omni"),
    ProbedModel("Qwen-Omni-7B", "Qwen/Qwen2.5-Omni-7B", "qwen2_5_omni"),
    ProbedModel("Chameleon-7B", "facebook/chameleon-7b", "chameleon"),
)


def family_of(folder: str | Path) -> Family:
    """Return the family that the config.json of a checkpoint's folder names.

    Raises:
        ValueError: its `model_type` is none of `FAMILIES`.
    """
    model_type = read_settings(Path(folder) / "config.json").get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"{folder} is a model of type {model_type!r}; one of {', '.join(FAMILIES)} is needed")
    return FAMILIES[model_type]


def model_class(family: Family):
    """Return the class of transformers that loads a family."""
    import transformers

    return getattr(transformers, family.class_name)


def load_image_processor(folder: str | Path):
    """Load the checkpoint's preprocessing in PIL, which needs no torchvision and is the same on every machine."""
    from transformers import AutoImageProcessor

    return load_processor(AutoImageProcessor, Path(folder), backend="pil")
