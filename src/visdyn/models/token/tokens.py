"""The token layout of Chameleon-style unified models, and a tiny tokenizer with the same layout."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# Names of the public tokenizer; the ids are looked up, never assumed.
BOS, PAD, EOS, UNK = "<s>", "<pad>", "</s>", "<unk>"
END_OF_IMAGE, BEGIN_OF_IMAGE, END_OF_TURN, IMAGE = "<eoss>", "<racm3:break>", "<reserved08706>", "<reserved08707>"


def image_token_name(code: int) -> str:
    """Return the vocabulary name of an image code: digits written as the letters A to J (37 -> `IMGIMGDHZ`)."""
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


@dataclass(frozen=True)
class TokenLayout:
    """Ids of the special tokens and the block of image codes (id = `image_offset` + code)."""

    bos: int
    pad: int
    eos: int
    begin_of_image: int
    end_of_image: int
    end_of_turn: int
    image_offset: int
    num_image_codes: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> TokenLayout:
        """Look the layout up in a tokenizer with Chameleon's names.

        Raises:
            ValueError: a name is missing, or the image codes are not one contiguous ascending block.
        """
        vocabulary = tokenizer.get_vocab()
        names = (BOS, PAD, EOS, BEGIN_OF_IMAGE, END_OF_IMAGE, END_OF_TURN, image_token_name(0))
        if missing := [name for name in names if name not in vocabulary]:
            raise ValueError(f"the tokenizer lacks {', '.join(missing)}: it is not that of a Chameleon-style model")
        first, count = vocabulary[image_token_name(0)], 0
        # Scoring and decoding slice the image codes out of the vocabulary, so they must be one block.
        while vocabulary.get(image_token_name(count)) == first + count:
            count += 1
        if count != sum(re.fullmatch("IMGIMG[A-J]+Z", name) is not None for name in vocabulary):
            raise ValueError(f"image code {count} is not at id {first + count}: codes must be one contiguous block")
        return cls(*(vocabulary[name] for name in names), count)


def build_tokenizer(words: Iterable[str], num_image_codes: int) -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer with Chameleon's layout: bos 0, pad 1, eos 2, unk 3, image codes from 4.

    Args:
        words: text vocabulary; lower-cased, duplicates removed, order kept by sorting.
        num_image_codes: size of the image codebook.
    """
    names = [BOS, PAD, EOS, UNK, *map(image_token_name, range(num_image_codes))]
    specials = [END_OF_IMAGE, BEGIN_OF_IMAGE, END_OF_TURN, IMAGE]
    text = sorted({word.lower() for word in words})
    vocabulary = {name: index for index, name in enumerate([*names, *specials, *text])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, pad_token=PAD, eos_token=EOS, unk_token=UNK, padding_side="left"
    )
