"""Images of chosen systems as plain folders in the profile: for a human study, another judge, or a reader."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from visdyn.evaluation.systems import doundo_systems, forward_systems
from visdyn.evaluation.systems.outputs import FORWARD, SystemImages, keep


def keep_all(folder: Path, names: Sequence[str], bench: str, systems: Sequence[SystemImages], items: Sequence) -> int:
    """Write `<folder>/<bench>/<system>/...` for the first seed of each named system, in place of what was there.

    Args:
        folder: `data/generated/outputs` of the profile.
        names: of the systems; those that have no images are left out.
        bench: `aurora` or `doundo`.
        systems, items: what the systems' images are of: trajectories or pairs.

    Returns:
        how many images were written.
    """
    shutil.rmtree(folder / bench, ignore_errors=True)
    (folder / bench).mkdir(parents=True)
    first = {one.name: one for one in sorted(systems, key=lambda one: -one.seed) if one.images and one.name in names}
    files = {FORWARD: forward_systems.names(items)} if bench == "aurora" else None
    return sum(keep(one, files or doundo_systems.names(items, list(one.images)), folder) for one in first.values())
