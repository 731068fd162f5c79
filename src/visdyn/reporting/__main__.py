"""Build the report of a profile from whatever results it has: `visdyn report [--profile profiles/paper]`.

The two halves of Bootstrapping, C- and L-, in one report:

    visdyn report --profile profiles/paper --beside profiles/paper_liquid --out profiles/paper/joined

Unlike stage `figures` it asks for no stage to have run: what is missing stands in the report as `not run`, with the
stage that makes it. `--from-checkpoints [FOLDER]` first samples and scores again with trained models
(`visdyn.pipeline.from_checkpoints`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from visdyn.paths import profile_root
from visdyn.reporting.provenance import EDITED, recorded_outputs
from visdyn.reporting.report import build_all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 where there is no such profile)."""
    parser = argparse.ArgumentParser(prog="visdyn report", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=".", help="folder with params.yaml")
    parser.add_argument("--beside", nargs="*", default=[], metavar="PROFILE",
                        help="profiles of other families, whose models then stand in the same tables")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="folder of the report (default: PROFILE/reports; with --beside, required)"
    )
    parser.add_argument("--from-checkpoints", nargs="?", const="", metavar="FOLDER",
                        help="first sample and score again with the models here, or FOLDER's")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.beside and not options.out:
        parser.error("--beside needs --out: PROFILE/reports is the profile's own, which DVC keeps")
    if options.from_checkpoints is not None:
        if options.beside or options.out:
            parser.error("--from-checkpoints reports on one profile, where its models lie: without --beside and --out")
        from visdyn.pipeline.from_checkpoints import measure_again

        return measure_again(options.profile, Path(options.from_checkpoints) if options.from_checkpoints else None)
    try:
        root = profile_root(options.profile)
        beside = [profile_root(other) for other in options.beside]
    except FileNotFoundError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    status = build_all(root, beside=beside, reports=options.out)
    missing = status[(status["status"] == "not run") & status["reason"].str.contains("; run |is missing")]
    for row in missing.itertuples():
        print(f"{row.paper} {row.label}: {row.reason}")
    records = recorded_outputs(root)
    for output in records.edited_under("reports/results"):
        print(f"{output}: {EDITED}; `dvc repro` makes it again, `git restore` puts the committed one back")
    if records.problem:
        print(f"whether a result was {EDITED} is not known: {records.problem}")
    counts = status["status"].value_counts()
    print(
        f"{(options.out or root / 'reports') / 'index.html'}: "
        + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
