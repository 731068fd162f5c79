"""The token layout: image-token names, look-up by name, the tiny tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from visdyn.models.token.tokens import IMAGE, TokenLayout, build_tokenizer, image_token_name

WORDS = ["open", "Close", "the", "drawer"]


def _tokenizer_of(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")))


def test_image_names_write_digits_as_letters():
    assert image_token_name(0) == "IMGIMGAZ"
    assert image_token_name(37) == "IMGIMGDHZ"
    assert image_token_name(8191) == "IMGIMGIBJBZ"


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 150))
def test_layout_of_the_tiny_tokenizer(num_codes):
    tokenizer = build_tokenizer(WORDS, num_codes)
    layout = TokenLayout.of(tokenizer)
    assert (layout.bos, layout.pad, layout.eos, layout.image_offset) == (0, 1, 2, 4)
    assert layout.num_image_codes == num_codes
    for code in (0, num_codes // 2, num_codes - 1):
        assert tokenizer.convert_tokens_to_ids(image_token_name(code)) == layout.image_offset + code
    specials = {layout.begin_of_image, layout.end_of_image, layout.end_of_turn, tokenizer.convert_tokens_to_ids(IMAGE)}
    assert specials == set(range(4 + num_codes, 8 + num_codes))


def test_text_is_lower_cased_and_comes_back():
    tokenizer = build_tokenizer(WORDS, 4)
    ids = tokenizer.encode("Open the DRAWER", add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "open the drawer"
    assert tokenizer.encode("kettle", add_special_tokens=False) == [tokenizer.unk_token_id]
    assert tokenizer.padding_side == "left"


def test_the_vocabulary_does_not_depend_on_the_order_of_words():
    assert build_tokenizer(WORDS, 4).get_vocab() == build_tokenizer([*reversed(WORDS), "open"], 4).get_vocab()


def test_a_missing_name_is_refused():
    vocabulary = build_tokenizer(WORDS, 4).get_vocab()
    del vocabulary["<racm3:break>"]
    with pytest.raises(ValueError, match="lacks <racm3:break>"):
        TokenLayout.of(_tokenizer_of(vocabulary))


@pytest.mark.parametrize("change", ["swapped", "missing"])
def test_scattered_image_codes_are_refused(change):
    vocabulary = build_tokenizer(WORDS, 6).get_vocab()
    if change == "swapped":
        second, third = image_token_name(2), image_token_name(3)
        vocabulary[second], vocabulary[third] = vocabulary[third], vocabulary[second]
    else:
        vocabulary["gap"] = vocabulary.pop(image_token_name(2))
    with pytest.raises(ValueError, match="image code 2"):
        TokenLayout.of(_tokenizer_of(vocabulary))
