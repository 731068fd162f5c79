"""Decoding with the source as draft against plain decoding, in one run: `python benchmarks/speculative.py`.

One core, under a minute. The model is a random decoder with a controlled liking for the source's code at each place,
so that the share of accepted codes is a setting; what a trained model accepts is measured with trained models (the
embedded ones accept about three codes of four). Prints passes and seconds for K = 1 and K = 8.

On a CPU a pass over a block costs almost as much as the block's tokens one by one, so time falls less than passes; on
a GPU a pass is bound by reading the weights, and time follows passes until the block is large.
"""

from __future__ import annotations

import argparse
import math
import time
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from visdyn.models.chameleon import ChameleonLM, tiny_config
from visdyn.models.decoding import sample_images, uniforms
from visdyn.models.speculative import sample_images_from_draft
from visdyn.models.tokens import IMAGE, TokenLayout, build_tokenizer

NUM_CODES = 512
PROMPT_TEXT = 4  # tokens before the source image


class LikesTheSource(nn.Module):
    """A decoder whose states also say which code they predict, with a head that favours the source's there.

    All prompts have one length, and one source image.
    """

    def __init__(self, lm: ChameleonLM, layout: TokenLayout, source: np.ndarray, first: int, share: float) -> None:
        super().__init__()
        self.lm, self.config, self.first, self.length = lm, lm.config, first, len(source)
        liking = torch.zeros(lm.config.vocab_size, self.length)
        # With V - 1 other codes near exp(0), this much makes the source's code `share` of the whole.
        liking[torch.as_tensor(source) + layout.image_offset, torch.arange(self.length)] = math.log(
            share / (1 - share) * (NUM_CODES - 1)
        )
        self.lm_head = SimpleNamespace(weight=torch.cat([lm.lm_head.weight.data, liking], 1))
        self.model = self._model

    def _model(self, input_ids, past_key_values, position_ids=None, **options):
        if position_ids is None:
            position_ids = past_key_values.get_seq_length() + torch.arange(input_ids.shape[1])[None]
        output = self.lm.model(
            input_ids=input_ids, past_key_values=past_key_values, position_ids=position_ids, **options
        )
        place = (position_ids - self.first).clamp(0, self.length - 1).expand(input_ids.shape)
        extra = nn.functional.one_hot(place, self.length).to(output.last_hidden_state.dtype)
        output.last_hidden_state = torch.cat([output.last_hidden_state, extra], -1)
        return output


def random_model(hidden: int, layers: int, length: int) -> tuple[ChameleonLM, TokenLayout]:
    """Return a decoder with random weights, and its layout."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["edit"], NUM_CODES)
    layout = TokenLayout.of(tokenizer)
    sizes = {"num_layers": layers, "num_heads": hidden // 64, "max_positions": 3 * length}
    placeholder = tokenizer.convert_tokens_to_ids(IMAGE)
    return ChameleonLM(tiny_config(len(tokenizer), layout, placeholder, hidden, 4 * hidden, **sizes)).eval(), layout


def compare(lm: ChameleonLM, layout: TokenLayout, share: float, k: int, blocks: list[int], length: int) -> None:
    """Decode one image K times plainly and from the draft, and print a line for each block size."""
    source = np.random.default_rng(0).integers(0, NUM_CODES, length)
    prompt = [layout.bos] * PROMPT_TEXT + [layout.begin_of_image, *(source + layout.image_offset), layout.end_of_image]
    liking = LikesTheSource(lm, layout, source, len(prompt), share)
    draws = uniforms(k, length, torch.Generator().manual_seed(0))[None]
    start = time.process_time()
    codes = sample_images(liking, layout, [prompt], draws)
    plain = time.process_time() - start
    copied = (codes == source).mean()
    for block in blocks:
        start = time.process_time()
        found = sample_images_from_draft(liking, layout, [prompt], source[None], draws, block=block)
        seconds = time.process_time() - start
        print(
            f"p(source) {share:.2f}  K = {k}  block {block:3}   sample's passes {length} -> {found.passes.mean():6.1f} "
            f"({length / found.passes.mean():5.2f} times fewer)   batch's {length} -> {found.forwards:4}   "
            f"CPU s {plain:5.2f} -> {seconds:5.2f} ({plain / seconds:4.2f} times faster)   "
            f"equal to the source: {copied:.0%} plain, {found.accepted.mean() / length:.0%} drafted"
        )


def main() -> None:
    """Run the comparison; the options change its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=128, help="codes of an image")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--share", type=float, nargs="+", default=[0.5, 0.75, 0.9], help="probability of the draft")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--block", type=int, nargs="+", default=[4, 16])
    options = parser.parse_args()
    torch.set_num_threads(1)
    lm, layout = random_model(options.hidden, options.layers, options.length)
    for share in options.share:
        for k in options.k:
            compare(lm, layout, share, k, options.block, options.length)


if __name__ == "__main__":
    main()
