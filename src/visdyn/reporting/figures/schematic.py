"""Schematics in place of the papers' illustrations: boxes and arrows of what the kit does, in our own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from visdyn.reporting.figures.style import INK, MUTED, styled

MARK = "schematic, ours"
DATA, MODEL, STEP = "#f2f2ee", "#cfe3f1", "#f6e3bf"  # light, so that black text reads in colour and in grey
EDGES = {DATA: "-", MODEL: "-", STEP: "--"}


@dataclass(frozen=True)
class Box:
    """A box: centre (x, y) in units of the figure's grid, text, kind (DATA, MODEL, STEP) and width."""

    x: float
    y: float
    text: str
    kind: str = DATA
    width: float = 1.7
    height: float = 0.72


@styled
def diagram(boxes: Mapping[str, Box], arrows: Sequence[tuple[str, str, str]], titles: Mapping[str, float]) -> Figure:
    """Draw boxes and labelled arrows.

    Args:
        boxes: name -> box.
        arrows: (from, to, label).
        titles: text -> x, above the boxes.

    Raises:
        KeyError: an arrow names no box.
    """
    right = max(box.x + box.width / 2 for box in boxes.values()) + 0.15
    top = max(box.y + box.height / 2 for box in boxes.values()) + (0.5 if titles else 0.15)
    bottom = min(box.y - box.height / 2 for box in boxes.values()) - 0.35
    left = min(box.x - box.width / 2 for box in boxes.values()) - 0.15
    figure = Figure(figsize=(0.92 * (right - left), 0.92 * (top - bottom)))
    axes = figure.subplots()
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.axis("off")
    for start, end, label in arrows:
        _draw_arrow(axes, boxes[start], boxes[end], label)
    for box in boxes.values():
        _draw_box(axes, box)
    for text, x in titles.items():
        axes.text(x, top - 0.2, text, ha="center", va="center", fontsize=9.5)
    axes.text(right - 0.1, bottom + 0.1, MARK, ha="right", va="bottom", fontsize=7, color=MUTED, style="italic")
    return figure


def bootstrapping() -> Figure:
    """Bootstrapping, Figure 1: forward from inverse dynamics, by synthetic labels and by verification."""
    boxes = {
        "video": Box(0, 3, "unlabelled clips:\npairs of key-frames"),
        "idm": Box(0, 1.7, "inverse dynamics (IDM):\ntwo images to an action", MODEL, 2.0),
        "real": Box(0, 0.4, "real triplets\n(image, action, image)"),
        "labels": Box(3.1, 1.7, "synthetic triplets,\nlikeliest of each class"),
        "fdm": Box(3.1, 0.4, "forward dynamics (FDM):\nweighted loss on tokens", MODEL, 2.0),
        "ask": Box(6.1, 3, "image and action"),
        "sample": Box(6.1, 1.7, "FDM draws\nK candidates", MODEL),
        "rank": Box(8.7, 1.7, "IDM: how likely is the\naction, given both images?", MODEL, 2.2),
        "best": Box(8.7, 0.4, "likeliest candidate"),
    }
    arrows = [
        ("video", "idm", ""), ("real", "idm", "trains"), ("idm", "labels", "labels"), ("labels", "fdm", "trains"),
        ("real", "fdm", "trains"), ("ask", "sample", ""), ("sample", "rank", ""), ("rank", "best", "picks"),
    ]  # fmt: skip
    return diagram(boxes, arrows, {"1. learning from synthetic triplets": 1.55, "2. verification at test time": 7.4})


def curation() -> Figure:
    """Do-Undo, Figure 2: from annotated segments to pairs of prompts and images."""
    boxes = {
        "epic": Box(0, 1.5, "EPIC-KITCHENS segments:\nverb, noun, frames", DATA, 2.1),
        "verbs": Box(2.6, 1.5, "verb has an inverse\nin the vocabulary?", STEP),
        "ends": Box(5.0, 1.5, "first and last frame"),
        "filter": Box(7.4, 1.5, "VLM filter: sharp, object\nin both, action done?", STEP, 2.1),
        "expand": Box(7.4, 0.2, "VLM expands the action\nfrom 5 frames", STEP, 2.1),
        "reverse": Box(4.8, 0.2, "and its inverse from\nthe frames in reverse", STEP, 1.9),
        "sample": Box(1.6, 0.2, "sample: two images,\nprompts to do and to undo", DATA, 2.3),
    }
    return diagram(boxes, [(start, end, "") for start, end in pairwise(boxes)], {})


def architecture() -> Figure:
    """Do-Undo, Figure 5: BAGEL performs the action and reverses it; the consistency loss ties the ends together."""
    boxes = {
        "source": Box(0, 2.2, "input image and\nprompt to do"),
        "target": Box(0, 0.4, "true final image and\nprompt to undo", DATA, 1.8),
        "encode": Box(2.6, 1.3, "ViT and VAE tokens,\ntext tokens", STEP, 1.8),
        "bagel": Box(5.1, 1.3, "BAGEL: one transformer,\nexperts to understand\nand to generate", MODEL, 2.1, 0.95),
        "forward": Box(7.8, 2.2, "forward image\n(rectified flow)"),
        "reverse": Box(7.8, 0.4, "reverse image\n(rectified flow)"),
        "loss": Box(10.3, 1.3, "loss: flow matching,\n+ 0.5 L1(input, reverse)\nfor Do-Undo(c)", STEP, 2.1, 0.95),
    }
    arrows = [
        ("source", "encode", ""), ("target", "encode", ""), ("encode", "bagel", ""), ("bagel", "forward", ""),
        ("bagel", "reverse", ""), ("forward", "loss", ""), ("reverse", "loss", ""),
    ]  # fmt: skip
    return diagram(boxes, arrows, {})


def _draw_box(axes, box: Box) -> None:
    corner = (box.x - box.width / 2, box.y - box.height / 2)
    style = {"boxstyle": "round,pad=0,rounding_size=0.1", "facecolor": box.kind, "edgecolor": INK, "linewidth": 0.9}
    axes.add_patch(FancyBboxPatch(corner, box.width, box.height, linestyle=EDGES[box.kind], zorder=2, **style))
    axes.text(box.x, box.y, box.text, ha="center", va="center", fontsize=7.5, zorder=3)


def _draw_arrow(axes, start: Box, end: Box, label: str) -> None:
    ends = [_find_border(start, end), _find_border(end, start)]
    axes.add_patch(
        FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, linewidth=1, color=INK, shrinkA=0, shrinkB=1)
    )
    if label:
        level = start.y == end.y
        middle = [sum(pair) / 2 for pair in zip(*ends, strict=True)]
        place = {"xytext": (0, 5) if level else (4, 0), "ha": "center" if level else "left", "va": "center"}
        axes.annotate(label, middle, textcoords="offset points", fontsize=7, color=MUTED, **place)


def _find_border(box: Box, towards: Box) -> tuple[float, float]:
    """Where the line between two centres leaves a box."""
    x, y = towards.x - box.x, towards.y - box.y
    # The nearer of the vertical and the horizontal side; 9 stands for a side that the line never meets.
    scale = min(box.width / 2 / abs(x) if x else 9, box.height / 2 / abs(y) if y else 9)
    return box.x + scale * x, box.y + scale * y
