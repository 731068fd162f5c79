"""`visdyn check my_model.py`: what a file of your own holds, and whether it answers as the kit will ask it.

Every class of the file is tried in the protocols whose methods it has, on small random images; metrics are compared
with themselves. Nothing is trained or written.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from visdyn.endpoint.plugin_judge import AnsweringJudge
from visdyn.evaluation.benches.bench import Bench
from visdyn.evaluation.judges.judge_prompts import load_prompt
from visdyn.evaluation.metrics.registry import Metric
from visdyn.models.editors.protocol import ImageEditor
from visdyn.models.protocols import ForwardDynamics, InverseDynamics
from visdyn.plugins import PluginError, import_file, make_plugin, own_classes

ACTIONS = ["open the drawer", "put the cup down", "turn the lamp on"]
CLOSE = 1e-3  # nats by which a log-likelihood may change with what it is computed beside


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: whether it is as asked, and what was seen."""

    subject: str
    passed: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok    ' if self.passed else 'FAILED'}  {self.subject}: {self.text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings; return 1 where one failed or nothing was found."""
    parser = argparse.ArgumentParser(prog="visdyn check", description=__doc__.splitlines()[0])
    parser.add_argument("file", help="a Python file with models, editors, judges, metrics or benchmarks of your own")
    parser.add_argument("--size", type=int, default=64, help="side of the images it is tried on, in pixels")
    parser.add_argument("--root", help="folder of the data that a benchmark of the file reads")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    findings = check_file(options.file, options.size, options.device, options.root)
    print("\n".join(map(str, findings)))
    failed = sum(not one.passed for one in findings)
    print(f"{len(findings) - failed} ok, {failed} failed")
    return int(failed > 0 or not findings)


def check_file(path: str, size: int = 64, device: str = "cpu", root: str | None = None) -> list[Finding]:
    """Try everything that a file holds.

    Raises:
        PluginError: there is no such file, it cannot be imported, or it holds nothing that the kit could use.
    """
    module, findings = import_file(path), []
    for name, value in _find_parts(module):
        made = value
        if inspect.isclass(value):
            try:
                made = make_plugin("models", f"{path}:{name}", device=device)
            except Exception as error:  # of the user's own code: any
                findings.append(Finding(name, False, f"cannot be made: {type(error).__name__}: {error}"))
                continue
        checks = list(_choose_checks(made, root))
        if not checks and inspect.isclass(value):
            findings.append(Finding(name, True, "left alone: it has the methods of no protocol"))
        for kind, check in checks:
            findings += _try_check(f"{name} as {kind}", check, made, size)
    if not any(" as " in one.subject or not one.passed for one in findings):
        raise PluginError(
            f"{path} holds no model, editor, judge, metric or benchmark: docs/extending.md has one of each"
        )
    return findings


def _find_parts(module: ModuleType) -> Iterator[tuple[str, Any]]:
    yield from ((name, getattr(module, name)) for name in own_classes(module))
    yield from ((name, value) for name, value in vars(module).items() if isinstance(value, Metric))


def _choose_checks(made: Any, root: str | None) -> Iterator[tuple[str, Callable]]:
    """Yield what an object can be tried as; a model of two roles is tried in both."""
    for role in (getattr(made, "forward_dynamics", None), made):
        if isinstance(role, ForwardDynamics):
            yield "ForwardDynamics", lambda _, size, role=role: _check_forward(role, size)
            break
    for role in (getattr(made, "inverse_dynamics", None), made):
        if isinstance(role, InverseDynamics):
            yield "InverseDynamics", lambda _, size, role=role: _check_inverse(role, size)
            break
    if isinstance(made, ImageEditor):
        yield "ImageEditor", _check_editor
    if isinstance(made, AnsweringJudge):
        yield "AnsweringJudge", _check_judge
    if isinstance(made, Metric):
        yield "Metric", _check_metric
    if isinstance(made, Bench):
        yield "Bench", lambda bench, size: _check_bench(bench, root)


def _try_check(subject: str, check: Callable, made: Any, size: int) -> Iterator[Finding]:
    try:
        for passed, text in check(made, size):
            yield Finding(subject, passed, text)
    except Exception as error:  # of the user's own code: any
        place = inspect.trace()[-1]
        yield Finding(subject, False, f"raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno})")


Results = Iterator[tuple[bool, str]]


def _check_forward(model: ForwardDynamics, size: int) -> Results:
    sources, targets = _draw_images(size, 0), _draw_images(size, 1)
    yield from _check_likelihood(lambda rows: model.log_likelihood(*_pick(rows, sources, ACTIONS, targets)))
    first, again = (model.sample(sources[0], ACTIONS[0], 2, torch.Generator().manual_seed(0)) for _ in range(2))
    yield _describe_images(first, 2, "sample(source, action, 2)")
    same = all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    yield (
        same,
        "the same generator gives the same images"
        if same
        else ("the same generator gives other images: draw every number from `generator`, else no run can be repeated"),
    )


