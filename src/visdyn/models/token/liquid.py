"""Liquid: a plain Gemma whose vocabulary continues with the codes of Chameleon's VQGAN (Wu et al., 2024).

The public checkpoint adds no tokens to Gemma's tokenizer: image code c is the vocabulary id `len(tokenizer)` + c, and
`<boi>`, `<eoi>` and `<unconditional>` take the places of three unused tokens. Images are padded to a square, not
cropped as for Chameleon, so a decoded image carries bars that are cut off before it is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import GemmaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from visdyn.images import ImageRef, load
from visdyn.models.checkpoints import Checkpoint, locate
from visdyn.models.token.sequences import SequenceBuilder, TokenSequence
from visdyn.models.token.tokens import TokenLayout
from visdyn.models.token.unified import UnifiedModel
from visdyn.models.vqgan.preprocess import pad, unpad
from visdyn.params.prompts import DynamicsPrompts, Prompts

# Names of the public tokenizer; the ids are looked up, never assumed.
BEGIN_OF_IMAGE, END_OF_IMAGE, UNCONDITIONAL = "<boi>", "<eoi>", "<unconditional>"
START_OF_TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"
_NAMES = ("<bos>", "<pad>", "<eos>", BEGIN_OF_IMAGE, END_OF_IMAGE, END_OF_TURN)


def liquid_layout(tokenizer: PreTrainedTokenizerBase, num_image_codes: int) -> TokenLayout:
    """Look up Liquid's layout: the image codes follow the tokenizer's last token.

    Args:
        num_image_codes: size of the image codebook (8,192 in the public checkpoint).

    Raises:
        ValueError: the tokenizer lacks a name.
    """
    vocabulary = tokenizer.get_vocab()
    if missing := [name for name in _NAMES if name not in vocabulary]:
        raise ValueError(f"the tokenizer lacks {', '.join(missing)}: it is not that of a Liquid model")
    return TokenLayout(*(vocabulary[name] for name in _NAMES), len(tokenizer), num_image_codes)


@dataclass(frozen=True)
class LiquidSequenceBuilder(SequenceBuilder):
    """Writes Liquid's sequences.

    Images stand before the text, as in the model's own training. The FDM's sequence has no chat template; the IDM's is
    Gemma's, whose answer is the bare action, eos.
    """

    def forward_prompt(self, source: np.ndarray, action: str) -> list[int]:
        """bos, source image, newline, text with the action."""
        return [self.layout.bos, *self.image(source), *self.text("\n" + self.fdm_prompt.format(action=action))]

    def inverse_prompt(self, source: np.ndarray, target: np.ndarray) -> list[int]:
        """bos, then a user turn of source image, target image, newline, text, and the opening of the model's turn."""
        return self.question_prompt([source, target], self.idm_prompt)

    def question_prompt(self, images: Sequence[np.ndarray], question: str) -> list[int]:
        """bos, then a user turn of images, newline and text, and the opening of the model's turn."""
        opening = self.text(f"{START_OF_TURN}user\n")
        shown = [token for codes in images for token in self.image(codes)]
        closing = self.text(f"\n{question}{END_OF_TURN}\n{START_OF_TURN}model\n")
        return [self.layout.bos, *opening, *shown, *closing]

    def forward(
        self, source: np.ndarray, action: str, target: np.ndarray, weights: np.ndarray | None = None
    ) -> TokenSequence:
        """The FDM's sequence; the answer is begin-of-image, the codes, end-of-image, eos.

        Begin-of-image weighs 0: it belongs to the prompt, and stands in the answer only because decoding forces it.
        """
        item = super().forward(source, action, target, weights)
        item.weights[0] = 0
        return item


@dataclass
class LiquidModel(UnifiedModel):
    """A Gemma over text and image codes, its tokenizer and its VQGAN.

    The public checkpoint has no VQGAN: give Chameleon's `vqgan.ckpt`, with its yaml beside it, as `vqgan`. Liquid is
    always fed the public pixels.
    """

    def __post_init__(self) -> None:
        self.public_pixels = True

    @staticmethod
    def _own_prompts(prompts: Prompts) -> DynamicsPrompts:
        return prompts.liquid

    @staticmethod
    def _get_lm_class():
        from transformers import GemmaForCausalLM

        return GemmaForCausalLM

    @staticmethod
    def _make_builder(tokenizer, num_image_codes: int, **prompts) -> LiquidSequenceBuilder:
        return LiquidSequenceBuilder(tokenizer, liquid_layout(tokenizer, num_image_codes), **prompts)

    @staticmethod
    def _find_vqgan(checkpoint: Checkpoint, vqgan: str | Path | None) -> Path:
        path = checkpoint.holder("vqgan") / "vqgan" if vqgan is None else Path(vqgan)
        if not path.exists():
            raise FileNotFoundError(
                f"no VQGAN at {path} for the Liquid model {checkpoint.folder}; put Chameleon's vqgan.ckpt and "
                "vqgan.yaml there, or name their folder by `vqgan=`"
            )
        return path

    @staticmethod
    def _check_vocabulary(checkpoint: Checkpoint, lm, layout: TokenLayout) -> None:
        rows = lm.lm_head.weight.shape[0]
        if rows != layout.image_offset + layout.num_image_codes:
            raise ValueError(
                f"{checkpoint.folder} has {rows} vocabulary rows, but its tokenizer names {layout.image_offset} and "
                f"its VQGAN has {layout.num_image_codes} codes; they must add up"
            )

    @property
    def preprocessing(self) -> str:
        return f"pad-{self.vqgan.config.resolution}"

    def square(self, image: ImageRef) -> np.ndarray:
        """Return an image padded to a square of the tokenizer's resolution: uint8 (S, S, 3)."""
        return pad(image, self.vqgan.config.resolution)

    def restore(self, image: np.ndarray, source: ImageRef) -> np.ndarray:
        """Cut off the bars that padding put around the source: uint8 (h, w, 3), the longer side being S."""
        return unpad(image, *load(source).size)


def load_lm(name_or_path: str | Path, dtype="auto", attention: str = "sdpa", device: str = "cpu"):
    """Load Liquid's decoder in evaluation mode, with its LoRA adapter where the folder holds one."""
    return locate(name_or_path).load_lm(LiquidModel._get_lm_class(), dtype, attention, device)


def tiny_config(layout: TokenLayout, hidden_size: int = 128, num_layers: int = 4, num_heads: int = 4) -> GemmaConfig:
    """Return the configuration of a small Gemma over a vocabulary that ends with the image codes."""
    return GemmaConfig(
        vocab_size=layout.image_offset + layout.num_image_codes,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        head_dim=hidden_size // num_heads,
        max_position_embeddings=512,
        bos_token_id=layout.bos,
        eos_token_id=layout.eos,
        pad_token_id=layout.pad,
    )


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer with Liquid's names and Gemma's ids of them (pad 0, eos 1, bos 2, unk 3, boi 7).

    Args:
        words: text vocabulary; lower-cased, duplicates removed, sorted. A newline is a token, as in Gemma's.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<unused5>", "<unused6>"]
    specials += [BEGIN_OF_IMAGE, END_OF_IMAGE, UNCONDITIONAL, START_OF_TURN, END_OF_TURN]
    text = ["\n", "user", "model", *sorted({word.lower() for word in words} - {"user", "model"})]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate([*specials, *text])}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]+"), "removed", invert=True)
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    extra = [BEGIN_OF_IMAGE, END_OF_IMAGE, UNCONDITIONAL, START_OF_TURN, END_OF_TURN]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=extra, padding_side="left", **names
    )
