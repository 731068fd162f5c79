"""The contact sheet: every kind of action before, during and after, for the world notebook."""

from __future__ import annotations

import cv2
import numpy as np

from visdyn.kitchen.motion import render_moment
from visdyn.kitchen.render import render
from visdyn.kitchen.scene import make_scene, random_transition
from visdyn.kitchen.state import KINDS
from visdyn.kitchen.text import canonical


def contact_sheet(seed: int, zoom: int = 3, columns: int = 3) -> np.ndarray:
    """Draw the 12 kinds of action, each as start | hand at work | end with its text.

    Returns:
        uint8 (H, W, 3), RGB; images are enlarged `zoom` times.
    """
    tiles = [_draw_tile(seed, index, kind, zoom) for index, kind in enumerate(KINDS)]
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows, 0)


def _draw_tile(seed: int, index: int, kind: str, zoom: int) -> np.ndarray:
    rng = np.random.default_rng([seed, index])
    transition = random_transition(rng, make_scene(seed, "train", index), kind)
    start, action, scene = transition.start, transition.action, transition.scene
    images = [render(start, scene, rng), render_moment(start, scene, action, 0.5), render(transition.end, scene, rng)]
    side, gap, band = 64 * zoom, 2 * zoom, 26
    tile = np.full((side + band + gap, 3 * (side + gap) + 2 * gap, 3), 255, np.uint8)
    for place, image in enumerate(images):
        left = place * (side + gap)
        tile[band : band + side, left : left + side] = cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST)
    cv2.putText(tile, canonical(action), (2, 18), cv2.FONT_HERSHEY_DUPLEX, 0.55, (30, 30, 30), 1, cv2.LINE_AA)
    return tile
