"""The transformers-backed curation model, with a LLaVA of a few thousand random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visdyn.mining.transformers_vlm import TransformersVLM

TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endfor %} ASSISTANT:"
)
IMAGES = [np.zeros((40, 60, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)]


def _tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>", "<image>"]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "additional_special_tokens": ["<image>"]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint whose every answer is the vocabulary's first token, "!": its output weights are zero."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    path, tokenizer = tmp_path_factory.mktemp("llava"), _tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**shape, image_size=28, patch_size=14, projection_dim=16)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = LlamaConfig(**shape, vocab_size=len(tokenizer), num_key_value_heads=2, **ids)
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token)
    )
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    resize = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(resize, tokenizer, 14, "default", chat_template=TEMPLATE, num_additional_image_tokens=1)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.mark.parametrize("count", [1, 2])
def test_the_answer_is_the_new_tokens_alone(folder, count):
    model = TransformersVLM(str(folder), max_new_tokens=6, dtype="float32", device="cpu")
    assert model.answer(IMAGES[:count], "what happens?") == "!" * 6


def test_a_half_precision_model_answers(folder):
    model = TransformersVLM(str(folder), max_new_tokens=2, dtype="bfloat16", device="cpu")
    assert model.answer(IMAGES, "what?") == "!!"


def test_nothing_is_loaded_before_the_first_question():
    model = TransformersVLM("no/such-model")
    assert "no/such-model" in model.name
    assert model._loaded is None


def test_a_processor_that_lacks_a_package_is_explained(monkeypatch):
    import transformers

    def fails(name):
        raise ImportError("needs torchvision")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", fails)
    with pytest.raises(RuntimeError, match="processor of x cannot be built"):
        TransformersVLM("x").answer(IMAGES, "what?")
