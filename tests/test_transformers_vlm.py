"""A VLM of transformers answers batches of questions: tiny models of the papers' families, without torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_vlms import save_tiny

from visdyn.models.understanding.chat import TransformersVLM
from visdyn.models.understanding.inputs import make_query
from visdyn.models.understanding.understanding_model import UnderstandingModel

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "llava")
RANDOM = np.random.default_rng(0)
IMAGES = [RANDOM.integers(0, 255, size, np.uint8) for size in ((16, 24, 3), (16, 16, 3), (24, 16, 3))]
QUESTIONS = [
    (IMAGES[:1], "what?"),
    (IMAGES, "what happens in these images, at some length?"),
    (IMAGES[::-1], "what happens in these images, at some length?"),
    (IMAGES[1:], "is it so?"),
]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    return save_tiny(request.param, path)


def _vlm(folder, **options):
    return TransformersVLM(str(folder), max_new_tokens=6, dtype="float32", **options)


def test_a_batch_gives_each_question_its_own_answer(folder):
    alone = [_vlm(folder).answer_many([question])[0] for question in QUESTIONS]
    assert _vlm(folder).answer_many(QUESTIONS) == alone
    assert _vlm(folder, batch_size=3).answer_many(QUESTIONS) == alone


def test_batched_inputs_give_the_logits_of_the_plain_forward(folder):
    """The plain way: pixels into the model, one sequence, as the processor of transformers would make it."""
    model = UnderstandingModel.from_pretrained(folder, dtype="float32")
    queries = [make_query(model.chat.prompt(len(images), text), (), images) for images, text in QUESTIONS[:3]]
    inputs, _ = model.inputs(queries, padding_side="left")
    with torch.inference_mode():
        batched = model.lm(**inputs).logits[:, -1]
        for row, query in enumerate(queries):
            ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()][None]
            pixels = model.image_processor(images=list(query.images), return_tensors="pt")
            types = {"mm_token_type_ids": (ids == model.chat.placeholder).int()} if model.family.token_types else {}
            plain = model.lm(input_ids=ids, **pixels, **types).logits[0, -1]
            assert (plain - batched[row]).abs().max() < 1e-4


def test_the_name_tells_what_an_answer_depends_on():
    assert TransformersVLM("a").name != TransformersVLM("a", max_new_tokens=5).name
    assert TransformersVLM("a").name == TransformersVLM("a", batch_size=2).name


def test_nothing_is_loaded_before_the_first_question_and_released_memory_is_loaded_again(folder):
    assert TransformersVLM("no/such-model")._model is None
    vlm = _vlm(folder)
    first = vlm.answer_many(QUESTIONS[:1])
    vlm.release()
    assert vlm._model is None
    assert vlm.answer_many(QUESTIONS[:1]) == first
