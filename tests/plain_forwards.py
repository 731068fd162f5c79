"""One unpadded forward of the library for each sequence: what every shortcut of scoring is compared with."""

from __future__ import annotations

import torch


def plain_inputs(model, text: str, pictures: list) -> dict:
    """Inputs of one sequence by the library's own processor, or, where that needs torchvision, by Qwen's formula."""
    from transformers import LlavaNextProcessor, LlavaProcessor

    tokenizer, processor, config = model.chat.tokenizer, model.image_processor, model.lm.config
    if config.model_type.startswith("llava"):
        kind = LlavaNextProcessor if config.model_type == "llava_next" else LlavaProcessor
        strategy = {"vision_feature_select_strategy": config.vision_feature_select_strategy}
        tokens = {"num_additional_image_tokens": int(config.vision_feature_select_strategy == "default")}
        library = kind(processor, tokenizer, patch_size=8, **strategy, **tokens)
        return dict(library(images=pictures, text=text, return_tensors="pt"))
    inputs = dict(processor(images=pictures, return_tensors="pt"))
    placeholder = tokenizer.convert_ids_to_tokens(config.image_token_id)
    first, *rest = text.split(placeholder)
    marks = [placeholder * int(grid.prod() // 4) for grid in inputs["image_grid_thw"]]
    text = first + "".join(f"{these}{after}" for these, after in zip(marks, rest, strict=True))
    inputs |= dict(tokenizer(text, return_tensors="pt"))
    if "omni" not in config.model_type:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == config.image_token_id).int()
    return inputs


@torch.inference_mode()
def plain(model, text: str, pictures: list, answer: str) -> torch.Tensor:
    """Log-probabilities of an answer's tokens by one unpadded forward of the library, the answer being text too."""
    inputs = plain_inputs(model, text + answer, pictures)
    logits = model.lm(**inputs).logits[0].log_softmax(-1)
    count = len(model.chat.tokenizer.encode(answer, add_special_tokens=False))
    targets = inputs["input_ids"][0, -count:]
    return logits[-count - 1 : -1].gather(1, targets[:, None])[:, 0]


def mark(name: str) -> str:
    if name.startswith("llava"):
        return "<image>\n"
    return "<|vision_bos|><|IMAGE|><|vision_eos|>" if "omni" in name else "<|vision_start|><|image_pad|><|vision_end|>"


def rendered(name: str, num_images: int, text: str) -> str:
    """The prompt as the family's public template writes it."""
    marks = mark(name) * num_images
    if name.startswith("llava"):
        return f"[INST] {marks}{text} [/INST]"
    return f"<|im_start|>user\n{marks}{text}<|im_end|>\n<|im_start|>assistant\n"


@torch.inference_mode()
def plain_interleaved(model, text: str, pictures: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of every token after the first, and which of them are placeholders of the last image."""
    inputs = plain_inputs(model, text, pictures)
    logits = model.lm(**inputs).logits[0, :-1].log_softmax(-1)
    ids = inputs["input_ids"][0, 1:]
    marks = (ids == model.chat.placeholder).nonzero()[:, 0]
    return logits.gather(1, ids[:, None])[:, 0], marks[len(marks) // 2 :]


@torch.inference_mode()
def plain_tokens(model, item, scored: slice, block: slice = slice(None)) -> torch.Tensor:
    """Log-probabilities of the scored tokens of a token model's sequence, renormalised over a block."""
    ids = torch.tensor([[*item.prompt, *item.completion]])
    logits = model.lm(input_ids=ids).logits[0, :-1, block].log_softmax(-1)
    targets = ids[0, 1:] - (block.start or 0)
    rows = torch.arange(len(targets))[len(item.prompt) - 1 :][scored]
    return logits[rows, targets[rows]]
