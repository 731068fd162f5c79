"""The papers' diffusion baselines as image editors: InstructPix2Pix, FLUX Kontext and Qwen-Image-Edit, by diffusers.

`DiffusersEditor.from_pretrained(folder or hub id)` takes the pipeline class from model_index.json and answers
`visdyn.models.editors.protocol.ImageEditor`. Items are edited one at a time, each with its own CPU generator: a result
depends neither on the other items nor on which device draws the noise (float rounding differs between devices).

Neither paper prints the settings its baselines ran with; a preset is what the model's authors publish, and says where.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from visdyn.images import ImageRef, load
from visdyn.models.editors.protocol import Guidance, check_items
from visdyn.models.strict_load import load_pipeline, load_processor

PIX2PIX, KONTEXT = "StableDiffusionInstructPix2PixPipeline", "FluxKontextPipeline"
QWEN, QWEN_PLUS = "QwenImageEditPipeline", "QwenImageEditPlusPipeline"
SIZES = ("native", "source")


@dataclass(frozen=True)
class Preset:
    """The settings of a pipeline's call.

    Attributes:
        name: goes into the results.
        pipeline: class in diffusers.
        steps: of the sampler.
        text: guidance scale of the text: classifier-free, or the number given to a distilled model (Kontext).
        source: where the settings come from.
        image: guidance scale of the image; InstructPix2Pix only.
        negative: negative prompt, without which Qwen's guidance is off.
        scheduler: class in diffusers that replaces the folder's; None keeps it.
        resolution: long side in pixels that sources are brought to; InstructPix2Pix only.
    """

    name: str
    pipeline: str
    steps: int
    text: float
    source: str
    image: float | None = None
    negative: str | None = None
    scheduler: str | None = None
    resolution: int | None = None

    def __post_init__(self) -> None:
        if (self.image is None) == (self.pipeline == PIX2PIX):
            raise ValueError(f"preset {self.name}: an image scale belongs to InstructPix2Pix, which needs one")


# The first preset of a pipeline is its default. AURORA's and MagicBrush's checkpoints are InstructPix2Pix pipelines.
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("instruct-pix2pix", PIX2PIX, 100, 7.5,
               "edit_cli.py of timothybrooks/instruct-pix2pix at 0dffd1e (k-diffusion's Euler ancestral sampler)",
               image=1.5, scheduler="EulerAncestralDiscreteScheduler", resolution=512),
        Preset("flux-kontext", KONTEXT, 30, 2.5, "src/flux/cli_kontext.py of black-forest-labs/flux at 802fb47"),
        Preset("flux-kontext-diffusers", KONTEXT, 28, 3.5, "defaults of FluxKontextPipeline in diffusers 0.42"),
        Preset("qwen-image-edit", QWEN, 50, 4.0, "README of QwenLM/Qwen-Image at 0a83598", negative=" "),
        Preset("qwen-image-edit-2509", QWEN_PLUS, 40, 4.0, "README of QwenLM/Qwen-Image at 0a83598", negative=" "),
        Preset("qwen-image-edit-2509-diffusers", QWEN_PLUS, 50, 4.0,
               "defaults of QwenImageEditPlusPipeline in diffusers 0.42", negative=" "),
    )
}  # fmt: skip


class DiffusersEditor:
    """An `ImageEditor` over a loaded pipeline; see `from_pretrained`.

    Attributes:
        flagged: how many images the pipeline's safety checker has blacked out so far.
        unmeasured: how many had pixels that are no numbers.
    """

    def __init__(self, pipeline, preset: Preset, size: str = "native", call: Mapping[str, Any] | None = None) -> None:
        if size not in SIZES:
            raise ValueError(f"unknown size {size!r}; one of {', '.join(SIZES)}")
        if type(pipeline).__name__ != preset.pipeline:
            raise ValueError(f"preset {preset.name} is for {preset.pipeline}, not for {type(pipeline).__name__}")
        self.pipeline, self.preset, self.size, self.call = pipeline, preset, size, dict(call or {})
        self.flagged = self.unmeasured = 0
        pipeline.set_progress_bar_config(disable=True)
        if preset.scheduler:
            pipeline.scheduler = _get_diffusers_class(preset.scheduler).from_config(pipeline.scheduler.config)
        if preset.pipeline in (QWEN, QWEN_PLUS):
            _add_token_types(pipeline)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        preset: str | Preset | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        size: str = "native",
        call: Mapping[str, Any] | None = None,
        offload: bool = False,
        **options,
    ) -> DiffusersEditor:
        """Load a pipeline in diffusers' layout.

        Args:
            folder: folder with model_index.json, or a hub id.
            preset: name in `PRESETS` or a `Preset`; None takes the pipeline's first.
            device: None takes a GPU where there is one.
            dtype: None takes bfloat16 on a GPU and float32 on a CPU.
            size: `native` leaves images as the pipeline gives them (Kontext and Qwen: about a megapixel); `source`
                brings them back to their source's size with PIL's bicubic filter.
            call: further arguments of the pipeline's call, which go before the preset's.
            offload: keep only the component at work on the GPU (needs accelerate): Kontext's 34 GB and Qwen's 58 GB
                in bfloat16 then fit smaller cards.
            options: passed to the pipeline's own `from_pretrained`, such as `variant`, or `safety_checker=None`.

        Raises:
            FileNotFoundError: there is no model_index.json.
            ValueError: the pipeline is none of the four, the preset is unknown or another pipeline's, or weights are
                not exactly those of its parts.
        """
        name, named = _read_pipeline_class(folder), str(folder)
        folder = _find_files(folder, options.get("variant"))
        chosen = preset if isinstance(preset, Preset) else _find_preset(preset, name)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
        if name in (QWEN, QWEN_PLUS) and importlib.util.find_spec("torchvision") is None:
            options.setdefault("processor", _load_processor_without_video(folder))
        pipeline = load_pipeline(_get_diffusers_class(name), folder, dtype=dtype, **options)
        pipeline.register_to_config(_name_or_path=named)  # a hub id, not the cache's folder
        if offload:
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.to(device)
        return cls(pipeline, chosen, size, call)

    def edit(
        self,
        sources: Sequence[ImageRef | None],
        prompts: Sequence[str | None],
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> list[np.ndarray | None]:
        """See `ImageEditor.edit`; None stands for what the safety checker blacked out, and for what is NaN or infinite.

        Of `guidance`, only the scales exist here, in the pipeline's own formula. InstructPix2Pix takes `text` and
        `image` (its equation 3); Kontext `text` as its distilled guidance; Qwen `text` as classifier-free guidance with
        its own renorm. Only Kontext generates without a source.

        Raises:
            ValueError: lists of different length, no step, a source that is needed, or guidance the pipeline lacks.
        """
        check_items(sources, prompts, seeds)
        steps = self.preset.steps if steps is None else steps
        if steps < 1:
            raise ValueError(f"an edit needs at least one sampling step, not {steps}")
        scales = self._guidance_arguments(guidance)
        return [self._edit_one(*item, steps, scales) for item in zip(sources, prompts, seeds, strict=True)]

    def describe(self) -> dict:
        """Return what a result made with this editor must say: model, settings, their source, library versions."""
        import diffusers
        import transformers

        preset, pipeline = self.preset, self.pipeline
        return {
            "model": str(pipeline.config._name_or_path), "preset": preset.name, "pipeline": preset.pipeline,
            "steps": preset.steps, "text_guidance": preset.text, "image_guidance": preset.image,
            "scheduler": type(pipeline.scheduler).__name__, "size": self.size, "call": dict(self.call),
            "dtype": str(pipeline.dtype).removeprefix("torch."), "source": preset.source,
            "diffusers": diffusers.__version__, "transformers": transformers.__version__,
        }  # fmt: skip

    def _edit_one(self, source, prompt: str | None, seed: int, steps: int, scales: dict[str, Any]) -> np.ndarray | None:
        image = None if source is None else load(source)
        if image is None and self.preset.pipeline != KONTEXT:
            raise ValueError(f"{self.preset.pipeline} edits an image; an item without a source cannot be edited by it")
        given = {
            "prompt": prompt or "",
            "num_inference_steps": steps,
            **self._size_arguments(image),
            **scales,
            **self.call,
        }
        generator = torch.Generator().manual_seed(seed)
        # As numbers: the library's own conversion turns NaN into black.
        output = self.pipeline(**given, generator=generator, output_type="np")
        if any(getattr(output, "nsfw_content_detected", None) or ()):
            self.flagged += 1
            warnings.warn(f"the safety checker blacked out the edit {prompt!r}; there is no image of it", stacklevel=3)
            return None
        pixels = np.asarray(output.images[0])  # (H, W, 3), in [0, 1]
        if pixels.dtype != np.uint8:
            if not np.isfinite(pixels).all():
                self.unmeasured += 1
                warnings.warn(f"the edit {prompt!r} is NaN or infinite; there is no image of it", stacklevel=3)
                return None
            pixels = (pixels * 255).round().astype(np.uint8)
        edited = Image.fromarray(pixels)
        if self.size == "source" and image is not None and edited.size != image.size:
            edited = edited.resize(image.size, Image.Resampling.BICUBIC)
        return np.asarray(edited)

    def _size_arguments(self, image: Image.Image | None) -> dict[str, Any]:
        if self.preset.pipeline == PIX2PIX and self.preset.resolution:
            return {"image": fit_to_64(image, self.preset.resolution)}
        if self.preset.pipeline != KONTEXT:
            return {"image": image}
        # Left alone, diffusers' Kontext makes a square image of any source; the authors' code keeps the shape.
        width, height = kontext_size(*image.size) if image else (1024, 1024)
        return {"image": image, "width": width, "height": height, "max_area": width * height}

    def _guidance_arguments(self, guidance: Guidance | None) -> dict[str, Any]:
        preset = self.preset
        text = preset.text if guidance is None else guidance.text
        image = preset.image if guidance is None else guidance.image
        if guidance is not None and guidance != Guidance(guidance.text, guidance.image):
            raise ValueError(f"{preset.pipeline} has no guidance interval and no choice of renorm; set the scales only")
        if preset.pipeline == PIX2PIX:
            if text > 1 > image:
                raise ValueError(
                    f"InstructPix2Pix drops all guidance at an image scale under 1 ({image}); give 1 or more"
                )
            return {"guidance_scale": text, "image_guidance_scale": image}
        if guidance is not None and guidance.image != 1:
            raise ValueError(f"{preset.pipeline} has no image guidance; leave its scale at 1")
        if preset.pipeline == KONTEXT:
            return {"guidance_scale": text}
        # Given a negative prompt that it will not use, the pipeline warns at every image.
        return {"true_cfg_scale": text, "negative_prompt": preset.negative if text > 1 else None}


def fit_to_64(image: Image.Image, resolution: int = 512) -> Image.Image:
    """Bring an image to InstructPix2Pix's input size: sides are multiples of 64, the long one about `resolution`.

    The centre is kept and the rest cropped, with the Lanczos filter, as in the authors' edit_cli.py.
    """
    width, height = image.size
    # The authors' order of operations: another one rounds some sizes to another multiple.
    factor = resolution / max(image.size)
    factor = math.ceil(min(image.size) * factor / 64) * 64 / min(image.size)
    size = (int(width * factor // 64) * 64, int(height * factor // 64) * 64)
    return ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)


def kontext_size(width: int, height: int) -> tuple[int, int]:
    """Return the width and height nearest in shape among the 17 that Kontext was trained on."""
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

    return min((abs(width / height - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)[1:]


def _get_diffusers_class(name: str):
    import diffusers

    return getattr(diffusers, name)


def _read_pipeline_class(folder: str | Path) -> str:
    import diffusers

    if Path(folder).is_dir() and not (Path(folder) / "model_index.json").is_file():
        raise FileNotFoundError(f"{folder} has no model_index.json; give a pipeline saved in diffusers' layout")
    try:
        name = diffusers.DiffusionPipeline.load_config(str(folder)).get("_class_name")
    except OSError as error:
        message = f"no pipeline at {folder}; give a folder with model_index.json, or a hub id that can be reached"
        raise FileNotFoundError(message) from error
    known = list(dict.fromkeys(preset.pipeline for preset in PRESETS.values()))
    if name not in known:
        raise ValueError(f"{folder} holds a {name}; the editors know {', '.join(known)}")
    return name


def _find_files(folder: str | Path, variant: str | None) -> Path:
    """Return the folder of a pipeline: the one named, or the hub's files of that name, fetched where need be."""
    import diffusers

    if Path(folder).is_dir():
        return Path(folder)
    return Path(diffusers.DiffusionPipeline.download(str(folder), variant=variant))


