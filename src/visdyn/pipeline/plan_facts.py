"""What a plan reckons with: ranges, rates as they were measured, machines (`benchmarks/plan.yaml`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from visdyn.paths import repository_root
from visdyn.yaml_files import read_yaml

MEASURED_ON = "h100"  # what the rates of GPUs were measured on
ELSEWHERE = 1.3  # a rate that was measured on another GPU may be off by this factor more
_SIZE = re.compile(r"(\d*\.?\d+)\s*(GiB|GB)")


@dataclass(frozen=True)
class Range:
    """A quantity with its uncertainty: low <= likely <= high.

    Sums and products add and multiply the ends: whatever is uncertain is taken to be so in the same direction.
    """

    low: float
    likely: float
    high: float

    @classmethod
    def of(cls, value: float | Sequence[float] | Range) -> Range:
        """Read a number, or its [low, likely, high]."""
        if isinstance(value, Range):
            return value
        if isinstance(value, int | float):
            return cls(value, value, value)
        low, likely, high = map(float, value)
        if not low <= likely <= high:
            raise ValueError(f"{list(value)} is no range: write [low, likely, high]")
        return cls(low, likely, high)

    def __add__(self, other: float | Range) -> Range:
        """Add end to end."""
        other = Range.of(other)
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def __mul__(self, other: float | Range) -> Range:
        """Multiply end by end; both are at least 0."""
        other = Range.of(other)
        return Range(self.low * other.low, self.likely * other.likely, self.high * other.high)

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: float | Range) -> Range:
        """Divide; what is least is divided by the largest."""
        other = Range.of(other)
        return Range(self.low / other.high, self.likely / other.likely, self.high / other.low)


NOTHING = Range(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Machine:
    """Where a profile is to run.

    Attributes:
        gpu: a name of `gpus` in plan.yaml.
        gpus: of all nodes; 0 plans for the cores alone.
        cores: of all nodes.
    """

    gpu: str
    gpus: int
    cores: int


@dataclass(frozen=True)
class Facts:
    """plan.yaml, with the rates of one machine.

    Raises:
        KeyError: plan.yaml does not know the machine's GPU; the message names those that it knows.
    """

    content: dict
    machine: Machine

    @classmethod
    def load(cls, machine: Machine, path: Path | None = None) -> Facts:
        """Read the file (default: this checkout's)."""
        content = read_yaml(path or repository_root() / "benchmarks/plan.yaml")
        if machine.gpus and machine.gpu not in content["gpus"]:
            known = ", ".join(content["gpus"])
            raise KeyError(f"no GPU {machine.gpu!r} in benchmarks/plan.yaml; it has {known}, add yours there")
        return cls(content, machine)

    def rate(self, name: str) -> Range:
        """Return a rate on this machine: scaled, and wider, where it was measured on another GPU."""
        entry = self.content["rates"][name]
        value, bound = Range.of(entry["value"]), entry.get("bound")
        share = name.endswith("_mfu")  # of this GPU's own rate of products: nothing to scale
        if not self.machine.gpus or bound in (None, "launch") or share or self.machine.gpu == MEASURED_ON:
            return value
        key = {"flops": "tflops", "bandwidth": "bandwidth"}[bound]
        gpus = self.content["gpus"]
        speed = gpus[self.machine.gpu][key] / gpus[MEASURED_ON][key]
        wide = Range(value.low / ELSEWHERE, value.likely, value.high * ELSEWHERE)
        return wide * (1 / speed if entry["unit"].startswith("s ") else speed)

    def source(self, name: str) -> str:
        """Return where a rate comes from, in a line."""
        entry = self.content["rates"][name]
        low, likely, high = entry["value"]
        told = f"{likely:g} ({low:g} to {high:g}) {entry['unit']}: {entry['from']}"
        scaled = entry.get("bound") in ("flops", "bandwidth") and not name.endswith("_mfu")
        if scaled and self.machine.gpus and self.machine.gpu != MEASURED_ON:
            told += f", scaled from {MEASURED_ON} by its {entry['bound']}"
        return told

    def products(self, flops: Range, mfu: str) -> Range:
        """Return the seconds of one GPU for so many FLOPs at a share of its rate of products."""
        return flops / (self.rate(mfu) * self.content["gpus"][self.machine.gpu]["tflops"] * 1e12)

    @property
    def memory(self) -> float:
        """GiB of a GPU that a program gets; 0 without a GPU."""
        return self.content["gpus"][self.machine.gpu]["memory"] if self.machine.gpus else 0.0

    @cached_property
    def checkpoints(self) -> dict[str, float | None]:
        """Checkpoint -> GB of its weights, by data/external/models.yaml; None where it states none."""
        entries = read_yaml(repository_root() / "data/external/models.yaml")["models"]
        return {entry["id"]: read_size(entry["size"]) for entry in entries}


def read_size(text: str) -> float | None:
    """Return the GB that a description's `size` begins with ("about 14 GB in bf16"); None where it says none."""
    match = _SIZE.search(text)
    if match is None:
        return None
    return float(match[1]) * (1.073741824 if match[2] == "GiB" else 1.0)
