"""What can be measured on the real public data without a model, kept as small results (`reports/results/external/`).

`visdyn external [--aurora-bench FOLDER] [--epic-validation CSV]`

    AURORA-Bench      the Copy row of Bootstrapping's Table 6, in both geometries -> aurora_copy.csv (half a minute);
                      what a centre crop alone costs in L1 -> crop_cost.csv
    EPIC-KITCHENS-100 the reversible segments of Do-Undo's section 3.1, validation annotations -> segments.csv;
                      how many of each verb its two test sets could take of them -> test_split.csv
    both              where they come from, their hashes and the results', what was set aside -> provenance.json

The data themselves stay outside the repository; `data/external/*.yaml` says how to fetch and which bytes are meant.
The results are in git, so that the report holds them where the data are absent. A second run writes the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from visdyn.datasets.aurora import load_bench
from visdyn.datasets.bad_items import DatasetError
from visdyn.datasets.epic_kitchens import Segment, load_segments
from visdyn.evaluation.benches.aurora_copy import PUBLISHED_COPY_L1, copy_rows, crop_rows
from visdyn.mining.balanced_test import UNSEEN_VERBS, wanted_counts
from visdyn.mining.reversible import mine_pairs, statistics
from visdyn.paths import repository_root, shared_data
from visdyn.quarantine import Quarantine
from visdyn.readers import read_json
from visdyn.reporting.provenance import sha256
from visdyn.result_tables import check_columns
from visdyn.yaml_files import read_yaml

FOLDER = "reports/results/external"
EPIC_SOURCE = "epic-100-validation"
VOCABULARY = "v1"
TEST_PER_VERB = 79  # as profiles/paper: 8 x 79 and the unseen verbs are about the paper's 662 samples
AURORA_PLACE = "data/aurora-bench"
EPIC_PLACE = "data/epic-kitchens-100-annotations/EPIC_100_validation.csv"


def origin(path: str | Path, name: str, description: str, repository: str | Path) -> dict:
    """Say where a public file comes from and whether the local copy is the pinned one.

    Args:
        path: the local copy.
        name: its name in the description.
        description: file of data/external (`aurora.yaml`).
        repository: checkout with data/external.

    Returns:
        source, revision, licence, file (the name), sha256 (of the local copy), pinned (it is the one described).
    """
    entry = read_yaml(Path(repository) / "data/external" / description)
    wanted = next(file["sha256"] for file in entry["files"] if file["path"] == name)
    digest = sha256(path)
    facts = {"source": entry["url"], "revision": entry["revision"], "licence": entry["licence"]}
    return {**facts, "file": name, "sha256": digest, "pinned": digest == wanted}


def deviation(facts: dict) -> str | None:
    """Return one sentence that says that the local copy is not the pinned one, or None where it is."""
    if facts["pinned"]:
        return None
    return (
        f"The local {facts['file']} is not the pinned one: its sha256 is {facts['sha256']}, data/external names "
        f"another; fetch {facts['source']} at {facts['revision']}."
    )


def measure_aurora(root: str | Path, folder: str | Path) -> dict:
    """Write `<folder>/aurora_copy.csv` and `crop_cost.csv`, and return what was used.

    Args:
        root: AURORA's root, with test.json and data/<subset>/images.
        folder: where the result goes.

    Returns:
        usable (subset -> n), num_usable, quarantined (item, reason), images_sha256 (of all images used, in order).

    Raises:
        visdyn.datasets.bad_items.DatasetError: test.json is malformed, or lacks one of the paper's subsets.
    """
    root, quarantine = Path(root), Quarantine()
    rows = copy_rows(root, quarantine)
    _write_csv(rows, Path(folder) / "aurora_copy.csv")
    _write_csv(crop_rows(root), Path(folder) / "crop_cost.csv")
    paper = rows[rows["geometry"] == "paper"]
    return {
        "usable": {subset: int(n) for subset, n in zip(paper["subset"], paper["n"], strict=True)},
        "num_usable": int(paper["n"].sum()),
        "quarantined": _without_paths(quarantine, root),
        "images_sha256": _digest_of_images(root),
    }


def measure_epic(csv_path: str | Path, folder: str | Path) -> dict:
    """Write `segments.csv` (source `epic-100-validation`, vocabulary v1) and `test_split.csv`; return what was used.

    The annotations alone are counted: without the frames there is no quality filter as in Do-Undo's section 3.1.

    Returns:
        vocabulary, num_segments (all), num_usable (with a reversible verb), quarantined (always empty: a row that
        cannot be read is an error).

    Raises:
        visdyn.datasets.bad_items.DatasetError: the CSV lacks a column, or has a cell that cannot be read.
    """
    segments = load_segments(csv_path)
    pairs = mine_pairs(segments, VOCABULARY)
    counts = statistics(segments, pairs).assign(source=EPIC_SOURCE)
    _write_csv(counts[["source", "verb", "noun", "count", "reversible_share"]], Path(folder) / "segments.csv")
    _write_csv(_test_splits(segments), Path(folder) / "test_split.csv")
    sizes = {"num_segments": len(segments), "num_usable": len(pairs)}
    return {"vocabulary": VOCABULARY, **sizes, "quarantined": []}


def _test_splits(segments: Sequence[Segment]) -> pd.DataFrame:
    """Count what the balanced test sets of both versions could draw, before any quality filter.

    Columns: source, split (v1, v2), verb, unseen (0, 1), available, wanted, chosen.
    """
    rows = []
    for split in ("v1", "v2"):
        available = Counter(pair.verb for pair in mine_pairs(segments, split, out_of_distribution=True))
        for verb, wanted in wanted_counts(available, split, TEST_PER_VERB).items():
            chosen = min(wanted, available[verb])
            rows.append((EPIC_SOURCE, split, verb, int(verb in UNSEEN_VERBS), available[verb], wanted, chosen))
    return pd.DataFrame(rows, columns=["source", "split", "verb", "unseen", "available", "wanted", "chosen"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is at hand; return 1 where nothing is, 2 where a path that was given is missing or unreadable."""
    options = _parser().parse_args(arguments)
    found = {
        "aurora_bench": _found(options.aurora_bench, AURORA_PLACE, "test.json"),
        "epic_validation": _found(options.epic_validation, EPIC_PLACE),
    }
    missing = [path for path in (options.aurora_bench, options.epic_validation) if path and path not in found.values()]
    if missing:
        print(f"{missing[0]} is not there or has no test.json; give AURORA's root and EPIC's CSV", file=sys.stderr)
        return 2
    for name in [name for name, path in found.items() if path is None]:
        print(f"{name}: no local copy, its results stay as they are; data/external says how to fetch it")
    if not any(found.values()):
        return 1
    try:
        _measure(found, repository_root())
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _measure(found: dict[str, Path | None], repository: Path) -> None:
    folder = repository / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "provenance.json"
    provenance = read_json(record, dict) if record.is_file() else {}
    for name, path in found.items():
        if path is None:
            continue
        file, description, measure, results = MEASURES[name]
        facts = origin(path / file if path.is_dir() else path, file, description, repository)
        print(deviation(facts) or f"{name}: the local copy is the pinned one.", flush=True)
        used = measure(path, folder)
        provenance[name] = facts | used | {"results": {result: sha256(folder / result) for result in results}}
        print(f"{name}: {provenance[name]['num_usable']} usable, {len(provenance[name]['quarantined'])} set aside")
    record.write_text(json.dumps(provenance, indent=2, sort_keys=True) + "\n")


