"""What a benchmark of images is: the images it asks of a system, where each lies, and what it is judged by.

AURORA-Bench (Bootstrapping) and the Do-Undo benchmark are two instances; systems, judges, kept images, accounts and
leaderboard ask them and know neither. A third is a class here, its metrics in `metrics/registry.py`, and its scoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from visdyn.evaluation.metrics.registry import PAPERS
from visdyn.models.editors.protocol import Request
from visdyn.plugins import installed, make_plugin
from visdyn.trajectory import ReversiblePair, Trajectory

SUFFIXES = {("forward", ""): "fwd", ("reverse", "gt"): "rev", ("reverse", "generated"): "rev_generated"}  # Do-Undo's


@runtime_checkable
class Bench(Protocol):
    """A benchmark of images.

    Attributes:
        name: in params.yaml and in folders.
        paper: B or D.
        label_columns: columns of its scores that belong to a metric's name on the leaderboard.
        asks: the criteria of judges that answer in words (`evaluation.judges.judge_criteria.CRITERIA`).
        default_prompt: what they are asked unless their entry says otherwise: the paper's own, where it is printed.
        lacks_targets: whether targets of some items were never published.

    One of your own, for `visdyn score`, also has `load(root, quarantine)`, which returns its items (`id` of each).
    """

    name: str
    paper: str
    label_columns: tuple[str, ...]
    asks: str
    default_prompt: str
    lacks_targets: bool

    def requests(self, prompts: Sequence[str], reverse_from: Sequence[str]) -> list[Request]:
        """Return the images asked of each item, by prompt lengths and by what is undone from."""

    def transition(self, item, request: Request) -> Trajectory:
        """Return what a request is about: the true image before (of a chain too), the instruction, the true target."""

    def subset(self, item) -> str:
        """Return the item's subset in tables."""

    def file(self, item, request: Request) -> str:
        """Return the image's file below a system's folder."""


class AuroraBench:
    """AURORA-Bench: one image of each trajectory, `<subset>/<id>.png`."""

    name, paper, label_columns, lacks_targets = "aurora", "B", (), True
    asks, default_prompt = "editing", "paper"

    def requests(self, prompts: Sequence[str] = (), reverse_from: Sequence[str] = ()) -> list[Request]:
        """Return the one request; there is one prompt and one direction."""
        return [Request()]

    def transition(self, item: Trajectory, request: Request) -> Trajectory:
        """Return the item itself."""
        return item

    def subset(self, item: Trajectory) -> str:
        """Return the data set that the item comes from."""
        return item.subset

    def file(self, item: Trajectory, request: Request) -> str:
        """Return `<subset>/<id>.png`."""
        return f"{item.subset}/{item.id}.png"


class DoUndoBench:
    """Do-Undo: a forward image of each pair, and one undone from each kind of start, in the authors' file names.

    `<prompt>/<id>_fwd.png`, `<id>_rev.png` (undone from the true end image, as the authors' code does) and
    `<id>_rev_generated.png` (undone from the generated image, as the paper's prose says).
    """

    name, paper, lacks_targets = "doundo", "D", False
    asks, default_prompt = "doundo", "kit"
    label_columns = ("direction", "reverse_from", "prompt")

    def requests(self, prompts: Sequence[str], reverse_from: Sequence[str]) -> list[Request]:
        """Return, for each prompt length, the forward image and one undone from each of `reverse_from`."""
        kinds = [("forward", ""), *(("reverse", origin) for origin in reverse_from)]
        return [Request(prompt, *kind) for prompt in prompts for kind in kinds]

    def transition(self, item: ReversiblePair, request: Request) -> Trajectory:
        """Return the pair's forward or reverse half."""
        half = item.forward if request.direction == "forward" else item.reverse
        return half(request.prompt)

    def subset(self, item: ReversiblePair) -> str:
        """Return the pair's verb."""
        return item.verb

    def file(self, item: ReversiblePair, request: Request) -> str:
        """Return the authors' name in a folder of the prompt length."""
        return f"{request.prompt}/{item.id}_{SUFFIXES[request.direction, request.reverse_from]}.png"


AURORA_BENCH, DOUNDO_BENCH = AuroraBench(), DoUndoBench()
BENCHES: dict[str, Bench] = {bench.name: bench for bench in (AURORA_BENCH, DOUNDO_BENCH)}


def find_bench(name: str) -> Bench:
    """Return a benchmark: one of `BENCHES`, or one of your own, named as `visdyn.plugins` says.

    Raises:
        ValueError: there is no such benchmark, or it has another one's name or paper.
    """
    if name in BENCHES:
        return BENCHES[name]
    own = make_plugin("benches", name)
    if own is None:
        known = ", ".join([*BENCHES, *installed("benches")])
        raise ValueError(f"no benchmark {name!r}; one of {known}, or a file's: my_bench.py:MyBench")
    if own.name in BENCHES or (own.paper in PAPERS.values() and PAPERS.get(own.name) != own.paper):
        raise ValueError(f"{name} calls itself {own.name!r} of paper {own.paper!r}, which another benchmark has")
    PAPERS[own.name] = own.paper
    return own
