"""The images of Do-Undo that figures show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

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
    rows = {
        "doundo_examples": everything,
        "doundo_more": everything[1:],
        "doundo_rare": everything[familiarity == "rare"],
        "doundo_unseen": everything[familiarity == "unseen"],
        "doundo_judged": everything if scores["metric"].isin(["editing_success"]).any() else everything[:0],
        "doundo_metrics": everything[2:],
    }
    return {
        name: _strip(evaluation, shown, scores, chosen[spread_rows(len(chosen), size)], name)
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


def _strip(evaluation: EditingEvaluation, shown: dict, scores: pd.DataFrame, rows: np.ndarray, name: str) -> Gallery:
    pairs = [evaluation.pairs[row] for row in rows]
    gallery = {"source": pictures([pair.start for pair in pairs]), "target": pictures([pair.end for pair in pairs])}
    gallery["captions"] = np.array([pair.forward_short or pair.narration for pair in pairs])
    for (system, chain, prompt, source), (done, undone) in shown.items():
        gallery[f"{system}_forward"] = pictures([done[row] for row in rows])
        gallery[f"{system}_reverse"] = pictures([undone[row] for row in rows])
        if name in ("doundo_judged", "doundo_metrics"):
            own = scores[(scores["system"] == system) & (scores["chain"] == chain) & (scores["prompt"] == prompt)]
            own = own[own["reverse_from"].isin(["", source])]
            gallery |= _texts(own, system, [pair.id for pair in pairs], name)
    return gallery


def _texts(scores: pd.DataFrame, system: str, ids: list[str], name: str) -> Gallery:
    """Return the line below each image: the judge's two scores, or the similarity metrics."""
    shown = ("editing_success", "minimal_editing") if name == "doundo_judged" else ("dino", "l1")
    shown_rows = scores[scores["metric"].isin(shown)]
    values = shown_rows.pivot(index=["direction", "id"], columns="metric", values="value")
    texts = {}
    for direction in ("forward", "reverse"):
        lines = [
            " ".join(
                f"{label} {values.loc[(direction, row), key]:.2g}"
                for label, key in zip(_LABELS[shown], shown, strict=True)
            )
            for row in ids
        ]
        texts[f"{system}_{direction}_text"] = np.array(lines)
    return texts


_LABELS = {("editing_success", "minimal_editing"): ("ES", "ME"), ("dino", "l1"): ("DINO", "L1")}
