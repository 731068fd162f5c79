"""The images of Do-Undo that figures show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.systems.outputs import SystemImages
from visdyn.models.editors.protocol import Request
from visdyn.pipeline.stage import Stage
from visdyn.stages.evaluation.galleries import OTHERS, Gallery, pictures, spread_rows


def doundo_galleries(
    stage: Stage, evaluation: EditingEvaluation, systems: Sequence[SystemImages], scores: pd.DataFrame
) -> dict[str, Gallery]:
    """Return the first chain's strips of Do-Undo's Figures 6, 8, 11 to 14; `scores` is what `score_doundo` returned."""
    shown = _shown_editors(stage, systems)
    complete = [row for row in range(len(evaluation.pairs))
                if all(pair[half][row] is not None for pair in shown.values() for half in (0, 1))]  # fmt: skip
    if not shown or not complete:
        return {}
    size, everything = stage.params.gallery, np.array(complete)
    known = evaluation.familiarity or [""] * len(evaluation.pairs)
    familiarity = np.array([known[row] for row in complete])
    others = np.setdiff1d(everything, everything[spread_rows(len(everything), size)])  # not among the examples
    rows = {
        "doundo_examples": everything,
        "doundo_more": others if len(others) else everything,
        "doundo_rare": everything[familiarity == "rare"],
        "doundo_unseen": everything[familiarity == "unseen"],
        "doundo_judged": everything if scores["metric"].isin(["editing_success"]).any() else everything[:0],
        "doundo_metrics": everything[2:],
    }
    return {
        name: _strip(stage, evaluation, shown, scores, chosen[spread_rows(len(chosen), size)], name)
        for name, chosen in rows.items()
        if len(chosen)
    }


def _shown_editors(stage: Stage, systems: Sequence[SystemImages]) -> dict[tuple[str, int, str, str], tuple]:
    """Return (system, chain, prompt, reverse_from) -> images done and undone, from the generated where there are."""
    shown = {}
    own = [(name, stage.chains[0]) for name in ("base", *stage.settings.doundo.variants)]
    by_name = {(one.name, one.chain): one for one in systems}
    others = [(one.name, one.chain) for one in systems if one.origin in OTHERS]
    for key in [*own, *others]:
        images = by_name[key].images if key in by_name else {}
        for prompt, source in ((p, s) for p in stage.params.prompts for s in ("generated", "gt")):
            done, undone = images.get(Request(prompt)), images.get(Request(prompt, "reverse", source))
            if done and undone and any(done) and any(undone):
                shown[*key, prompt, source] = done, undone
                break
    return shown


def _strip(
    stage: Stage, evaluation: EditingEvaluation, shown: dict, scores: pd.DataFrame, rows: np.ndarray, name: str
) -> Gallery:
    pairs = [evaluation.pairs[row] for row in rows]
    gallery = {"source": pictures([pair.start for pair in pairs]), "target": pictures([pair.end for pair in pairs])}
    gallery["captions"] = np.array([pair.forward_short or pair.narration for pair in pairs])
    if name == "doundo_metrics":  # one system: the paper's figure has rows of numbers, not columns of systems
        shown = _keep_reference(shown, stage.params.reference)
    for (system, chain, prompt, source), (done, undone) in shown.items():
        gallery[f"{system}_forward"] = pictures([done[row] for row in rows])
        gallery[f"{system}_reverse"] = pictures([undone[row] for row in rows])
        if name in ("doundo_judged", "doundo_metrics"):
            own = scores[(scores["system"] == system) & (scores["chain"] == chain) & (scores["prompt"] == prompt)]
            own = own[own["reverse_from"].isin(["", source])]
            gallery |= _write_texts(own, system, [pair.id for pair in pairs], _SHOWN[name])
        if name == "doundo_metrics":
            gallery |= _draw_flows(evaluation, system, rows, [done[row] for row in rows], [undone[row] for row in rows])
    return gallery


# Strip -> direction -> metric -> its label below the image.
_SHOWN = {
    "doundo_judged": {direction: {"editing_success": "ES", "minimal_editing": "ME"}
                      for direction in ("forward", "reverse")},
    "doundo_metrics": {
        "forward": {"dino": "DINO-F", "clip_t": "CLIP-T-F", "of_f": "OF-F"},
        "reverse": {"dino": "DINO-R", "clip_t": "CLIP-T-R", "epe": "EPE"},
    },
}  # fmt: skip


def _keep_reference(shown: dict, reference: str) -> dict:
    """Return the images of the system that others are compared with, of the last shown where it has none."""
    own = [key for key in shown if key[0] == reference] or list(shown)[-1:]
    return {key: shown[key] for key in own[:1]}


def _write_texts(scores: pd.DataFrame, system: str, ids: list[str], shown: dict[str, dict[str, str]]) -> Gallery:
    """Return the line below each image: metrics of its direction, those that have a value."""
    texts = {}
    for direction, labels in shown.items():
        own = scores[(scores["direction"] == direction) & scores["metric"].isin(labels)].dropna(subset=["value"])
        values = own.set_index(["id", "metric"])["value"].to_dict()
        lines = [
            ", ".join(
                f"{label} {values[row, metric]:.3g}" for metric, label in labels.items() if (row, metric) in values
            )
            for row in ids
        ]
        texts[f"{system}_{direction}_text"] = np.array(lines)
    return texts


def _draw_flows(evaluation: EditingEvaluation, system: str, rows: np.ndarray, done: list, undone: list) -> Gallery:
    """Return what the flow metrics measure, as pictures: OF-F and OF-R, and the difference whose length is EPE.

    OF-F is the flow from the true end to the image done, OF-R that from the start to the image undone; both are
    interpretations, as the metrics are (`visdyn.evaluation.metrics.optical_flow`). All maps share one scale, and each
    has its mean length below it, which for OF-F and EPE is the metric.
    """
    starts, ends = ([images[row] for row in rows] for images in (evaluation.starts, evaluation.ends))
    flow = evaluation.flow_between
    drawn = {
        "of_f": [flow(end, image) for end, image in zip(ends, done, strict=True)],
        "of_r": [flow(start, image) for start, image in zip(starts, undone, strict=True)],
        "epe": [flow(start, image) - flow(back, image)
                for start, image, back in zip(starts, done, undone, strict=True)],
    }  # fmt: skip
    lengths = {name: [np.linalg.norm(one, axis=-1) for one in flows] for name, flows in drawn.items()}  # (H, W) each
    # The longest hundredth of some map has its whole colour: a few stray vectors do not pale the rest.
    longest = max(float(np.quantile(length, 0.99)) for each in lengths.values() for length in each)
    maps = {f"{system}_{name}": pictures([draw_flow(one, longest) for one in flows]) for name, flows in drawn.items()}
    return maps | {f"{system}_{name}_text": np.array([f"mean {length.mean():.3g} px" for length in each])
                   for name, each in lengths.items()}  # fmt: skip


def draw_flow(flow: np.ndarray, longest: float) -> np.ndarray:
    """Return a flow (H, W, 2) as colours, uint8 (H, W, 3): hue is direction, saturation length, no flow is white.

    Args:
        longest: length in pixels from which on a vector has its whole colour.
    """
    angle = np.arctan2(flow[..., 1], flow[..., 0])  # (H, W)
    length = np.linalg.norm(flow, axis=-1) / max(longest, 1e-6)
    hue, saturation = (angle / (2 * np.pi) % 1) * 255, np.minimum(length, 1) * 255
    parts = np.stack([hue, saturation, np.full_like(hue, 255)], axis=-1).round().astype(np.uint8)
    return np.asarray(Image.fromarray(parts, "HSV").convert("RGB"))
