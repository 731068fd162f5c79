"""Write what each stage of a finished run took into benchmarks/results/stages.csv, which the console plans with.

    python benchmarks/stage_minutes.py            # of the run whose notes lie in .visdyn/timings

`cpu_minutes` is what all processes of the stage used together, `processes` how many of them can be at work at once: 1
for a stage that computes in its own process, empty for one that fills every core. It is a property of the code, so it
is kept as the file has it.
"""

import csv
import sys
from pathlib import Path

from visdyn.paths import repository_root
from visdyn.pipeline.guards import read_entries
from visdyn.readers import read_json, read_rows

COLUMNS = ("stage", "cpu_minutes", "processes")


def main() -> int:
    """Write the file anew; return 1 where a stage has not run here."""
    root = repository_root()
    path = root / "benchmarks/results/stages.csv"
    processes = {row["stage"]: row["processes"] for _, row in read_rows(path, COLUMNS)}
    timings = {name: root / ".visdyn/timings" / f"{name}.json" for name in read_entries(root)}
    if missing := [name for name, file in timings.items() if not file.is_file()]:
        print(f"{', '.join(missing)} did not run here; `make repro` first", file=sys.stderr)
        return 1
    rows = [(name, _used_minutes(file), processes.get(name, "")) for name, file in timings.items()]
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    print(f"{path}: {sum(float(minutes) for _, minutes, _ in rows):.0f} CPU-minutes")
    return 0


def _used_minutes(file: Path) -> str:
    return f"{read_json(file, dict)['usage']['cpu_seconds'] / 60:.2f}"


if __name__ == "__main__":
    sys.exit(main())
