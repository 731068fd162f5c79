"""What a profile will take before it runs: `visdyn plan --profile profiles/paper --hardware zero2`.

For each stage GPU-hours, hours, memory of a GPU (and what to change where it does not fit), disk, network, requests to
judges and their price, each as likely (low-high). Counts come from params.yaml, rates from `benchmarks/plan.yaml`,
which says where each was measured; `--sources` prints them. Nothing is loaded, fetched or asked. A stage that has run
here (`.visdyn/timings`) shows beside its plan what it took.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from visdyn.compute.pool import cores
from visdyn.params import ParamsError, load_params
from visdyn.params.runtime import TRAINING_STAGES
from visdyn.paths import profile_root
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.guards import read_entries
from visdyn.pipeline.item_stages import stages_of_item
from visdyn.pipeline.plan_facts import NOTHING, Facts, Machine, Range
from visdyn.pipeline.plan_stages import Planner, StagePlan
from visdyn.pipeline.run_stages import plan_stages
from visdyn.pipeline.stage_hardware import read_hardware
from visdyn.readers import read_json

# Stages that compute in their own process: one core or one GPU, whatever there is.
ALONE = frozenset({"base_measures", "probing", "idm_evaluation", "spatial"})
ROOM = 0.97  # of a GPU's memory: what lies above may meet a fragmented allocator
HEAD = (
    "stage",
    "GPU-hours",
    "hours",
    "GiB a GPU",
    "fits",
    "disk GB",
    "network GB",
    "requests",
    "dollars",
    "took hours",
)


@dataclass(frozen=True)
class Row:
    """One line of the plan.

    Attributes:
        gpu_hours: of all GPUs together, in use.
        hours: from start to end.
        fits: yes, no, perhaps (the range has both), or empty where no GPU is needed.
        took: hours of the last run here; None where there is none.
    """

    plan: StagePlan
    gpu_hours: Range
    hours: Range
    fits: str
    took: float | None


def make_rows(profile: str, hardware: str | None, machine: Machine) -> list[Row]:
    """Plan every stage of a profile.

    Args:
        hardware: name of one file for all stages; None plans each with its own.

    Raises:
        ValueError: real data and models, and no GPU.
        KeyError: an unknown GPU.
    """
    params, facts = load_params(profile), Facts.load(machine)
    if params.world.kind != "kitchen" and not machine.gpus:
        raise ValueError(
            f"{profile} needs GPUs; say which and how many: --gpu {', '.join(facts.content['gpus'])}; --gpus"
        )
    plans = Planner(params, facts, read_hardware(params.runtime, TRAINING_STAGES, hardware)).plan()
    return [_make_row(plan, profile, facts) for plan in plans]


def _make_row(plan: StagePlan, profile: str, facts: Facts) -> Row:
    machine, alone = facts.machine, plan.stage in ALONE
    spread, single = plan.seconds("gpu"), plan.seconds("one")
    seconds = plan.seconds("once") + single
    seconds += plan.seconds("core") / (1 if alone else machine.cores)
    seconds += spread / (1 if alone else max(1, machine.gpus))
    return Row(
        plan, (spread + single) / 3600, seconds / 3600, _judge_fit(plan, facts), _read_hours(profile, plan.stage)
    )


def _judge_fit(plan: StagePlan, facts: Facts) -> str:
    if plan.memory is None:
        return ""
    room = ROOM * facts.memory
    if plan.memory.high <= room:
        return "yes"
    return "perhaps" if plan.memory.low <= room else "no"


def _read_hours(profile: str, stage: str) -> float | None:
    """Return how long the stage's last run here took, as the runner wrote it."""
    path = profile_root(profile) / ".visdyn/timings" / f"{stage}.json"
    try:
        return read_json(path, dict)["notebook"]["duration"] / 3600
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def render(rows: Sequence[Row], sources: bool = False) -> str:
    """Write the plan as text: a line a stage, the sum, what to change, what is unknown, and where numbers come from."""
    lines = [HEAD, *(_cells(row) for row in rows), _sum_cells(rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for row in rows:
        if row.fits in ("no", "perhaps"):
            change = row.plan.advice or "a larger GPU"
            text.append(f"{row.plan.stage}: {'does not fit' if row.fits == 'no' else 'may not fit'}; change: {change}")
        text += [f"{row.plan.stage}: unknown and not counted: {what}" for what in dict.fromkeys(row.plan.unknown)]
    if known := [row for row in rows if row.took is not None]:
        planned, took = sum((row.hours for row in known), NOTHING), sum(row.took for row in known)
        inside = sum(row.hours.low <= row.took <= row.hours.high for row in known)
        told = f"of {len(known)} stages that ran here {inside} took what was planned; together {took:.3g} hours"
        text.append(f"{told}, planned {_show(planned)}: {planned.likely / took:.2f} times" if took else told)
    if sources:
        for row in rows:
            text += [f"{row.plan.stage}: {work.what} = {_show_seconds(work.seconds, work.place)} <- {work.source}"
                     for work in row.plan.works]  # fmt: skip
    return "\n".join(text)


def _cells(row: Row) -> tuple[str, ...]:
    plan = row.plan
    memory = "" if plan.memory is None else _show(plan.memory)
    took = "" if row.took is None else f"{row.took:.3g}"
    return (plan.stage, _show(row.gpu_hours), _show(row.hours), memory, row.fits, _show(plan.disk), _show(plan.network),
            _show(plan.requests), _show(plan.dollars), took)  # fmt: skip


def _sum_cells(rows: Sequence[Row]) -> tuple[str, ...]:
    sums = [sum((get(row) for row in rows), NOTHING) for get in (
        lambda row: row.gpu_hours, lambda row: row.hours, lambda row: row.plan.disk, lambda row: row.plan.network,
        lambda row: row.plan.requests, lambda row: row.plan.dollars)]  # fmt: skip
    shown = [_show(value) for value in sums]
    took = [row.took for row in rows if row.took is not None]
    return ("all", *shown[:2], "", "", *shown[2:], f"{sum(took):.3g}" if took else "")


def _show(value: Range) -> str:
    """Return likely (low to high) with two digits, or the number alone where it is certain."""
    if value == NOTHING:
        return ""
    if value.low == value.high:
        return _digits(value.likely)
    return f"{_digits(value.likely)} ({_digits(value.low)}-{_digits(value.high)})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _show_seconds(value: Range, place: str) -> str:
    kind = {"core": "core-seconds", "gpu": "GPU-seconds", "one": "seconds of one GPU", "once": "seconds"}[place]
    return f"{_show(value)} {kind}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a profile's plan; return 1 where a stage does not fit into the GPU, or nothing can be planned."""
    parser = argparse.ArgumentParser(prog="visdyn plan", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=".", help="folder with params.yaml (default: the embedded default)")
    parser.add_argument("--item", help="only the stages that one table or figure waits for: b_table2")
    parser.add_argument("--hardware", help="one file in hardware/ for every stage (default: each stage's own)")
    parser.add_argument("--gpu", default="h100", help="a name of `gpus` in benchmarks/plan.yaml (default: h100)")
    parser.add_argument("--gpus", type=int, help="of all nodes (default: 1; none for a profile that renders its world)")
    parser.add_argument("--cores", type=int, default=0, help="of all nodes (default: this machine's)")
    parser.add_argument("--sources", action="store_true", help="print each count, its rate, and where that comes from")
    options = parser.parse_args(arguments)
    try:
        small = load_params(options.profile).world.kind == "kitchen"
        gpus = (0 if small else 1) if options.gpus is None else options.gpus
        rows = make_rows(options.profile, options.hardware, Machine(options.gpu, gpus, options.cores or cores()))
        if options.item:
            entries = read_entries(profile_root(options.profile))
            wanted = plan_stages(entries, stages_of_item(options.item, entries))
            rows = [row for row in rows if row.plan.stage in wanted]
    except (ParamsError, StageError, FileNotFoundError, ValueError, KeyError) as error:
        print(error.args[0] if isinstance(error, KeyError) else error, file=sys.stderr)
        return 1
    print(render(rows, options.sources))
    return int(any(row.fits == "no" for row in rows))
