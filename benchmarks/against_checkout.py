"""The embedded default's own work by this checkout and by another one, in one run, with trained models.

`python benchmarks/against_checkout.py OTHER --run FOLDER`: OTHER is another checkout of visdyn, FOLDER one with the
models and data of a finished run. For each kind of work: CPU seconds of one thread (the median, both sides by turns in
processes of their own), their ratio, and whether both gave the same: codes exactly, losses and likelihoods by their
difference. Names that moved since the commit that the results name are looked up by both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median

MOVED = {
    "sample_images": ("visdyn.models.token.image_decoder", "visdyn.models.decoding"),
    "sample_images_from_draft": ("visdyn.models.token.image_decoder", "visdyn.models.speculative"),
    "uniforms": ("visdyn.models.token.decoding", "visdyn.models.decoding"),
    "collate": ("visdyn.models.token.sequences", "visdyn.models.sequences"),
    "BagelMixture": ("visdyn.training.bagel.mixture", "visdyn.training.bagel_data"),
    "BagelObjective": ("visdyn.training.bagel.objective", "visdyn.training.bagel_objective"),
    "posterior_cache": ("visdyn.training.bagel.posteriors", "visdyn.training.posteriors"),
}
ITEMS, PROBED, TRIPLETS, EDITS = 8, 6, 8, 32  # verified and probed at a time; triplets and edits of a training step


def find(name: str):
    """Return a function by the name of its module in this or the other checkout."""
    for module in MOVED[name]:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"{name} is in none of {', '.join(MOVED[name])}; add its module there")


def decoding_work(run: Path) -> dict[str, Callable]:
    """Images of the FDM, plainly and from the source's draft: one item with K = 1 and 8, and a batch of items."""
    import torch

    from visdyn.datasets.aurora import load_bench
    from visdyn.models import load_model

    model = load_model(str(run / "models/fdm/synthetic_weighted-s0"))
    items = load_bench(run / "data/kitchen/aurora")[:ITEMS]
    sources = model.encode([item.source for item in items])  # (N, h, w)
    prompts = [model.builder.forward_prompt(codes, item.action) for codes, item in zip(sources, items, strict=True)]
    drafts = sources.reshape(len(items), -1)

    def plain(count: int, k: int):
        draws = find("uniforms")(count * k, drafts.shape[1], torch.Generator().manual_seed(0))
        draws = draws.reshape(count, k, -1)
        return find("sample_images")(model.lm, model.layout, prompts[:count], draws).tolist()

    def drafted(k: int):
        draws = find("uniforms")(k, drafts.shape[1], torch.Generator().manual_seed(0))[None]
        sample = find("sample_images_from_draft")
        return sample(model.lm, model.layout, prompts[:1], drafts[:1], draws, block=32).codes.tolist()

    return {
        "plain decoding, K = 1": partial(plain, 1, 1),
        "plain decoding, K = 8": partial(plain, 1, 8),
        f"plain decoding, {ITEMS} items, K = 8": partial(plain, ITEMS, 8),
        "from a draft, K = 1": partial(drafted, 1),
        "from a draft, K = 8": partial(drafted, 8),
    }


def probing_work(run: Path) -> dict[str, Callable]:
    """A probe of trajectories and their negatives, both ways."""
    from visdyn.datasets.aurora import load_bench
    from visdyn.inference.probing import probe
    from visdyn.models import load_model

    model, items = load_model(str(run / "models/base/s0")), load_bench(run / "data/kitchen/aurora")[:PROBED]

    def score():
        rows = probe(model, items, 0).sort_values(["task", "kind", "id"])
        return rows["log_likelihood"].tolist()

    return {"probing": score}


