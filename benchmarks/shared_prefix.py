"""Scores over shared prefixes against separate forwards, in one run: `python benchmarks/shared_prefix.py`.

Random weights; under a minute on one core. Prints, for a probe (a reference and its four negatives, both ways) and for
a verifier (K candidates after one source), tokens computed and seconds of the plain ways and of the shared one, and the
largest difference between their log-likelihoods per token. `--device cuda --size 7b` is Chameleon-7B's shape.

With images of 1,024 codes the tokens alone say what to expect; the last lines count them without running a model.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from random_models import SIZES, add_options, random_model, seconds, title

from visdyn.models.token.scoring import score_completions
from visdyn.models.token.shared_prefix import count_tokens, score_shared
from visdyn.models.token.unified import UnifiedModel
from visdyn.trajectory import NEGATIVE_KINDS, Trajectory, negatives

ACTIONS = ("open the red drawer", "close the blue drawer", "take the cup", "put the red cup on the drawer")


def probe_rows(items: int, side: int, codes: int, changed: float) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return codes and actions of `items` references and their negatives; a share `changed` of codes differs."""
    generator = np.random.default_rng(0)
    sources = generator.integers(0, codes, (items, side, side))
    drawn = generator.integers(0, codes, sources.shape)
    targets = np.where(generator.random(sources.shape) < changed, drawn, sources)
    pairs = enumerate(zip(sources, targets, strict=True))
    references = [Trajectory(source, ACTIONS[row % 4], target, "ag", str(row)) for row, (source, target) in pairs]
    kinds = [references, *(negatives(references, kind, seed=0) for kind in NEGATIVE_KINDS)]
    rows = [kind[row] for row in range(items) for kind in kinds]
    return np.stack([row.source for row in rows]), [row.action for row in rows], np.stack([row.target for row in rows])


def trajectory_sequences(model: UnifiedModel, sources: np.ndarray, actions: list[str], targets: np.ndarray) -> tuple:
    """Return the forward and the inverse sequences of N trajectories given as codes (N, h, w) and texts."""
    rows = list(zip(sources, actions, targets, strict=True))
    forward = [model.builder.forward(source, action, target) for source, action, target in rows]
    return forward, [model.builder.inverse(source, target, action) for source, action, target in rows]


def compare(model: UnifiedModel, name: str, sequences: list, scored: slice, options, restrict_to=None) -> None:
    """Time one forward a sequence, plain batches and shared prefixes on the same sequences, and print one line."""
    pad, found = model.layout.pad, {}
    ways = (("separate", score_completions, 1), ("batched", score_completions, options.batch_size))
    for way, score, size in (*ways, ("shared", score_shared, options.batch_size)):
        score(model.lm, sequences[:2], scored, pad, size, restrict_to)  # warm up
        spent, scores = seconds(
            lambda score=score, size=size: score(model.lm, sequences, scored, pad, size, restrict_to), options.device
        )
        found[way] = scores.mean, spent
    shared, plain = count_tokens(sequences)
    difference = (found["separate"][0] - found["shared"][0]).abs().max()
    first, batched, last = (found[way][1] for way in ("separate", "batched", "shared"))
    print(
        f"{name:24} tokens {plain:7} -> {shared:7} ({plain / shared:4.2f} times fewer)   "
        f"s {first:6.2f} one by one, {batched:6.2f} in batches of {options.batch_size}, {last:6.2f} shared "
        f"({first / last:4.2f} and {batched / last:4.2f} times faster)   difference {difference:.0e}"
    )


def verifier_rows(k: int, side: int, codes: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return K candidates of one source and one action."""
    source = np.random.default_rng(1).integers(0, codes, (1, side, side))
    return source.repeat(k, 0), [ACTIONS[0]] * k, np.random.default_rng(2).integers(0, codes, (k, side, side))


def main() -> None:
    """Run the comparison; the options change its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--items", type=int, default=3, help="references; each has four negatives")
    parser.add_argument("--side", type=int, help="codes along a side of an image, where not the size's own")
    parser.add_argument("--changed", type=float, default=0.25, help="share of codes in which target and source differ")
    parser.add_argument("--k", type=int, default=8, help="candidates of the verifier")
    parser.add_argument("--batch-size", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[options.size]
    size = replace(size, side=options.side or size.side)
    model = random_model(size, options.device)
    block = slice(model.layout.image_offset, model.layout.image_offset + size.codes)
    print(title("probing a reference with four negatives", options))
    rows = probe_rows(options.items, size.side, size.codes, options.changed)
    forward, inverse = trajectory_sequences(model, *rows)
    compare(model, "probe, next image (fdp)", forward, slice(1, -2), options, block)
    compare(model, "probe, action (idp)", inverse, slice(0, -1), options)
    _, inverse = trajectory_sequences(model, *verifier_rows(options.k, size.side, size.codes))
    compare(model, f"verifier, K = {options.k}", inverse, slice(0, -1), options)
    counted = trajectory_sequences(model, *probe_rows(4, 32, size.codes, 0.25))
    for name, sequences in zip(("fdp", "idp"), counted, strict=True):
        shared, plain = count_tokens(sequences)
        print(f"at 1,024 codes, {name}: {plain // 4} tokens a probe -> {shared // 4} ({1 - shared / plain:.0%} fewer)")


if __name__ == "__main__":
    main()
