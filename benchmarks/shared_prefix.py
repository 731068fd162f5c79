"""Scores over shared prefixes against separate forwards, in one run: `python benchmarks/shared_prefix.py`.

One core, random weights, under a minute. Prints, for a probe (reference and four negatives, both directions) and for a
verifier (K candidates after one source), tokens computed and seconds of the plain way and of the shared one, and the
largest difference between their log-likelihoods per token.

With images of 1,024 codes the tokens alone say what to expect; the last lines count them without running a model.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from visdyn.models.chameleon import ChameleonLM, tiny_config
from visdyn.models.scoring import score_completions
from visdyn.models.sequences import SequenceBuilder
from visdyn.models.shared_prefix import count_tokens, score_shared, trajectory_sequences
from visdyn.models.tokens import IMAGE, TokenLayout, build_tokenizer
from visdyn.models.unified import UnifiedModel
from visdyn.trajectory import NEGATIVE_KINDS, Trajectory, negatives

WORDS = ["edit", "infer", "open", "close", "the", "red", "blue", "drawer", "cup", "take", "put", "on"]
ACTIONS = ("open the red drawer", "close the blue drawer", "take the cup", "put the red cup on the drawer")
NUM_CODES = 512


def random_model(hidden: int, layers: int, positions: int) -> UnifiedModel:
    """Return a decoder with random weights and no image tokenizer."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(WORDS, NUM_CODES)
    layout = TokenLayout.of(tokenizer)
    placeholder = tokenizer.convert_tokens_to_ids(IMAGE)
    sizes = {"num_layers": layers, "num_heads": hidden // 64, "max_positions": positions}
    lm = ChameleonLM(tiny_config(len(tokenizer), layout, placeholder, hidden, 4 * hidden, **sizes)).eval()
    return UnifiedModel(lm, SequenceBuilder(tokenizer, layout), None)


def probe_rows(items: int, side: int, changed: float) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return codes and actions of `items` references and their negatives; a share `changed` of codes differs."""
    generator = np.random.default_rng(0)
    sources = generator.integers(0, NUM_CODES, (items, side, side))
    drawn = generator.integers(0, NUM_CODES, sources.shape)
    targets = np.where(generator.random(sources.shape) < changed, drawn, sources)
    pairs = enumerate(zip(sources, targets, strict=True))
    references = [Trajectory(source, ACTIONS[row % 4], target, "ag", str(row)) for row, (source, target) in pairs]
    rows = references + [negative for kind in NEGATIVE_KINDS for negative in negatives(references, kind, seed=0)]
    return np.stack([row.source for row in rows]), [row.action for row in rows], np.stack([row.target for row in rows])


def compare(model: UnifiedModel, name: str, sequences: list, scored: slice, batch_size: int) -> None:
    """Time both ways on the same sequences and print one line."""
    pad, found = model.layout.pad, {}
    for way, score in (("plain", score_completions), ("shared", score_shared)):
        score(model.lm, sequences[:2], scored, pad)  # warm up
        start = time.process_time()
        found[way] = score(model.lm, sequences, scored, pad, batch_size).mean, time.process_time() - start
    shared, plain = count_tokens(sequences)
    difference = (found["plain"][0] - found["shared"][0]).abs().max()
    seconds = found["plain"][1], found["shared"][1]
    print(
        f"{name:32} tokens {plain:7} -> {shared:7} ({plain / shared:4.2f} times fewer)   "
        f"CPU s {seconds[0]:5.1f} -> {seconds[1]:5.1f} ({seconds[0] / seconds[1]:4.2f} times faster)   "
        f"difference {difference:.0e}"
    )


def verifier_rows(k: int, side: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return K candidates of one source and one action."""
    source = np.random.default_rng(1).integers(0, NUM_CODES, (1, side, side))
    return source.repeat(k, 0), [ACTIONS[0]] * k, np.random.default_rng(2).integers(0, NUM_CODES, (k, side, side))


def main() -> None:
    """Run the comparison; the options change its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=3, help="references; each has four negatives")
    parser.add_argument("--side", type=int, default=16, help="codes along a side of an image")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--changed", type=float, default=0.25, help="share of codes in which target and source differ")
    parser.add_argument("--k", type=int, default=8, help="candidates of the verifier")
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    model = random_model(options.hidden, options.layers, 4 * options.side**2)
    forward, inverse = trajectory_sequences(model, *probe_rows(options.items, options.side, options.changed))
    compare(model, "probe, next image (fdp)", forward, slice(1, -2), options.batch_size)
    compare(model, "probe, action (idp)", inverse, slice(0, -1), options.batch_size)
    _, inverse = trajectory_sequences(model, *verifier_rows(options.k, options.side))
    compare(model, f"verifier, K = {options.k}", inverse, slice(0, -1), options.batch_size)
    for name, sequences in zip(("fdp", "idp"), trajectory_sequences(model, *probe_rows(4, 32, 0.25)), strict=True):
        shared, plain = count_tokens(sequences)
        print(f"at 1,024 codes, {name}: {plain // 4} tokens a probe -> {shared // 4} ({1 - shared / plain:.0%} fewer)")


if __name__ == "__main__":
    main()
