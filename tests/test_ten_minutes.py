"""The ten-minute benchmark of one GPU, at a size at which it runs anywhere: every case gives a number."""

from __future__ import annotations

import re
import sys

import pytest
import torch._dynamo

from visdyn.paths import repository_root
from visdyn.training.engine import compiled

NUMBERS = {
    "plans": {"ms a new key length": 2},
    "decode": {"ms a code": 6},
    "compiled": {"ms a code": 2},
    "lora": {"of the product's rate": 6},
    "bagel": {"an edit of 12 evaluations": 1, "LoRA step, one edit of": 1},
    "rates": {"TFLOP/s": 1},
}


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module, with the others beside it."""
    monkeypatch.setattr(sys, "path", [str(repository_root() / "benchmarks"), *sys.path])
    monkeypatch.setattr(compiled, "BACKEND", compiled.BACKEND)  # which the dry run changes
    import ten_minutes

    yield ten_minutes
    torch._dynamo.reset()


@pytest.mark.parametrize("part", sorted(NUMBERS))
def test_every_case_gives_a_number(benchmark, capfd, part):
    # One part as a GPU's are run, in a process of its own; the others would import everything again.
    benchmark.main(["--parts", part, "--steps", "4", *(["--apart"] if part == "rates" else [])])
    text = capfd.readouterr().out
    assert "no number" not in text
    for words, count in NUMBERS[part].items():
        assert text.count(words) == count, text
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_a_case_that_fails_says_why_and_what_there_is_no_time_for_is_named(benchmark, capsys, monkeypatch):
    def fail(options) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(benchmark.PARTS, "plans", fail)
    benchmark.main(["--parts", "plans", "rates"])
    text = capsys.readouterr().out
    assert "plans: no number, RuntimeError: out of memory" in text
    assert "TFLOP/s" in text
    benchmark.main(["--parts", "rates", "--seconds", "-1"])
    assert "rates: not begun, -1 seconds are over" in capsys.readouterr().out


def test_a_part_that_is_killed_or_too_slow_takes_no_other_number_along(benchmark, capfd, monkeypatch, tmp_path):
    """A script stands for the parts, which says one number and then dies, hangs or ends."""
    script = tmp_path / "part.py"
    script.write_text(
        "import os, sys, time\n"
        "print('a number of', sys.argv[2], flush=True)\n"
        "if 'plans' in sys.argv: os.kill(os.getpid(), 9)\n"
        "if 'lora' in sys.argv: time.sleep(600)\n"
    )
    monkeypatch.setattr(benchmark, "__file__", str(script))
    benchmark.main(["--apart", "--seconds", "12", "--parts", "plans", "rates", "lora", "bagel"])
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("a number")] == [
        f"a number of {name}" for name in ("plans", "rates", "lora")
    ]
    said = " ".join(lines)
    assert "plans: its process ended with -9" in said
    assert "lora: cut off, 12 seconds are over" in said
    assert "bagel: not begun, 12 seconds are over" in said
