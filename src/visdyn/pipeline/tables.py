"""How results are written: the same values give the same bytes.

The one module of `visdyn.pipeline` that stages depend on (`pipeline/dependencies.py`): an edit here changes results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


def write_table(table: pandas.DataFrame, path: Path, sort: bool = True) -> None:
    """Write a table as CSV: floats with 6 significant digits, no index, lines that end with a line feed.

    Args:
        sort: order the rows by the columns from left to right.
    """
    table = table.reset_index(drop=True)
    if sort and len(table):
        table = table.sort_values(list(table.columns), kind="stable")
    floats = table.select_dtypes("float").columns
    table = table.assign(**{name: table[name] + 0.0 for name in floats})  # -0.0 becomes 0.0
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def write_json(value: Any, path: Path) -> None:
    """Write plain values as JSON: sorted keys, floats with 6 significant digits."""
    path.write_text(json.dumps(_round_floats(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _round_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _round_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_round_floats(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") + 0.0
    return value
