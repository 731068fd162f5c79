"""Contact sheets for the reader of a notebook: what a stage's models made, the failures too.

No result hangs on a picture: `visdyn.pipeline.dependencies` neither counts this module nor follows its imports, so that
an edit here runs no stage again. Samples are drawn from generators of their own and cost seconds.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image

from visdyn.compute.seeds import sampling_seed
from visdyn.datasets.annotated import read_annotated
from visdyn.datasets.aurora import load_bench
from visdyn.datasets.doundo_bench import load as load_pairs
from visdyn.images import ImageRef, load
from visdyn.inference.do_undo import do_and_undo
from visdyn.inference.generation import generate
from visdyn.mining.mined_files import read_pairs
from visdyn.models import load_model
from visdyn.models.editors import load_editor
from visdyn.pipeline.stage import Stage
from visdyn.training.runs import member, run_name, runs_in
from visdyn.trajectory import NEGATIVE_KINDS, ReversiblePair, Trajectory, negatives

LARGEST_SIDE = 256  # pixels; larger images are shrunk


def contact_sheet(
    columns: Mapping[str, Sequence[ImageRef | None]],
    captions: Sequence[str],
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Image.Image:
    """Draw rows of images, a head above each column, a caption above each row.

    Args:
        columns: head -> one image for each row; None leaves a gap.
        captions: one for each row.
        notes: head -> one line below each of that column's images.

    Raises:
        ValueError: there is nothing to draw, or a column has another number of images than there are captions.
    """
    notes = notes or {}
    counts = {head: len(images) for head, images in columns.items()}
    if not captions or set(counts.values()) != {len(captions)}:
        raise ValueError(f"a contact sheet of {len(captions)} rows needs as many images in each column, not {counts}")
    texts = [textwrap.wrap(caption, 28 * len(columns), max_lines=2, placeholder=" ...") for caption in captions]
    lines = max(map(len, texts))
    height = (1.65 + 0.15 * lines) * len(captions) + 0.3
    figure = Figure(figsize=(1.5 * len(columns) + 0.2, height), layout="constrained")
    grid = figure.subplots(len(captions), len(columns), squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    above = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 8}
    for column, (head, images) in enumerate(columns.items()):
        for row, image in enumerate(images):
            axes = grid[row][column]
            if image is not None:
                shown = load(image).copy()
                shown.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
                axes.imshow(shown, interpolation="nearest")
            if head in notes:
                axes.text(0.5, -0.03, notes[head][row], transform=axes.transAxes, ha="center", va="top", fontsize=6.5)
        grid[0][column].annotate(head, (0.5, 1), xytext=(0, 6 + 11 * lines), ha="center", **above)
    for row, text in enumerate(texts):
        # Outside the layout: a long caption would part the columns.
        grid[row][0].annotate("\n".join(text), (0, 1), xytext=(0, 4), **above).set_in_layout(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return Image.open(buffer)


def spread(items: Sequence, count: int) -> list:
    """Return `count` of the items, or all where there are fewer, evenly spread over their order."""
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)) if len(items) else ()
    return [items[place] for place in places]


def decoded_images(stage: Stage, count: int = 5) -> Image.Image | None:
    """Show test images before and after the tokenizer of `models/base`; None where no model was trained here."""
    if stage.kitchen is None:
        return None
    model = load_model(stage.reference("models/base"), device=stage.device)
    items = spread(load_bench(stage.data("aurora")), count)
    squares = model.decode(model.encode([item.target for item in items]))
    images = [model.restore(image, item.target) for image, item in zip(squares, items, strict=True)]
    columns = {"image": [item.target for item in items], "encoded, decoded": images}
    return contact_sheet(columns, [item.action for item in items])


def preferred_negatives(trajectories: Sequence[Trajectory], likelihoods: pd.DataFrame, seed: int) -> Image.Image | None:
    """Show the items that the first model tells best and worst from their negatives, by the action's likelihood (IDP).

    Args:
        likelihoods: of `visdyn.inference.probing.probe`; where it has several draws of a negative, their mean is shown.
            None is returned where it is empty, because no model could be loaded.
    """
    if not len(likelihoods):
        return None
    rows = likelihoods[(likelihoods["task"] == "idp") & (likelihoods["model"] == likelihoods["model"].iloc[0])]
    means = rows.pivot_table(index=["subset", "id"], columns="kind", values="log_likelihood")
    margin = means["reference"] - means[list(NEGATIVE_KINDS)].max(axis=1)
    shown = {kind: negatives(trajectories, kind, seed) for kind in NEGATIVE_KINDS}
    keys = [(item.subset, str(item.id)) for item in trajectories]
    columns: dict[str, list] = {"source": [], "target": []}
    captions = []
    for subset, name in (margin.idxmax(), margin.idxmin()):
        place = keys.index((subset, str(name)))
        for kind, item in (("reference", trajectories[place]), *((kind, shown[kind][place]) for kind in shown)):
            columns["source"].append(item.source)
            columns["target"].append(item.target)
            captions.append(f"{kind}: {item.action} ({means.loc[(subset, name), kind]:.2f} nats)")
    return contact_sheet(columns, captions)


def mined_pairs(stage: Stage, count: int = 6) -> Image.Image | None:
    """Show key-frame pairs of `data/mined`; None where nothing was mined."""
    pairs = spread(read_pairs(stage.path("data/mined")), count)
    if not pairs:
        return None
    columns = {"first key-frame": [pair.source for pair in pairs], "next key-frame": [pair.target for pair in pairs]}
    return contact_sheet(columns, [f"{pair.class_name}, frames {pair.frame_a}, {pair.frame_b}" for pair in pairs])


def reversible_pairs(stage: Stage, count: int = 6) -> Image.Image | None:
    """Show Do-Undo training pairs of `data/mined`, with their short prompts; None where nothing was mined."""
    pairs = spread(_reversible_pairs(stage, "train"), count)
    if not pairs:
        return None
    columns = {"start": [pair.start for pair in pairs], "end": [pair.end for pair in pairs]}
    return contact_sheet(columns, [f"{pair.forward_short} / {pair.reverse_short}" for pair in pairs])


def predicted_actions(stage: Stage, pool: int = 40, count: int = 3) -> Image.Image:
    """Show pairs that the first chain's IDM names right and pairs that it names wrong, out of `pool` held-out ones."""
    items = spread(load_bench(stage.data("aurora")), pool)
    model = load_model(stage.reference("models/idm"), "idp", device=stage.device)
    said = model.predict([item.source for item in items], [item.target for item in items])
    answers = [(item, text.strip()) for item, text in zip(items, said, strict=True)]
    right = [answer for answer in answers if answer[0].action == answer[1]]
    wrong = [answer for answer in answers if answer[0].action != answer[1]]
    shown = [*spread(right, count), *spread(wrong, count)]
    columns = {"source": [item.source for item, _ in shown], "target": [item.target for item, _ in shown]}
    return contact_sheet(columns, [f"true: {item.action}; predicted: {text}" for item, text in shown])


