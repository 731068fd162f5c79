"""The classes of the Do-Undo benchmark's actions: EPIC-KITCHENS-100's verb (0 to 96) and noun (0 to 299)."""

from __future__ import annotations

import re
from pathlib import Path

from visdyn.datasets.bad_items import DatasetError
from visdyn.quarantine import Quarantine
from visdyn.readers import read_items, read_rows


def load_classes(annotations: str | Path, quarantine: Quarantine | None = None) -> dict[str, tuple[int, int]]:
    """Return (verb class, noun class) by narration id; a row without an id or a class is left out.

    Args:
        annotations: the benchmark's JSON array, or a .csv with the same columns (`visdyn.datasets.doundo_bench`, which
            sets aside the rows that are none).
        quarantine: takes rows of which a class is no whole number; where it is None such a row is an error.

    Raises:
        DatasetError: the file is missing.
    """
    path, advice = Path(annotations), "give annotations_test.json or a CSV of it"
    if path.suffix.lower() == ".csv":
        ragged = Quarantine()  # set aside by `doundo_bench.load`, as is what is no object below
        rows = [row for _, row in read_rows(path, ("narration_id",), DatasetError, advice, ragged.add)]
    else:
        rows = [row for row in read_items(path, DatasetError, advice) if isinstance(row, dict)]
    classes = {}
    for row in rows:
        name, texts = row.get("narration_id"), [row.get(key) for key in ("verb_class", "noun_class")]
        if not isinstance(name, str) or not name or None in texts or "" in texts:
            continue
        if all(re.fullmatch(r"[0-9]+", str(text).strip()) for text in texts):
            classes[name] = (int(texts[0]), int(texts[1]))
            continue
        reason = f"classes {texts[0]} and {texts[1]} are no whole numbers: its action is not recognised"
        if quarantine is None:
            raise DatasetError(f"{path.name}, {name}: {reason}; mend the row")
        quarantine.add(str(name), reason)
    return classes
