"""Several trainings in one process, or in one rank of a group, for tests: `dynamics_ranks JOBS.json`."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch


def main(path: str) -> None:
    """Train every job of a JSON list of arguments of `train_dynamics`.

    A job may also have `chunk` (logits that exist at one time), `stop` or `kill` (the forward pass that fails, or ends
    the process), `full` (the model cannot be written) and `expect` (a part of the error's text).
    """
    import torch

    torch.set_num_threads(1)
    from visdyn.training import chunked_cross_entropy
    from visdyn.training.dynamics import train_dynamics
    from visdyn.training.engine.worker import end_rank, read_arguments, without_kernels

    without_kernels()
    for arguments in json.loads(Path(path).read_text()):
        chunked_cross_entropy.CHUNK_ELEMENTS = arguments.pop("chunk", 2**25)
        ends = {name: arguments.pop(name, None) for name in ("stop", "kill", "full")}
        expected = arguments.pop("expect", None)
        try:
            with ending(**ends):
                train_dynamics(**read_arguments(train_dynamics, arguments, path))
        except Exception as error:
            if expected is None or expected not in str(error):
                raise
        else:
            if expected is not None:
                raise AssertionError(f"no error that says {expected}")
    end_rank()


@contextmanager
def ending(stop: int | None, kill: int | None, full: bool | None):
    """Fail in the forward pass of a step or in saving, on every rank, or end the process there."""
    from visdyn.training import dynamics

    forward, seen, save = dynamics.CompletionLoss.forward, [], dynamics._save

    def mortal(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(seen) == stop:
            raise RuntimeError("stopped")
        return forward(self, *args, **kwargs)

    def hopeless(*args):
        if full:
            raise OSError("no space left")
        save(*args)

    with patch.object(dynamics.CompletionLoss, "forward", mortal), patch.object(dynamics, "_save", hopeless):
        yield


if __name__ == "__main__":
    main(sys.argv[1])
