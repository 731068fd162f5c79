"""The triplets that an IDM has labelled, on disk: `triplets.jsonl`, one a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from visdyn.readers import read_records

FILE = "triplets.jsonl"
_IMAGES = ("source", "target")


def write_annotated(rows: Iterable[dict], folder: str | Path) -> None:
    """Write rows with `source` and `target` (paths), `action`, `true_action` ("" if unknown) and where they are from.

    Images are named from `folder`: the file is the same in every checkout, and may be moved with its images.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({**row, **{end: os.path.relpath(row[end], folder) for end in _IMAGES}}) for row in rows]
    (folder / FILE).write_text("".join(f"{line}\n" for line in lines))


def read_annotated(folder: str | Path) -> list[dict]:
    """Read what `write_annotated` wrote; `source` and `target` are absolute paths."""
    folder = Path(folder).absolute()
    rows = read_records(folder / FILE, advice="run stage annotation")
    return [{**row, **{end: os.path.normpath(folder / row[end]) for end in _IMAGES}} for row in rows]
