"""The classes of the Do-Undo benchmark's actions: EPIC-KITCHENS-100's verb (0 to 96) and noun (0 to 299)."""

from __future__ import annotations

from pathlib import Path

from visdyn.datasets.bad_items import DatasetError
from visdyn.readers import read_items, read_rows


def load_classes(annotations: str | Path) -> dict[str, tuple[int, int]]:
    """Return (verb class, noun class) by narration id; a row without an id or a class is left out.

    Args:
        annotations: the benchmark's JSON array, or a .csv with the same columns (`visdyn.datasets.doundo_bench`).

    Raises:
        DatasetError: the file is missing, or a class is no whole number.
    """
    path, advice = Path(annotations), "give annotations_test.json or a CSV of it"
    if path.suffix.lower() == ".csv":
        rows = [row for _, row in read_rows(path, ("narration_id",), DatasetError, advice)]
    else:
        rows = read_items(path, DatasetError, advice)
    classes = {}
    for row in rows:
        if not isinstance(row, dict):  # set aside by `doundo_bench.load`
            continue
        texts = [str(row.get(key) if row.get(key) is not None else "") for key in ("verb_class", "noun_class")]
        if not row.get("narration_id") or "" in texts:
            continue
        try:
            classes[row["narration_id"]] = (int(texts[0]), int(texts[1]))
        except ValueError:
            raise DatasetError(
                f"{path.name}, {row['narration_id']}: classes {' and '.join(texts)} are no whole numbers; mend the row"
            ) from None
    return classes
