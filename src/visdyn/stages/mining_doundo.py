"""From EPIC-KITCHENS segments to the Do-Undo data of one split, as the parameters of stage `mining` say."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from visdyn.datasets.doundo_bench import dump
from visdyn.datasets.epic_kitchens import ERRATUM_VIDEOS, Segment, load_segments
from visdyn.mining.balanced_test import balance_table, select_test
from visdyn.mining.curation import AnnotationCurator, Curator, VLMCurator, curate
from visdyn.mining.mined_files import prompt_lengths
from visdyn.mining.reversible import mine_pairs, statistics
from visdyn.models.understanding.chat import TransformersVLM
from visdyn.models.understanding.chat_cache import CachedVLM
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine
from visdyn.trajectory import ReversiblePair

ANNOTATIONS = "annotations"
SOURCE_FILES = {"train": "EPIC_100_train.csv", "test": "EPIC_100_validation.csv"}


@dataclass(frozen=True)
class DoUndoSplit:
    """What one split holds.

    Attributes:
        pairs: the pairs that were written to `data/mined/doundo_<split>.json`.
        counts: reversible segments by verb and noun, before the quality filter (mining/segments.csv).
        lengths: prompts by their number of words (mining/prompts.csv).
        balance: how the pairs were chosen, by verb (mining/test_split.csv).
    """

    pairs: list[ReversiblePair]
    counts: pd.DataFrame
    lengths: pd.DataFrame
    balance: pd.DataFrame


def mine_split(stage: Stage, split: str, quarantine: Quarantine) -> DoUndoSplit:
    """Mine, curate and write one split; EPIC's training and validation annotations are Do-Undo's train and test.

    Segments of the two videos whose published frames are wrong are set aside. Real training pairs have the verbs of
    the vocabulary only; those that test generalisation occur in the test set alone (in the kitchen in both).

    Args:
        split: `train` or `test`.
        quarantine: takes segments without frames, that fail the filter, or whose answers cannot be used.
    """
    params, kitchen = stage.params, stage.kitchen is not None
    segments = load_segments(stage.data("epic") / SOURCE_FILES[split])
    mined = mine_pairs(segments, params.vocabulary, kitchen or split == "test", "" if kitchen else "the")
    sound = [pair for pair in mined if _sound(pair.segment, quarantine)]
    curator = open_curator(stage, split)
    frames = stage.data("epic") / "frames"
    curated = curate(sound, frames, curator, quarantine, batch=params.vlm_batch, told=_teller(stage))
    chosen = select_test(curated, params.test_split if split == "test" else "all", params.test_per_verb, stage.seed)
    dump(chosen, stage.path(f"data/mined/doundo_{split}.json"), segments)
    source = f"{'kitchen' if kitchen else 'epic-100'}-{split}"
    counts = statistics(segments, mined).assign(source=source)
    verbs = [pair.verb for pair in mined]
    wanted = params.test_split if split == "test" else "all"
    balance = balance_table(verbs, curated, chosen, wanted, params.test_per_verb).assign(source=source)
    lengths = prompt_lengths(chosen, source, split)
    return DoUndoSplit(chosen, counts[["source", "verb", "noun", "count", "reversible_share"]], lengths, balance)


def open_curator(stage: Stage, split: str) -> Curator:
    """Return the curator that `mining.curator` names, its answers kept in the profile's `.visdyn/answers`.

    Raises:
        DatasetError: the data bring no long prompts (curator `annotations`); name a VLM.
    """
    params = stage.params
    if params.curator == ANNOTATIONS:
        return AnnotationCurator.from_files(stage.data("doundo") / f"annotations_{split}.json")
    names = (params.filter_model or params.curator, params.expansion_model or params.curator)
    models = {name: _vlm(stage, name) for name in dict.fromkeys(names)}
    return VLMCurator(models[names[0]], models[names[1]])


def _vlm(stage: Stage, name: str) -> CachedVLM:
    vlm = TransformersVLM(stage.reference(name), device=stage.device, batch_size=stage.params.vlm_batch)
    return CachedVLM(vlm, stage.path(".visdyn/answers") / f"{name.replace('/', '--')}.jsonl")


def _sound(segment: Segment, quarantine: Quarantine) -> bool:
    if segment.video_id not in ERRATUM_VIDEOS:
        return True
    quarantine.add(segment.narration_id, f"the published frames of video {segment.video_id} are wrong (errata)")
    return False


def _teller(stage: Stage):
    def tell(line: str) -> None:
        if stage.params.curator != ANNOTATIONS:
            with stage.log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    return tell
