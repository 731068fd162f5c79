"""Decoding with the source as draft against plain decoding, in one run: `python benchmarks/speculative.py`.

One core, under a minute; `--device cuda --size 7b` is Chameleon-7B's shape with 1,024 codes. The model is a random
decoder with a controlled liking for the source's code at each place, so that the share of accepted codes is a setting;
what a trained model accepts is measured with trained models (the embedded ones accept about three codes of four).
Prints passes and seconds for K = 1 and K = 8.

On a CPU a pass over a block costs almost as much as the block's tokens one by one, so time falls less than passes; on
a GPU a pass is bound by reading the weights, and time follows passes until the block is large.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from random_models import SIZES, add_options, random_model, seconds, title
from torch import nn

from visdyn.models.token.chameleon import ChameleonLM
from visdyn.models.token.decoding import uniforms
from visdyn.models.token.image_decoder import sample_images, sample_images_from_draft
from visdyn.models.token.tokens import TokenLayout

PROMPT_TEXT = 4  # tokens before the source image


class LikesTheSource(nn.Module):
    """A decoder whose states also say which code they predict, with a head that favours the source's there.

    All prompts have one length, and one source image.
    """

    def __init__(self, lm: ChameleonLM, layout: TokenLayout, source: np.ndarray, first: int, share: float) -> None:
        super().__init__()
        self.lm, self.config, self.first, self.length = lm, lm.config, first, len(source)
        weight = lm.lm_head.weight.data
        liking = weight.new_zeros(lm.config.vocab_size, self.length)
        # With V - 1 other codes near exp(0), this much makes the source's code `share` of the whole.
        liking[torch.as_tensor(source) + layout.image_offset, torch.arange(self.length)] = math.log(
            share / (1 - share) * (layout.num_image_codes - 1)
        )
        self.lm_head = SimpleNamespace(weight=torch.cat([weight, liking], 1))
        self.model = self._model

    def _model(self, input_ids, past_key_values, position_ids=None, **options):
        if position_ids is None:
            new = torch.arange(input_ids.shape[1], device=input_ids.device)
            position_ids = past_key_values.get_seq_length() + new[None]
        output = self.lm.model(
            input_ids=input_ids, past_key_values=past_key_values, position_ids=position_ids, **options
        )
        place = (position_ids - self.first).clamp(0, self.length - 1).expand(input_ids.shape)
        extra = nn.functional.one_hot(place, self.length).to(output.last_hidden_state.dtype)
        output.last_hidden_state = torch.cat([output.last_hidden_state, extra], -1)
        return output


def compare(lm: ChameleonLM, layout: TokenLayout, share: float, k: int, options) -> None:
    """Decode one image K times plainly and from the draft, and print a line for each block size."""
    length, device = options.length, options.device
    source = np.random.default_rng(0).integers(0, layout.num_image_codes, length)
    prompt = [layout.bos] * PROMPT_TEXT + [layout.begin_of_image, *(source + layout.image_offset), layout.end_of_image]
    liking = LikesTheSource(lm, layout, source, len(prompt), share)
    draws = uniforms(k, length, torch.Generator().manual_seed(0))[None]
    plain, codes = seconds(lambda: sample_images(liking, layout, [prompt], draws), device)
    copied = (codes == source).mean()
    for block in options.block:
        spent, found = seconds(
            lambda block=block: sample_images_from_draft(liking, layout, [prompt], source[None], draws, block=block),
            device,
        )
        print(
            f"p(source) {share:.2f}  K = {k}  block {block:3}   sample's passes {length} -> {found.passes.mean():6.1f} "
            f"({length / found.passes.mean():5.2f} times fewer)   batch's {length} -> {found.forwards:4}   "
            f"s {plain:5.2f} -> {spent:5.2f} ({plain / spent:4.2f} times faster)   "
            f"equal to the source: {copied:.0%} plain, {found.accepted.mean() / length:.0%} drafted"
        )


def main() -> None:
    """Run the comparison; the options change its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--length", type=int, help="codes of an image; 128 of size small, else all")
    parser.add_argument("--share", type=float, nargs="+", default=[0.5, 0.75, 0.9], help="probability of the draft")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--block", type=int, nargs="+", default=[4, 16])
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[options.size]
    options.length = options.length or (128 if options.size == "small" else size.side**2)
    model = random_model(replace(size, side=max(size.side, math.ceil(options.length**0.5))), options.device)
    print(title(f"decoding {options.length} codes from the source's draft", options))
    sample_images(model.lm, model.layout, [[model.layout.bos] * 8], uniforms(1, 8, None)[None])  # warm up
    for share in options.share:
        for k in options.k:
            compare(model.lm, model.layout, share, k, options)


if __name__ == "__main__":
    main()
