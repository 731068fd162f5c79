"""Unusable items of a dataset: into the caller's quarantine, or a warning where there is none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path

from visdyn import images
from visdyn.paths import printable
from visdyn.quarantine import Quarantine


class DatasetError(ValueError):
    """A dataset's file does not have the layout that its reader expects; the message says where and what to do."""


@contextmanager
def collecting(quarantine: Quarantine | None, origin: str | Path, usable: Sized) -> Iterator[Quarantine]:
    """Yield the quarantine to fill; where the caller gave none, warn at the end about what would have gone into it.

    Args:
        usable: the items that are kept, filled inside; `Quarantine.refuse_most` compares with it at the end.

    Raises:
        visdyn.quarantine.SetAsideError: more was set aside than the quarantine allows.
    """
    bad = Quarantine() if quarantine is None else quarantine
    before = len(bad)
    yield bad
    bad.refuse_most(origin, len(usable), before)
    if quarantine is None and len(bad):
        warnings.warn(f"{origin}: {bad.summary()}; pass a Quarantine to keep the list", stacklevel=4)


def require_rows(rows: Sized, origin: str | Path, advice: str = "fetch it again") -> None:
    """Refuse an empty data set: what follows would succeed with nothing.

    Raises:
        DatasetError: there is no row.
    """
    if not len(rows):
        raise DatasetError(f"{origin} holds no item; {advice}")


def image_problem(path: Path, decode: bool = False) -> str | None:
    """Return why the image at `path` cannot be used, or None. Only `decode=True` reads the pixels."""
    try:
        if not path.is_file():
            return f"image {printable(path)} does not exist"
        if path.stat().st_size == 0:
            return f"image {printable(path)} is empty"
    except OSError as error:  # a name that is too long, a folder that may not be read
        return f"image {printable(path)} cannot be read ({error.strerror})"
    if decode:
        try:
            images.load(path)
        except images.ImageError as error:
            return str(error)
    return None
