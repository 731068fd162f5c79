"""Choices made on the dev items: each value of a declared choice is tried, measured, and kept as a row.

`visdyn choices [NAME ...] [--chains 0 1] [--values 0.001 ...] [--force] [--profile .]`

What may be chosen stands in `data/choices.yaml`. A value is trained from the chain's own checkpoints by the kit's own
recipes (`stages.trials`; what the pipeline has trained with it already is taken), measured on `data/dev`, and written
to `reports/results/choices/<name>.csv`; what stands there is not tried again. No stage of the pipeline reads these
tables, and none of them runs this; `docs/choices.md` shows them. Without anything left to try the command only brings
the tables and that page up to date with params.yaml.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from itertools import product

import pandas as pd

from visdyn.params.choices import Choice, changed, current, read_choices, shown
from visdyn.params.reading import ParamsError, nearest, read_values
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.fingerprint import read_processor
from visdyn.pipeline.stage import Stage, open_stage
from visdyn.reporting.choices_page import update_page
from visdyn.result_tables import CHOICE, read_columns
from visdyn.stages.trials import open_trial, run_trials


def try_values(
    stage: Stage, choice: Choice, chains: Sequence[int], values: Sequence[str] = (), force: bool = False
) -> pd.DataFrame:
    """Try the values of a choice that have no row yet, and write its table.

    Args:
        stage: `open_stage("choices", profile)`.
        chains: whose checkpoints the trials start from.
        values: as results name them; none is all.
        force: tries again what has rows, too.

    Returns:
        the table as written: columns `result_tables.CHOICE`.

    Raises:
        ParamsError: a value that is not declared, or one that params.yaml does not admit.
        StageError: dev items or checkpoints are missing.
    """
    path, plain = stage.results() / f"{choice.name}.csv", read_values(stage.root)
    table = read_columns(f"choices/{path.name}", path) if path.is_file() else pd.DataFrame(columns=list(CHOICE))
    there = set() if force else set(zip(table["value"], table["chain"], strict=True))
    wanted = [choice.find(value) for value in values] or choice.values
    folder, now = stage.root / ".visdyn/choices" / choice.name, current(choice, plain)
    trials = []
    for chain, entries in product(chains, wanted):
        value = shown(entries)
        if (value, chain) not in there:
            settings = changed(choice, entries, plain, stage.root / "params.yaml")
            trials.append(open_trial(stage, settings, value, chain, folder, choice.arm, own=value == now))
    if trials:
        print(f"{choice.name}: {', '.join(trial.run for trial in trials)}", flush=True)
        # Encoded triplets and images are of data and models that may have changed; unfinished trainings go on.
        for stale in ("triplets", "outputs", "mined"):
            shutil.rmtree(folder / stale, ignore_errors=True)
        found = run_trials(choice.trial, trials, stage.chains[0])
        found = found.assign(choice=choice.name, parameter=choice.parameter, processor=read_processor()[0])
        again = {(trial.value, trial.chain) for trial in trials}
        kept = [row not in again for row in zip(table["value"], table["chain"], strict=True)]
        table = pd.concat([table[kept], found], ignore_index=True)
    if len(table):
        table["chosen"] = (table["value"] == now).astype(int)
        table = table.astype({"chain": int, "n": int, "steps": "Int64"})[list(CHOICE)]
        stage.write_table(table, path.name)
    shutil.rmtree(folder, ignore_errors=True)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what the arguments name; return 2 where a name, a value, the dev items or a checkpoint are missing."""
    options = _parser().parse_args(arguments)
    try:
        choices = read_choices()
        if unknown := [name for name in options.names if name not in choices]:
            raise ParamsError(f"no choice is called {unknown[0]!r}; {nearest(unknown[0], list(choices))}")
        stage = open_stage("choices", options.profile)
        chains = stage.chains if options.chains is None else options.chains
        for name in options.names or choices:
            try_values(stage, choices[name], chains, options.values, options.force)
            if stage.root == stage.repository:
                update_page(stage.repository)
    except (ParamsError, StageError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visdyn choices", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a choice of data/choices.yaml; none is all")
    parser.add_argument("--chains", nargs="+", type=int, help="whose checkpoints trials start from; default: all")
    parser.add_argument("--values", nargs="+", default=(), help="values to try, as the results name them; default: all")
    parser.add_argument("--force", action="store_true", help="try again what has rows")
    parser.add_argument("--profile", default=".", help="folder with params.yaml")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