def training_work(run: Path) -> dict[str, Callable]:
    """A step of the FDM and of the IDM, of params.yaml's batch, without dropout: its loss is the same each time."""
    import numpy as np
    import torch

    from visdyn.models import load_model
    from visdyn.training.dynamics import CompletionLoss

    model = load_model(str(run / "models/base/s0"))
    draw = np.random.default_rng(0)
    codes = draw.integers(0, model.layout.num_image_codes, (2, 2 * TRIPLETS, 8, 8))
    words = ["open the red drawer", "close the drawer", "take the blue cup"]
    rows = [(one, words[row % 3], other) for row, (one, other) in enumerate(zip(*codes, strict=True))]
    kinds = {
        "a training step of the FDM": [model.builder.forward(*row) for row in rows[:TRIPLETS]],
        "a training step of the IDM": [model.builder.inverse(one, other, words) for one, words, other in rows],
    }
    model.lm.train().requires_grad_(True)
    loss, optimizer = CompletionLoss(model.lm), torch.optim.AdamW(model.lm.parameters(), 0.0)

    def step(sequences: list):
        optimizer.zero_grad()
        found = loss(**find("collate")(sequences, model.layout.pad))["loss"]
        found.backward()
        optimizer.step()
        return [float(found)]

    return {name: partial(step, sequences) for name, sequences in kinds.items()}


def bagel_work(run: Path) -> dict[str, Callable]:
    """A step of BAGEL over edits and undos whose latents are kept, as the embedded default keeps them."""
    import torch

    from visdyn.datasets import doundo_bench
    from visdyn.models.bagel import Bagel

    model = Bagel.from_pretrained(run / "models/generator/s0").train().requires_grad_(True)
    model.require_vae().requires_grad_(False)
    pairs = doundo_bench.load(run / "data/kitchen/doundo/annotations_train.json", run / "data/kitchen/epic/frames")
    records = {"edit": pairs[:EDITS], "undo": pairs[:EDITS]}
    mixture = find("BagelMixture")
    kept = find("posterior_cache")("memory", model, records)
    data = mixture(records, {"edit": 1.0, "undo": 1.0}, lambda _: [5, 6, 7, 8], model.config, EDITS, posteriors=kept)
    together = sys.modules[mixture.__module__].collate
    objective = find("BagelObjective")(model)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], 0.0)

    def step():
        torch.manual_seed(0)
        optimizer.zero_grad()
        batch = together([data[index] for index in range(EDITS)], model.config, whole=False)
        found = objective(**batch)["loss"]
        found.backward()
        optimizer.step()
        return [float(found)]

    return {"a training step of BAGEL": step}


PARTS = {"decoding": decoding_work, "probing": probing_work, "training": training_work, "bagel": bagel_work}


def work(part: str, folder: Path, repeats: int) -> None:
    """Print what each kind of a part's work gave and took, as JSON; the first time of several only warms up."""
    import torch

    torch.set_num_threads(1)
    for name, call in PARTS[part](folder).items():
        spent = []
        for _ in range(repeats + (repeats > 1)):
            began = time.process_time()
            found = call()
            spent.append(time.process_time() - began)
        print("WORK " + json.dumps([name, median(spent[-repeats:]), found]), flush=True)


def measure(checkout: Path, part: str, folder: Path, repeats: int) -> dict[str, tuple[float, object]]:
    """Do a part's work by a checkout's sources, in a process of its own."""
    command = [sys.executable, __file__, str(checkout), "--run", str(folder), "--work", part, "--repeats", str(repeats)]
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"{checkout}, {part}: {found.stderr.strip()[-1500:]}")
    lines = [json.loads(line[5:]) for line in found.stdout.splitlines() if line.startswith("WORK ")]
    return {name: (spent, result) for name, spent, result in lines}


def compare(one, other) -> str:
    """Say whether two results are equal, or how far apart numbers are."""
    if one == other:
        return "the same"
    if isinstance(one, list) and all(isinstance(value, float) for value in [*one, *other]) and len(one) == len(other):
        return f"differs by {max(abs(a - b) for a, b in zip(one, other, strict=True)):.0e}"
    return "OTHERWISE"


def main() -> None:
    """Measure both by turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a checkout of another commit")
    parser.add_argument("--run", type=Path, default=Path.cwd(), help="where models/ and data/ of a finished run are")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work, options.run, options.repeats)
    here, other = Path(__file__).resolve().parents[1], options.other.resolve()
    for part in options.parts:
        found = [
            [measure(checkout, part, options.run.resolve(), options.repeats) for checkout in (other, here)]
            for _ in range(options.rounds)
        ]
        for name in found[0][1]:
            before, now = (median(both[side][name][0] for both in found) for side in (0, 1))
            same = compare(found[0][0][name][1], found[0][1][name][1])
            print(f"{name:34} s {before:8.4f} -> {now:8.4f} ({before / now:5.2f} times faster)   {same}", flush=True)


if __name__ == "__main__":
    main()
