"""What the same bytes on every x86 machine cost: training and sampling with portable kernels and with native ones.

`python benchmarks/portable.py`: a minute on one core. Two processes do the same work by turns, one under
`PORTABLE=1`, one under what the libraries choose here: a training step of an FDM of the embedded default's size (full
fine-tuning, params.yaml's batch), and one batch of sampled images. CPU time, medians, so read the ratios.
"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median

from visdyn.pipeline.arithmetic import PORTABLE, settle

ROUNDS, REPEATS = 2, 4


def work() -> None:
    """Print the median seconds of a training step and of a sampled batch, and a hash of what came out."""
    import hashlib

    import numpy as np
    import torch
    from random_models import Size, random_model, seconds

    from visdyn.models.token.image_decoder import sample_images
    from visdyn.models.token.sequences import collate
    from visdyn.params import load_params
    from visdyn.training.dynamics import CompletionLoss

    torch.set_num_threads(1)
    params = load_params(".")
    shape, training = params.base_models.base_model, params.fdm.training
    size = Size(shape.hidden_size, shape.num_layers, shape.num_heads, shape.intermediate_size, 0,
                params.base_models.tokenizer_model.n_embed, 8, torch.float32)  # fmt: skip
    model = random_model(size, "cpu")
    draw = np.random.default_rng(0)
    codes = draw.integers(0, size.codes, (2, training.batch_size, size.side, size.side))
    rows = [model.builder.forward(source, "open the red drawer", target) for source, target in zip(*codes, strict=True)]
    batch = collate(rows, model.layout.pad)
    model.lm.train().requires_grad_(True)
    loss, optimizer = CompletionLoss(model.lm), torch.optim.AdamW(model.lm.parameters(), training.learning_rate)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        found = loss(**batch)["loss"]
        found.backward()
        optimizer.step()
        return found.detach()

    trained = [seconds(step, "cpu") for _ in range(REPEATS)]
    model.lm.eval()
    prompts = [model.builder.forward_prompt(source, "open the red drawer") for source in codes[0]]
    draws = torch.from_numpy(draw.random((len(prompts), 1, size.side**2)))
    sampled = [seconds(lambda: sample_images(model.lm, model.layout, prompts, draws), "cpu") for _ in range(REPEATS)]
    losses = torch.stack([found for _, found in trained]).numpy().tobytes()
    # The first of each warms up.
    print(median(s for s, _ in trained[1:]), median(s for s, _ in sampled[1:]), hashlib.sha256(losses).hexdigest()[:8])


def measure(environment: dict[str, str]) -> tuple[float, float, str]:
    """Do the work in a process of its own."""
    found = subprocess.run([sys.executable, __file__, "work"], env=environment, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(found.stderr)
    trained, sampled, losses = found.stdout.split()
    return float(trained), float(sampled), losses


def main() -> None:
    """Measure both by turns and print the ratios."""
    plain = {name: value for name, value in os.environ.items() if name not in PORTABLE}
    native, portable = settle(plain)[0], settle(plain | {"PORTABLE": "1"})[0]
    cases = {"native": native, "portable": portable,
             "portable, MKL_CBWR=AVX2": portable | {"MKL_CBWR": "AVX2"}}  # fmt: skip
    found = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, environment in cases.items():
            found[name].append(measure(environment))
    base = [median(row[column] for row in found["native"]) for column in (0, 1)]
    for name, rows in found.items():
        spent = [median(row[column] for row in rows) for column in (0, 1)]
        trained, sampled = (f"{s:6.3f} s ({s / of:.2f} of native)" for s, of in zip(spent, base, strict=True))
        losses = " ".join({row[2] for row in rows})
        print(f"{name:24} a training step {trained}   a sampled batch {sampled}   losses {losses}")


if __name__ == "__main__":
    work() if sys.argv[1:] == ["work"] else main()