def _find_preset(name: str | None, pipeline: str) -> Preset:
    if name is None:
        return next(preset for preset in PRESETS.values() if preset.pipeline == pipeline)
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _add_token_types(pipeline) -> None:
    """Pass Qwen's text encoder the mask of image tokens that diffusers leaves out.

    Since transformers 5 it needs `mm_token_type_ids` to give them two-dimensional positions, else it falls back to
    a text's positions without a word; diffusers 0.42 does not pass them (huggingface/diffusers issue 14194).
    """
    encoder = pipeline.text_encoder
    if "mm_token_type_ids" not in inspect.signature(type(encoder).forward).parameters:
        return

    def add_token_types(module, args: tuple, given: dict) -> tuple[tuple, dict]:
        if given.get("image_grid_thw") is None or given.get("mm_token_type_ids") is not None:
            return args, given
        return args, {**given, "mm_token_type_ids": (given["input_ids"] == module.config.image_token_id).int()}

    encoder.register_forward_pre_hook(add_token_types, with_kwargs=True)


def _load_processor_without_video(folder: Path):
    """Load the Qwen-VL processor without its video half, which alone needs torchvision."""
    from transformers import Qwen2VLProcessor
    from transformers.processing_utils import ProcessorMixin

    class ImageTextProcessor(Qwen2VLProcessor):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **_):
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return load_processor(ImageTextProcessor, folder, subfolder="processor")