MEASURES = {
    "aurora_bench": ("test.json", "aurora.yaml", measure_aurora, ("aurora_copy.csv", "crop_cost.csv")),
    "epic_validation": (
        "EPIC_100_validation.csv",
        "epic_kitchens_100.yaml",
        measure_epic,
        ("segments.csv", "test_split.csv"),
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visdyn external", description=__doc__.splitlines()[0])
    parser.add_argument("--aurora-bench", type=Path, help="AURORA's root, with test.json and data/")
    parser.add_argument("--epic-validation", type=Path, help="EPIC_100_validation.csv")
    return parser


def _found(given: Path | None, place: str, inside: str = "") -> Path | None:
    """The path given, else the shared copy; None where there is no such file."""
    shared = shared_data()
    path = given or (shared / place if shared else None)
    return path if path and (path / inside).is_file() else None


def _digest_of_images(root: Path) -> str:
    """One hash over the bytes of every source and target image, in the order of test.json."""
    digest = hashlib.sha256()
    for item in load_bench(root, list(PUBLISHED_COPY_L1), Quarantine()):
        for image in (item.source, item.target):
            digest.update(bytes.fromhex(sha256(image)))
    return digest.hexdigest()


def _without_paths(quarantine: Quarantine, root: Path) -> list[dict[str, str]]:
    return [{"item": entry.item, "reason": entry.reason.replace(f"{root}/", "")} for entry in quarantine]


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Sorted rows, 6 significant digits, line feeds: a second run writes the same bytes."""
    check_columns(f"external/{path.name}", frame)
    frame = frame.sort_values(list(frame.columns), kind="stable")
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


if __name__ == "__main__":
    raise SystemExit(main())