def _check_inverse(model: InverseDynamics, size: int) -> Results:
    sources, targets = _draw_images(size, 0), _draw_images(size, 1)
    yield from _check_likelihood(lambda rows: model.log_likelihood(*_pick(rows, sources, targets, ACTIONS)))
    answers = model.predict(sources, targets)
    fits = isinstance(answers, list) and len(answers) == 3 and all(isinstance(text, str) for text in answers)
    yield fits, f"predict of 3 pairs gives {_shorten(answers)}" + ("" if fits else "; asked is a list of 3 texts")


def _check_likelihood(ask: Callable[[list[int]], torch.Tensor]) -> Results:
    values = ask([0, 1, 2])
    shape = tuple(getattr(values, "shape", ()))
    fits = isinstance(values, torch.Tensor) and values.is_floating_point() and shape == (3,)
    if not fits:
        yield False, f"log_likelihood of 3 items gives {type(values).__name__} {shape}; asked is a float tensor (3,)"
        return
    finite = bool(torch.isfinite(values).all())
    yield (
        finite,
        f"log_likelihood of 3 items gives {_shorten(values.tolist())} nats a token"
        + ("" if finite else "; every one must be finite"),
    )
    apart = float((values.detach().cpu() - torch.cat([ask([row]).detach().cpu() for row in range(3)])).abs().max())
    yield (
        apart <= CLOSE,
        f"an item asked alone differs by {apart:.2g} nats from the same item beside others"
        + ("" if apart <= CLOSE else f"; at most {CLOSE} is rounding"),
    )


def _check_editor(editor: ImageEditor, size: int) -> Results:
    sources = _draw_images(size, 0)
    first, again = (editor.edit(sources, ACTIONS, [0, 1, 2]) for _ in range(2))
    yield _describe_images(first, 3, "edit of 3 images")
    same = all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    yield same, "the same seeds give the same images" if same else "the same seeds give other images: use `seeds`"


def _check_judge(judge: AnsweringJudge, size: int) -> Results:
    before, after = (Image.fromarray(_draw_images(size, seed)[0]) for seed in (0, 1))
    prompt = load_prompt("paper", "editing")
    text = judge.answer([before, after], prompt.fill(ACTIONS[0]), 0)
    if not isinstance(text, str):
        yield False, f"answer gives {type(text).__name__}; asked is a text"
        return
    scores, reason = prompt.criteria.read(text)
    read = "" if scores is None else ", ".join(f"{name} {value:g}" for name, value in scores.items())
    yield scores is not None, f"answers {_shorten(text)}, which reads as {read or f'no score: {reason}'}"


def _check_metric(entry: Metric, size: int) -> Results:
    if entry.compute is None:
        yield False, "has no `compute`, so nothing measures it"
        return
    target, other = _draw_images(size, 0)[0], _draw_images(size, 1)[0]
    same, apart = entry.compute(target, target), entry.compute(other, target)
    numbers = all(isinstance(value, float | int | np.floating) and np.isfinite(value) for value in (same, apart))
    if not numbers:
        yield False, f"compute gives {same!r} and {apart!r}; asked is a finite number"
        return
    fits = same > apart if entry.higher_is_better else same < apart
    way = "more" if entry.higher_is_better else "less"
    yield fits, f"{same:.4g} for the target itself, {apart:.4g} for another image; {way} is said to be better"


def _check_bench(bench: Bench, root: str | None) -> Results:
    lacking = [
        name for name in ("name", "paper", "label_columns", "asks", "default_prompt") if not hasattr(bench, name)
    ]
    yield not lacking, f"called {bench.name!r}" if not lacking else f"has no {', '.join(lacking)}"
    if not hasattr(bench, "load"):
        yield False, "has no load(root, quarantine), by which `visdyn score` reads its items"
    elif root is None:
        yield True, "not read: give --root"
    else:
        from visdyn.quarantine import Quarantine

        items, request = list(bench.load(root, Quarantine())), bench.requests(["long"], ["gt"])[0]
        half = bench.transition(items[0], request)
        yield (
            bool(half.action),
            f"{len(items)} items of {root}; the first asks {half.action!r} as {bench.file(items[0], request)}",
        )


def _describe_images(images: Any, count: int, what: str) -> tuple[bool, str]:
    fits = isinstance(images, list | tuple | np.ndarray) and len(images) == count and all(
        isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        for image in images
    )  # fmt: skip
    if fits:
        return True, f"{what} gives {count} images of {images[0].shape[1]} x {images[0].shape[0]}"
    kinds = [f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}" for image in images]
    return False, f"{what} gives {_shorten(kinds)}; asked are {count} uint8 arrays (H, W, 3)"


def _draw_images(size: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (3, size, size, 3), dtype=np.uint8))


def _pick(rows: list[int], *lists: list) -> list[list]:
    return [[values[row] for row in rows] for values in lists]


def _shorten(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, float) for one in value):
        return "[" + ", ".join(f"{one:.3g}" for one in value) + "]"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
