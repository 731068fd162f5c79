"""Build the report of a profile from whatever results it has: `python -m visdyn.reporting [--profile profiles/paper]`.

Unlike stage `figures` it asks for no stage to have run: what is missing stands in the report as `not run`, with the
stage that makes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from visdyn.paths import profile_root
from visdyn.reporting.report import build_all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 where there is no such profile)."""
    parser = argparse.ArgumentParser(prog="python -m visdyn.reporting", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=".", help="folder with params.yaml")
    try:
        root = profile_root(parser.parse_args(arguments).profile)
    except FileNotFoundError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    status = build_all(root)
    missing = status[(status["status"] == "not run") & status["reason"].str.contains("; run |is missing")]
    for row in missing.itertuples():
        print(f"{row.paper} {row.label}: {row.reason}")
    counts = status["status"].value_counts()
    print(f"{root / 'reports/index.html'}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