def labelled_pairs(stage: Stage, count: int = 6) -> Image.Image | None:
    """Show the first chain's selected pairs with the IDM's labels, wrong ones marked where the truth is known."""
    rows = spread(read_annotated(member(stage.path("data/annotated"), stage.chains[0])), count)
    if not rows:
        return None
    captions = [
        row["action"] + (f" (true: {row['true_action']})" if row["true_action"] not in ("", row["action"]) else "")
        for row in rows
    ]
    return contact_sheet({end: [row[end] for row in rows] for end in ("source", "target")}, captions)


def next_images(stage: Stage, count: int = 5) -> Image.Image:
    """Show what the first chain's base and arms draw as the next image of the same held-out items."""
    items = spread(load_bench(stage.data("aurora")), count)
    columns = {"source": [item.source for item in items], "target": [item.target for item in items]}
    models: dict[str, str | Path] = {"zero-shot": stage.reference(stage.params.base)}
    for arm, chain, folder in runs_in(stage.path("models/fdm")):
        if chain == stage.chains[0]:
            models[arm] = folder
    for name, path in models.items():
        images, _ = generate(load_model(path, "fdp", device=stage.device), items, 1, stage.seed)
        columns[name.replace("_", "\n")] = [candidates[0] for candidates in images]
    return contact_sheet(columns, [item.action for item in items])


def done_and_undone(stage: Stage, count: int = 4) -> Image.Image | None:
    """Show held-out pairs under the first chain's variants: the action done, then undone from the generated image."""
    pairs = spread(_reversible_pairs(stage, "test"), count)
    if not pairs:
        return None
    columns = {"start": [pair.start for pair in pairs], "end": [pair.end for pair in pairs]}
    for variant in stage.params.variants:
        editor = load_editor(stage.path("models/doundo") / run_name(variant, stage.chains[0]), device=stage.device)
        done, undone = do_and_undo(editor, pairs, reverse_from="generated", seed=stage.seed)
        columns |= {f"{variant}: do": list(done), f"{variant}: undo": list(undone)}
    return contact_sheet(columns, [pair.forward_short for pair in pairs])


def verified_candidates(stage: Stage, count: int = 3) -> Image.Image:
    """Show a first-chain FDM's candidates of a few items, each with the IDM's log-likelihood, its choice marked."""
    first, folders = stage.chains[0], {run[:2]: run[2] for run in runs_in(stage.path("models/fdm"))}
    folder = folders[stage.params.arms[0], first]
    forward = load_model(folder, "fdp", device=stage.device)
    inverse = load_model(stage.reference("models/idm", first), "idp", device=stage.device)
    items = spread(load_bench(stage.data("aurora")), count)
    k = max(stage.params.candidates)
    images, _ = generate(forward, items, k, sampling_seed(stage.seed, "candidates", first))
    rewards = torch.stack([
        inverse.log_likelihood([item.source] * k, list(row), [item.action] * k)
        for item, row in zip(items, images, strict=True)
    ])  # (N, K)  # fmt: skip
    columns: dict[str, Sequence] = {
        "source": [item.source for item in items],
        "target": [item.target for item in items],
    }
    notes = {}
    for candidate in range(k):
        head = f"candidate {candidate + 1}"
        columns[head] = [row[candidate] for row in images]
        marks = ["chosen: " if int(row.argmax()) == candidate else "" for row in rewards]
        notes[head] = [f"{mark}{float(row[candidate]):.2f}" for mark, row in zip(marks, rewards, strict=True)]
    return contact_sheet(columns, [item.action for item in items], notes)


def evaluated_examples(stage: Stage, name: str, count: int = 5) -> Image.Image | None:
    """Show examples of a gallery that this stage, an evaluation, has written; None where it was left out.

    Args:
        name: file of `data/generated/<stage>`, such as `fdm_examples` or `doundo_examples`.
    """
    path = stage.path(f"data/generated/{stage.name}/{name}.npz")
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        places = spread(range(len(arrays["captions"])), count)
        columns = {key.replace("_", "\n"): list(arrays[key][places]) for key in arrays.files if arrays[key].ndim == 4}
        return contact_sheet(columns, [str(caption) for caption in arrays["captions"][places]])


def _reversible_pairs(stage: Stage, split: str) -> list[ReversiblePair]:
    return load_pairs(stage.path(f"data/mined/doundo_{split}.json"), stage.data("epic") / "frames")
