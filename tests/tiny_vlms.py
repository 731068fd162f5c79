"""Tiny random models of the probed understanding families, saved as their public checkpoints lie on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}IMAGE"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for m in messages %}[INST] {% for c in m.content %}{% if c.type == 'image' %}<image>\n"
    "{% else %}{{ c.text }}{% endif %}{% endfor %} [/INST]{% endfor %}"
)
QWEN_NAMES = ["<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
QWEN_NAMES += ["<|video_pad|>"]
OMNI_NAMES = ["<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|vision_bos|>", "<|vision_eos|>", "<|IMAGE|>"]
OMNI_NAMES += ["<|VIDEO|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
LLAVA_NAMES = ["</s>", "<pad>", "<s>", "<image>"]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
WINDOWED_VISION = {"hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "window_size": 16}
WINDOWED_VISION |= {"fullatt_block_indexes": [1], "depth": 2, "num_heads": 2, "patch_size": 4}
PLAIN_VISION = {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, "depth": 2, "num_heads": 2, "patch_size": 4}
DEEPSTACK_VISION = {"hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "depth": 2, "num_heads": 2}
DEEPSTACK_VISION |= {"patch_size": 4, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
QWEN_FAMILIES = {
    "qwen2_vl": ("Qwen2VL", PLAIN_VISION),
    "qwen2_5_vl": ("Qwen2_5_VL", WINDOWED_VISION),
    "qwen3_vl": ("Qwen3VL", DEEPSTACK_VISION),
    "qwen3_vl_moe": ("Qwen3VLMoe", DEEPSTACK_VISION),
}
QWEN3_TEXT = {"head_dim": 16, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}


def save_tiny(name: str, path: Path, answer: str | None = None) -> Path:
    """Save a tiny random checkpoint of the family `name` (a `model_type`) into an existing folder.

    With `answer`, one of a Qwen family whose only answer is this text, whatever it is asked and shown.

    As in public folders, the processor's template lies in chat_template.json while the tokenizer's own knows no
    images; the generation config asks for a repetition penalty; and Qwen2.5-Omni holds more than the thinker.
    """
    torch.manual_seed(0)
    build = {"qwen2_5_omni": _omni, "qwen2_5_omni_thinker": _omni, "llava": _interleave, "llava_next": _next}
    model, tokenizer, processor, template = build[name]() if name in build else _qwen(name, answer)
    _sharpen(model)
    if answer is not None:
        _answer_always(model, tokenizer)
    model.generation_config.repetition_penalty = 3.0
    for part in (model, tokenizer, processor):
        part.save_pretrained(path)
    (path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    edit(path / "tokenizer_config.json", chat_template="{{ 'a template for text alone' }}")
    if name == "qwen2_5_omni":
        _nest_thinker(path)
    return path


def edit(path: Path, **changes) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def byte_tokenizer(names: list[str], bos: str | None = None, phrase: str | None = None):
    """Build a tokenizer of one token a byte; `names` are special tokens, the first two being eos and pad.

    Its last token is `phrase`, where one is given: text is never encoded as it, but a model can write it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    phrases = [] if phrase is None else [whole.pre_tokenize_str(phrase)[0][0]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: i for i, name in enumerate([*letters, *names, *phrases])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos is not None:  # as of a Llama tokenizer, which puts the bos before a prompt by itself
        pieces = {"single": f"{bos} $A", "special_tokens": [(bos, vocabulary[bos])]}
        tokenizer.post_processor = processors.TemplateProcessing(**pieces)
    special = {"eos_token": names[0], "pad_token": names[1], "bos_token": bos, "additional_special_tokens": names[2:]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _text(tokenizer, **more) -> dict:
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    return {**SHAPE, "vocab_size": len(tokenizer), "num_key_value_heads": 1, **ids, **more}


def _qwen_processor():
    from transformers import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(patch_size=4, min_pixels=64, max_pixels=768)


def _qwen(name: str, answer: str | None = None):
    """Qwen2-VL, Qwen2.5-VL or Qwen3-VL, with tied embeddings as of their smaller sizes."""
    import transformers

    tokenizer = byte_tokenizer(QWEN_NAMES, phrase=answer)
    prefix, vision = QWEN_FAMILIES[name]
    rope = MROPE | ({"mrope_interleaved": True} if "3" in name else {})
    ids = dict(zip(QWEN_NAMES, tokenizer.convert_tokens_to_ids(QWEN_NAMES), strict=True))
    config = getattr(transformers, f"{prefix}Config")(
        text_config=_text(tokenizer, rope_parameters=rope, **(QWEN3_TEXT if "3" in name else {})),
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = getattr(transformers, f"{prefix}ForConditionalGeneration")(config)
    template = QWEN_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return model, tokenizer, _qwen_processor(), template


def _omni():
    """The thinker of Qwen2.5-Omni."""
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    tokenizer = byte_tokenizer(OMNI_NAMES)
    ids = dict(zip(OMNI_NAMES, tokenizer.convert_tokens_to_ids(OMNI_NAMES), strict=True))
    audio = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "d_model": 16, "output_dim": 32}
    names = {"audio_token_index": "<|AUDIO|>", "image_token_index": "<|IMAGE|>", "video_token_index": "<|VIDEO|>"}
    names |= {"audio_start_token_id": "<|audio_bos|>", "audio_end_token_id": "<|audio_eos|>"}
    names |= {"vision_start_token_id": "<|vision_bos|>"}
    config = Qwen2_5OmniThinkerConfig(
        text_config=_text(tokenizer, rope_parameters=MROPE, tie_word_embeddings=False),
        vision_config=WINDOWED_VISION,
        audio_config=audio,
        **{key: ids[name] for key, name in names.items()},
    )
    template = QWEN_TEMPLATE.replace("IMAGE", "<|vision_bos|><|IMAGE|><|vision_eos|>")
    return Qwen2_5OmniThinkerForConditionalGeneration(config), tokenizer, _qwen_processor(), template


def _interleave():
    """LLaVA-Interleave: Qwen2 behind SigLIP, which has no class token, and all of its features are kept."""
    import transformers

    tokenizer = byte_tokenizer(LLAVA_NAMES)
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(**SHAPE, image_size=16, patch_size=8),
        text_config=transformers.Qwen2Config(**_text(tokenizer, tie_word_embeddings=False)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    return transformers.LlavaForConditionalGeneration(config), tokenizer, processor, LLAVA_TEMPLATE


def _next():
    """LLaVA-Next: Mistral behind CLIP, whose class token is dropped; tiles of a size that depends on the image."""
    import transformers

    tokenizer = byte_tokenizer(LLAVA_NAMES, bos="<s>")
    pinpoints = {"image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]]}
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**SHAPE, image_size=16, patch_size=8),
        text_config=transformers.MistralConfig(
            **_text(tokenizer, tie_word_embeddings=False), sliding_window=None, head_dim=16
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **pinpoints,
    )
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    processor = transformers.LlavaNextImageProcessorPil(**sizes, **pinpoints)
    return transformers.LlavaNextForConditionalGeneration(config), tokenizer, processor, LLAVA_TEMPLATE


@torch.no_grad()
def _sharpen(model) -> None:
    """Draw larger weights: with the library's initial ones a score hardly depends on the images, and tests see less."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    model.get_output_embeddings().weight.mul_(2)


@torch.no_grad()
def _answer_always(model, tokenizer) -> None:
    """Make the model write the tokenizer's last token after a newline, and then the end.

    Its blocks add nothing, so that each token alone says what follows: embeddings, tied with the head, do it.
    """
    for name, parameter in model.named_parameters():
        if "language_model" in name and ("o_proj" in name or "down_proj" in name):
            parameter.zero_()
    table = model.get_input_embeddings().weight
    table.mul_(0.01)
    newline, phrase = tokenizer.encode("\n")[-1], len(tokenizer) - 1
    for token, (first, second) in {newline: (1, 0), phrase: (10, 1), tokenizer.eos_token_id: (0, 200)}.items():
        table[token] = 0
        table[token, :2] = torch.tensor([first, second], dtype=table.dtype)


def _nest_thinker(path: Path) -> None:
    """Turn a thinker's folder into the public layout: its config inside the whole model's, other parts beside it."""
    settings = json.loads((path / "config.json").read_text())
    whole = {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "thinker_config": settings}
    (path / "config.json").write_text(json.dumps(whole))
    weights = {f"thinker.{key}": value for key, value in load_file(path / "model.safetensors").items()}
    assert any(key.startswith("thinker.model.layers.0.") for key in weights)
    save_file({**weights, "talker.model.norm.weight": torch.ones(4)}, path / "model.safetensors", {"format": "pt"})
