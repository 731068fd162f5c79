"""The first stage: render the kitchen, or take stock of the real data that the profile names."""

from __future__ import annotations

from dataclasses import fields

import pandas as pd

from visdyn.datasets.inventory import ANNOTATIONS, write_inventory
from visdyn.kitchen.write import ImageSettings, KitchenSizes, write_dev, write_kitchen
from visdyn.pipeline.stage import Stage


def make_world(stage: Stage) -> pd.DataFrame:
    """Write `data/kitchen` and `data/dev`; return what is in them: columns part and count, further ones for real data.

    Real data have no dev items of their own here: `data/dev` then holds an inventory of nothing.
    """
    world, folder, dev = stage.params, stage.path("data/kitchen"), stage.path("data/dev")
    if stage.kitchen is None:
        data = stage.settings.data
        roots = {name: stage.data(name) if getattr(data, name) else None for name in ANNOTATIONS}
        found = write_inventory(folder, roots)
        write_inventory(dev, {})
        return found.assign(part=found["dataset"] + ": " + found["part"]).rename(columns={"size": "count"})[
            ["part", "count", "found", "sha256"]
        ]
    sizes = KitchenSizes(**{field.name: getattr(world, field.name) for field in fields(KitchenSizes)})
    image = ImageSettings(size=world.image_size, jitter=world.jitter, noise=world.noise)
    counts = write_kitchen(folder, sizes, stage.seed, image)
    counts |= {f"dev_{part}": count for part, count in write_dev(dev, world.dev, stage.seed, image).items()}
    return pd.Series(counts, name="count").rename_axis("part").reset_index()
