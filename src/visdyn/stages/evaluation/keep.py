"""Images of chosen systems as plain folders in the profile: for a human study, another judge, or a reader."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from visdyn.evaluation.benches.bench import Bench
from visdyn.evaluation.systems.outputs import SystemImages, keep


def keep_all(folder: Path, names: Sequence[str], bench: Bench, systems: Sequence[SystemImages], items: Sequence) -> int:
    """Write `<folder>/<bench>/<system>/...` for the first chain of each named system, in place of what was there.

    Args:
        folder: `data/generated/outputs` of the profile.
        names: of the systems; those that have no images are left out.
        bench: whose items these are.
        systems, items: what the systems' images are of: trajectories or pairs.

    Returns:
        how many images were written.
    """
    shutil.rmtree(folder / bench.name, ignore_errors=True)
    (folder / bench.name).mkdir(parents=True)
    first = {one.name: one for one in sorted(systems, key=lambda one: -one.chain) if one.images and one.name in names}
    count = 0
    for one in first.values():
        files = {request: [bench.file(item, request) for item in items] for request in one.images}
        count += keep(one, files, folder)
    return count
