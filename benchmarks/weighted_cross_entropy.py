"""The chunked cross entropy against the plain one at the real vocabulary sizes: peak memory and CPU time.

`python benchmarks/weighted_cross_entropy.py`: about a minute on a CPU, 6 GB of memory; on a GPU where there is one.
Two images' answers of 1,026 tokens each, forward and backward, in float32. On a CPU each measurement is a process of
its own, whose growth of resident memory is read (Linux); the width is 512 there, because the width of a 7B head would
only add to both sides, and 4,096 on a GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from visdyn.training.losses import weighted_cross_entropy

ROWS = 2052
VOCABULARIES = {"Chameleon": 65_536, "Liquid": 264_192}


def plain(hidden, head, targets, weights):
    """The same loss from all logits at once."""
    nll = F.cross_entropy(F.linear(hidden, head).float(), targets, reduction="none")
    return (nll * weights).sum() / weights.sum()


def measure(name: str, vocabulary: int, trains_head: bool) -> dict[str, float]:
    """Return the MiB that one forward and backward add to the peak, its seconds and its loss."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    width = 4096 if device == "cuda" else 512
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, width, generator=generator).to(device).requires_grad_()
    head = (torch.randn(vocabulary, width, generator=generator) * width**-0.5).to(device).requires_grad_(trains_head)
    targets = torch.randint(vocabulary, (ROWS,), generator=generator).to(device)
    weights = torch.rand(ROWS, generator=generator).to(device)
    way = plain if name == "plain" else weighted_cross_entropy
    if device == "cuda":  # its libraries start with the first call
        way(hidden[:8], head, targets[:8], weights[:8]).backward()
        hidden.grad = head.grad = None
    before, began = start(device), seconds(device)
    loss = way(hidden, head, targets, weights)
    loss.backward()
    took = seconds(device) - began
    return {"mib": peak(device) - before, "seconds": took, "loss": loss.item(), "gradient": hidden.grad.norm().item()}


def start(device: str) -> float:
    """Forget the peak so far and return the memory in use, in MiB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    return peak(device)


def peak(device: str) -> float:
    """Return the peak memory since `start`, in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))


def seconds(device: str) -> float:
    """Return CPU seconds of this process, or wall seconds once the GPU is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def apart(*arguments) -> dict[str, float]:
    """Measure in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(family: str, vocabulary: int, trains_head: bool) -> None:
    """Print one line."""
    one, other = (apart(name, vocabulary, int(trains_head)) for name in ("plain", "chunked"))
    head = "head trains" if trains_head else "head frozen"
    less, share = one["mib"] / other["mib"], other["seconds"] / one["seconds"]
    differs = abs(one["loss"] - other["loss"]), abs(one["gradient"] / other["gradient"] - 1)
    print(
        f"{family:9} {vocabulary:7} entries, {head}   peak MiB {one['mib']:6.0f} -> {other['mib']:5.0f} "
        f"({less:4.1f} times less)   s {one['seconds']:5.2f} -> {other['seconds']:5.2f} ({share:.2f} of the time)   "
        f"loss differs by {differs[0]:.0e}, the gradient's norm by {differs[1]:.0e}",
        flush=True,
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1")))
    else:
        for named, entries in VOCABULARIES.items():
            for head_trains in (False, True):
                compare(named, entries, head_trains)
