"""One rank of several trainings, for tests: `dynamics_ranks JOBS.json` trains each in turn, in one process group."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(path: str) -> None:
    """Train every job of a JSON list of arguments of `train_dynamics`; `expect` names an error's beginning instead."""
    import deepspeed
    import torch

    torch.set_num_threads(1)
    # No optional kernels: DeepSpeed would compile one at the first start.
    deepspeed.ops.__compatible_ops__.update(dict.fromkeys(deepspeed.ops.__compatible_ops__, False))
    from visdyn.training.dynamics import train_dynamics

    for arguments in json.loads(Path(path).read_text()):
        stop, expected = arguments.pop("stop", None), arguments.pop("expect", None)
        try:
            with stopping(stop):
                train_dynamics(**arguments)
        except Exception as error:
            if expected is None or expected not in str(error):
                raise
        else:
            if expected is not None:
                raise AssertionError(f"no error that says {expected}")


def stopping(step: int | None):
    """Raise in the forward pass of a step, on every rank: what a kill leaves behind, without its process."""
    from contextlib import contextmanager
    from unittest.mock import patch

    from visdyn.training.dynamics import CompletionLoss

    forward, seen = CompletionLoss.forward, []

    def mortal(self, *args, **kwargs):
        seen.append(1)
        if step is not None and len(seen) == step:
            raise RuntimeError("stopped")
        return forward(self, *args, **kwargs)

    @contextmanager
    def patched():
        with patch.object(CompletionLoss, "forward", mortal):
            yield

    return patched()


if __name__ == "__main__":
    main(sys.argv[1])
