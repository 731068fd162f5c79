"""Which family of machines this is, by what its arithmetic gives: `visdyn machine`.

Processors add in another order, so the same training has other bytes on another family of machines. A fingerprint is a
hash of a few kernels' results on fixed inputs and of a short training's losses, on one thread: two machines with equal
fingerprints may be expected to train equal models, two with different ones cannot. Machines with one fingerprint are a
*family*. Beside it stands what the machine is: its processor, instruction sets, versions, the settings that choose
kernels, and whether they were the portable ones (`visdyn.pipeline.arithmetic`).

The runner records in `reports/machine.json` which machine computed each stage. DVC does not hash that file: a
processor's name is no result, and where the arithmetic differs the results say so themselves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from visdyn.paths import file_digest, write_atomically
from visdyn.pipeline.arithmetic import apply, is_portable, read_flags, read_settings, settle
from visdyn.readers import read_json

INSTRUCTIONS = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "sve", "asimd")


@dataclass(frozen=True)
class Machine:
    """What a machine is and what its arithmetic gives.

    Attributes:
        fingerprint: 12 hexadecimal digits of all kernels together.
        kernels: name -> 8 hexadecimal digits of its result.
        cpu: the processor's name.
        instructions: those of `INSTRUCTIONS` that it has.
        capability: the instruction set that torch chose.
        versions: of torch and numpy.
        settings: environment variables that choose kernels, where they are set.
        portable: the settings are those that give the same bytes on every x86 machine.
    """

    fingerprint: str
    kernels: dict[str, str]
    cpu: str
    instructions: tuple[str, ...]
    capability: str
    versions: dict[str, str]
    settings: dict[str, str]
    portable: bool

    @property
    def family(self) -> str:
        """The fingerprint, and how it came about, in words."""
        return f"{self.fingerprint} ({'portable' if self.portable else 'native'})"


def take_fingerprint() -> Machine:
    """Run the kernels on one thread (a second), and return this machine's facts."""
    import numpy as np
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        kernels = {name: _hash(result) for name, result in _run_kernels().items()}
    finally:
        torch.set_num_threads(threads)
    cpu, instructions = read_processor()
    return Machine(
        hashlib.sha256(json.dumps(kernels, sort_keys=True).encode()).hexdigest()[:12],
        kernels,
        cpu,
        instructions,
        torch.backends.cpu.get_cpu_capability(),
        {"torch": torch.__version__, "numpy": np.__version__},
        read_settings(),
        is_portable(),
    )


def record_stage(path: Path, stage: str, machine: Machine) -> None:
    """Note in a profile's machine.json which machine computed a stage; machines that no stage names are forgotten."""
    found = read_json(path, dict) if path.is_file() else {"machines": {}, "stages": {}}
    stages = found["stages"] | {stage: machine.fingerprint}
    facts = {name: value for name, value in asdict(machine).items() if name != "fingerprint"}
    machines = found["machines"] | {machine.fingerprint: facts}
    machines = {name: machines[name] for name in set(stages.values()) & machines.keys()}
    content = json.dumps(found | {"machines": machines, "stages": stages}, indent=1, sort_keys=True) + "\n"
    write_atomically(path, content.encode())


def recall_machine(scratch: Path) -> Machine:
    """Return this machine's facts under the settings of a stage, kept in a scratch file while nothing of them changes.

    Kernels run in a process of their own: torch need not be loaded here, and was perhaps loaded under other settings.
    """
    environment, _ = settle(os.environ)
    cpu, instructions = read_processor()
    versions = {name: version(name) for name in ("torch", "numpy")}
    key = {"cpu": cpu, "instructions": list(instructions), "packages": versions,
           "settings": read_settings(environment), "portable": is_portable(environment),
           "kernels": file_digest(Path(__file__))}  # fmt: skip
    kept = read_json(scratch, dict) if scratch.is_file() else {}
    if kept.get("key") != key:
        command = [sys.executable, "-m", "visdyn.pipeline.fingerprint"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        kept = {"key": key, "machine": json.loads(found.stdout)}
        scratch.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(scratch, json.dumps(kept).encode())
    return Machine(**kept["machine"])


def read_processor() -> tuple[str, tuple[str, ...]]:
    """Return the processor's name and its instruction sets, as far as the system tells."""
    name, flags = read_flags()
    return name, tuple(one for one in INSTRUCTIONS if one in flags)


def _run_kernels() -> dict[str, bytes]:
    """Return the bytes that each kernel makes of fixed inputs (numpy's integers are the same everywhere)."""
    import cv2
    import numpy as np
    import torch
    from torch.nn import functional

    def draw(*shape: int) -> np.ndarray:
        integers = np.random.default_rng(len(shape)).integers(-(2**20), 2**20, shape)
        return (integers / 2**18).astype(np.float32)  # exact in float32

    matrix, batch = torch.from_numpy(draw(192, 192)), torch.from_numpy(draw(2, 4, 64, 32))
    image, weight = torch.from_numpy(draw(2, 16, 24, 24)), torch.from_numpy(draw(16, 16, 3, 3))
    wide, wide_weight = torch.from_numpy(draw(1, 128, 16, 16)), torch.from_numpy(draw(128, 128, 3, 3))
    found = {
        "matmul": matrix @ matrix,
        "conv": functional.conv2d(image, weight, padding=1),
        "wide conv": functional.conv2d(wide, wide_weight, padding=1),  # summed in blocks
        "softmax": matrix.softmax(-1),
        "attention": functional.scaled_dot_product_attention(batch, batch, batch),
        "layer norm": functional.layer_norm(matrix, (192,)),
        "exp": matrix.exp(),
        "gelu": functional.gelu(matrix),
        "sum": matrix.sum(0),
        "training": _train(torch.from_numpy(draw(64, 48)), torch.from_numpy(draw(64, 8))),
    }
    arrays = {name: value.detach().numpy() for name, value in found.items()}
    values, precise = draw(1000, 37), np.abs(draw(5000).astype(np.float64)) + 1
    grey = cv2.GaussianBlur((draw(64, 64) * 16).astype(np.uint8), (0, 0), 2)
    flow = cv2.calcOpticalFlowFarneback(grey, np.roll(grey, 2, 1), None, 0.5, 3, 15, 3, 5, 1.2, 0)
    arrays |= {"numpy sum": values.sum(axis=0), "numpy mean": values.astype(np.float64).mean(),
               "numpy exp": np.exp(values[:64]), "numpy dot": values.T @ values,
               "numpy log": np.log(precise), "numpy power": precise**1.7, "opencv flow": flow}  # fmt: skip
    return {name: np.ascontiguousarray(array).tobytes() for name, array in arrays.items()}


def _train(inputs, targets, steps: int = 20):
    """Losses (steps,) of a small network under AdamW, from fixed weights."""
    import torch

    weights = [torch.full((48, 32), 0.01), torch.linspace(-0.2, 0.2, 32 * 8).reshape(32, 8)]
    weights[0] += torch.linspace(-0.1, 0.1, 48 * 32).reshape(48, 32)
    weights = [weight.requires_grad_() for weight in weights]
    optimizer, losses = torch.optim.AdamW(weights, lr=0.01), []
    for _ in range(steps):
        loss = ((torch.nn.functional.silu(inputs @ weights[0]) @ weights[1] - targets) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print this machine as JSON, under the settings of a stage."""
    argparse.ArgumentParser(prog="visdyn machine", description=main.__doc__).parse_args(arguments)
    for line in apply():
        print(line, file=sys.stderr)
    print(json.dumps(asdict(take_fingerprint()), indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
