"""Words to fixed slots: the tokenizer of the small rectified-flow editor."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, NULL = "[pad]", "[unk]", "[null]"
PAD_ID, UNKNOWN_ID, NULL_ID = 0, 1, 2


def words(text: str) -> list[str]:
    """Return the lower-case words of a text, as the tokenizer sees them (punctuation is a separator)."""
    return re.findall(r"\w+", text.lower())


def build_tokenizer(
    texts: Iterable[str], slots: int = 72, known: Mapping[str, int] | None = None
) -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer from every word of `texts`, in alphabetical order.

    Args:
        texts: all captions and prompts that training will show; other words become [unk], with a warning.
        slots: fixed number of words a text is padded to (`model_max_length`); a longer text is refused.
        known: a vocabulary to extend (`get_vocab()` of an earlier tokenizer): its words keep their ids.

    Returns:
        a tokenizer with ids 0 [pad], 1 [unk], 2 [null] (no text), then the words; `save_pretrained` keeps it.
    """
    from tokenizers import Regex, Tokenizer, normalizers
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    ids = dict(known or {PAD: PAD_ID, UNKNOWN: UNKNOWN_ID, NULL: NULL_ID})
    for word in sorted({word for text in texts for word in words(text)} - ids.keys()):
        ids[word] = len(ids)
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w]+"), " ")])
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[NULL],
        model_max_length=slots,
    )


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str | None]) -> Tensor:
    """Return int64 ids (N, slots), padded with 0; None stands for no text.

    Raises:
        ValueError: a text has no word, or more words than there are slots.
    """
    rows = [[NULL_ID] if text is None else _row(tokenizer, text) for text in texts]
    ids = torch.full((len(rows), tokenizer.model_max_length), PAD_ID, dtype=torch.long)
    for row, own in zip(ids, rows, strict=True):
        row[: len(own)] = torch.tensor(own)
    unknown = sorted(
        {word for text in texts if text is not None for word in words(text)} - tokenizer.get_vocab().keys()
    )
    if unknown:
        warnings.warn(f"words the tokenizer has never seen, read as {UNKNOWN}: {', '.join(unknown[:10])}", stacklevel=2)
    return ids


def _row(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise ValueError(f"prompt {text!r} has no word; pass None for no text")
    if len(ids) > tokenizer.model_max_length:
        raise ValueError(
            f"prompt has {len(ids)} words, the tokenizer {tokenizer.model_max_length} slots: "
            f"shorten it or train with more slots ({text[:60]!r}...)"
        )
    return ids
