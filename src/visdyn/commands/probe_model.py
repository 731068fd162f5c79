"""`visdyn probe MODEL`: how often a model finds real trajectories likelier than manipulated ones (Bootstrapping, 2)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from visdyn.datasets.aurora import load_bench
from visdyn.inference.probing import preferences, probe
from visdyn.models import load_model
from visdyn.paths import repository_root
from visdyn.quarantine import Quarantine

KITCHEN = "data/kitchen/aurora"


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe a model and print its preferences."""
    options = _make_parser().parse_args(arguments)
    root, quarantine = options.root or _find_kitchen(), Quarantine()
    items = load_bench(root, options.subsets, quarantine)
    if options.items:
        items = [item for place, item in _number_within_subsets(items) if place < options.items]
    model = load_model(options.model, device=options.device)
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        print(f"{done} of {len(items)} trajectories", flush=True)

    name = options.name or Path(options.model).name
    table = probe(model, items, options.seed, name, options.definitions, options.draws, report)
    print(f"{name}: n = {len(items)} trajectories of {root}, {quarantine.summary()}")
    rates = preferences(table).drop(columns=["model", "chain"])
    print(rates.to_string(index=False, float_format="%.1f"))
    print(
        "preferred: percent of comparisons in which the real trajectory is likelier; a coin says 50, a tie counts as no"
    )
    if options.out:
        table.to_csv(options.out, index=False, float_format="%.6g")
        print(f"log-likelihoods: {options.out}")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visdyn probe", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder, hub id, or your own: my_model.py:MyModel")
    parser.add_argument("--root", help=f"folder of AURORA's test.json (default: {KITCHEN}, where `make repro` has run)")
    parser.add_argument("--subsets", nargs="*", help="of the benchmark (default: the paper's five)")
    parser.add_argument("--items", type=int, default=0, help="first items of each subset only")
    parser.add_argument(
        "--definitions", nargs="+", default=["auto"], help="of next-image likelihood: auto, D1, D2, ..."
    )
    parser.add_argument("--draws", type=int, default=1, help="random actions and observations for each trajectory")
    parser.add_argument("--name", help="of the model in the table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", help="CSV of every log-likelihood")
    return parser


def _find_kitchen() -> Path:
    folder = repository_root() / KITCHEN
    if not (folder / "test.json").is_file():
        raise FileNotFoundError(f"there is no {folder}; run `visdyn run world`, or give --root, AURORA's folder")
    return folder


def _number_within_subsets(items: list) -> list[tuple[int, object]]:
    seen: dict[str, int] = {}
    numbered = []
    for item in items:
        numbered.append((seen.get(item.subset, 0), item))
        seen[item.subset] = seen.get(item.subset, 0) + 1
    return numbered
