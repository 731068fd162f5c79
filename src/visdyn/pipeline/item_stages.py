"""Which stages write what one table or figure of a paper is computed from, and the commands that make it alone."""

from __future__ import annotations

from collections.abc import Collection

from visdyn.pipeline.errors import StageError
from visdyn.reporting import items


def stages_of_item(name: str, known: Collection[str]) -> list[str]:
    """Return the stages that write the results of an item, in DVC's order; what they wait for DVC knows.

    Args:
        name: id in data/published/items.yaml.
        known: stages of a profile's dvc.yaml.

    Raises:
        StageError: there is no such item, or it is computed from no stage's results.
    """
    found = items.load()
    if name not in (every := [item.id for item in found]):
        raise StageError(f"there is no item {name!r}; one of {', '.join(every)}")
    folders = {file.partition("/")[0] for file in found[name].files}
    stages = [stage for stage in known if stage in folders]
    if not stages:
        raise StageError(f"{name} is computed from no stage's results: `visdyn report` makes it, or says what it needs")
    return stages


def commands_of_item(name: str, profile: str) -> list[str]:
    """Return what to run for an item alone: its stages, then a report of what there is.

    Stage `figures` waits for every stage of both papers; `visdyn report` takes what results there are.
    """
    return [f"visdyn run --profile {profile} --item {name}", f"visdyn report --profile {profile}"]
