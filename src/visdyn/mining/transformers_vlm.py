"""Any image-text-to-text model of transformers (the papers: Qwen2-VL) as the curation's `VisionLanguageModel`."""

from __future__ import annotations

from collections.abc import Sequence

from visdyn import images as image_files
from visdyn.images import ImageRef


class TransformersVLM:
    """Greedy answers of a model loaded by `AutoModelForImageTextToText` and `AutoProcessor`.

    Args:
        name_or_path: hub id or folder, whose processor has a chat template.
        max_new_tokens: longest answer; 300 holds a 120-word prompt with room.
        device: "cuda", "cpu", ...; None takes a GPU where there is one.
        dtype: "auto" (the checkpoint's), "bfloat16", "float32", ...

    Nothing is loaded before the first answer.
    """

    def __init__(
        self, name_or_path: str, max_new_tokens: int = 300, device: str | None = None, dtype: str = "auto"
    ) -> None:
        self.name_or_path, self.max_new_tokens = name_or_path, max_new_tokens
        self.device, self.dtype = device, dtype
        self.name = f"{name_or_path} greedy max_new_tokens={max_new_tokens} dtype={dtype}"
        self._loaded = None

    def answer(self, images: Sequence[ImageRef], prompt: str) -> str:
        """Return the answer to the images, in order, followed by the prompt."""
        import torch

        model, processor = self._load()
        content = [{"type": "image", "image": image_files.load(ref)} for ref in images]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
        inputs = processor.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ).to(model.device, dtype=model.dtype)
        with torch.inference_mode():
            tokens = model.generate(**inputs, do_sample=False, max_new_tokens=self.max_new_tokens)
        answer = tokens[:, inputs["input_ids"].shape[1] :]
        return processor.batch_decode(answer, skip_special_tokens=True)[0].strip()

    def _load(self):
        if self._loaded is None:
            import torch
            from transformers import AutoModelForImageTextToText

            processor = _processor(self.name_or_path)
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            model = AutoModelForImageTextToText.from_pretrained(self.name_or_path, dtype=self.dtype)
            self._loaded = model.to(device).eval(), processor
        return self._loaded


def _processor(name_or_path: str):
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(name_or_path)
    except (ImportError, AttributeError) as error:
        # Qwen2-VL's processor holds a video processor, which needs torchvision; without it this fails obscurely.
        hint = "Qwen-VL processors need torchvision: install it"
        raise RuntimeError(f"the processor of {name_or_path} cannot be built ({error}); {hint}") from error
