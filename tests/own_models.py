"""What a user writes: an FDM, an IDM, an editor, a judge and a metric in one file outside the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from visdyn.evaluation.metrics.registry import AURORA, PIXELS, Metric
from visdyn.images import load
from visdyn.models.editors.protocol import Request
from visdyn.trajectory import Trajectory


class Brightener:
    """A forward-dynamics model: the source, brighter by a number that is drawn."""

    def log_likelihood(self, sources, actions, targets):
        assert len(sources) == len(actions) == len(targets)
        return torch.tensor(
            [-float(np.abs(_array(a) - _array(b)).mean()) for a, b in zip(sources, targets, strict=True)]
        )

    def sample(self, source, action, num_samples, generator=None):
        steps = torch.randint(1, 100, (num_samples,), generator=generator)
        return [np.clip(_array(source) + int(step), 0, 255).astype(np.uint8) for step in steps]


class Reader:
    """An inverse-dynamics model: the brighter the target, the likelier any action."""

    def __init__(self, device="cpu"):
        self.device = device

    def log_likelihood(self, sources, targets, actions):
        assert len(sources) == len(actions) == len(targets)
        return torch.tensor([float(_array(target).mean()) / 255 - 2 for target in targets])

    def predict(self, sources, targets):
        return ["brighten"] * len(targets)


class Both:
    """A model in both roles."""

    inverse_dynamics, forward_dynamics = Reader(), Brightener()


class Sampleless:
    """No model: it cannot sample."""

    def log_likelihood(self, sources, actions, targets):
        return torch.zeros(len(sources))


class Negative:
    """An editor that answers with the negative."""

    def edit(self, sources, prompts, seeds, steps=None, guidance=None):
        return [255 - np.asarray(load(source)) for source in sources]


class Fair:
    """A judge that gives 7 where the image after is the brighter one, else 2."""

    def answer(self, images, prompt, seed):
        before, after = (np.asarray(image).mean() for image in images)
        return f'{{"score": [{7 if after > before else 2}, 7]}}'


def rmse(prediction, target) -> float:
    """Root of the mean squared difference; what a system drew may have another size than the target."""
    wanted = load(target)
    drawn = load(prediction).resize(wanted.size)
    return float(np.sqrt(((_array(drawn) - _array(wanted)) ** 2).mean())) / 255


RMSE = Metric("rmse", AURORA, False, "intensity", PIXELS, "RMSE", compute=rmse)


class Pairs:
    """A benchmark: `<id>-a.png` becomes `<id>-b.png`."""

    name, paper, label_columns, asks, default_prompt, lacks_targets = "pairs", "own", (), "editing", "paper", False

    def load(self, root, quarantine):
        return [
            Trajectory(path, "change it", path.with_name(path.name.replace("-a", "-b")), "pairs", path.stem[:-2])
            for path in sorted(Path(root).glob("*-a.png"))
        ]

    def requests(self, prompts=(), reverse_from=()):
        return [Request()]

    def transition(self, item, request):
        return item

    def subset(self, item):
        return item.subset

    def file(self, item, request):
        return f"{item.id}.png"


RMSE_PAIRS = Metric("rmse_pairs", "pairs", False, "intensity", PIXELS, "RMSE", compute=rmse)


def _array(image):
    return np.asarray(load(image), dtype=float)
