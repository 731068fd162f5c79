"""The tokenizer of the embedded BAGEL: byte-pair merges over a small corpus that may cross spaces.

A public BAGEL has Qwen2.5's tokenizer. Here a prompt of fifty words is mostly turns of phrase that come again
and again; with merges that cross spaces they become a dozen tokens, and a training step costs a third. Nouns stay
whole tokens of their own, so that what a prompt is about never hides inside a longer token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MARKERS = ("[pad]", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
LETTERS = " .,'-abcdefghijklmnopqrstuvwxyz0123456789"


def phrase_tokenizer(texts: Iterable[str], vocab_size: int, whole: Sequence[str] = ()):
    """Learn a tokenizer, a `transformers.PreTrainedTokenizerFast` with BAGEL's four markers.

    Texts are lower-cased. Any text of `LETTERS` can be read, letter by letter if need be; other characters are left
    out.

    Args:
        texts: the corpus; each text begins with a space, as words inside a text do.
        vocab_size: most tokens, markers and letters included.
        whole: words, or groups of words, that no merge may take in or cut.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(f"[^{re.escape(LETTERS)}]"), ""), normalizers.Prepend(" ")]
    )
    if whole:
        longest_first = sorted(map(str.lower, whole), key=lambda words: (-len(words), words))
        pattern = "|".join(re.escape(f" {words}") for words in longest_first)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"({pattern})(?!\w)"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(MARKERS), initial_alphabet=list(LETTERS), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=MARKERS[0])
