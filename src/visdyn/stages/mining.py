"""Stage `mining`: key-frame pairs of unlabelled clips, and reversible segments of EPIC-KITCHENS with their prompts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from visdyn.compute.executor import chosen_executor
from visdyn.compute.gpus import count_places
from visdyn.compute.rows import Execution
from visdyn.datasets.clips import find_clips, sample_clips
from visdyn.datasets.doundo_bench import dump
from visdyn.datasets.epic_kitchens import ERRATUM_VIDEOS, load_segments
from visdyn.kitchen.truth import open_truth
from visdyn.mining.balanced_test import balance_table, select_test
from visdyn.mining.clip_mining import ClipSettings, MinedClips, mine_clips
from visdyn.mining.curation import AnnotationCurator, Curator, VLMCurator, curate
from visdyn.mining.mined_files import prompt_lengths, write_pairs
from visdyn.mining.reversible import mine_pairs, statistics
from visdyn.models.understanding.chat import TransformersVLM
from visdyn.models.understanding.chat_cache import CachedVLM
from visdyn.models.understanding.spread import SpreadVLM
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine, SetAsideError
from visdyn.trajectory import ReversiblePair

# Mined clips depend on these files too: state that other code left is not continued.
CODE = ("mining/clip_mining.py", "mining/keyframes.py", "mining/clip_motion.py", "datasets/clips.py")
ANNOTATIONS = "annotations"
SOURCE_FILES = {"train": "EPIC_100_train.csv", "test": "EPIC_100_validation.csv"}


def mine_key_frames(stage: Stage, quarantine: Quarantine) -> MinedClips:
    """Mine the profile's clips and write the pairs of the chosen mode to `data/mined`.

    Finished clips are kept in the stage's scratch folder until the stage succeeds, also when other parameters of it
    change meanwhile. Where `data.clips` is empty nothing is mined, and empty lists are written. The known settled
    ranges of clips, where there are any, serve to count clean pairs only.
    """
    params = stage.params
    selection = (params.top_k, params.min_interval, params.modes, params.flow)
    settings = ClipSettings(*selection, params.frame_rate, params.mode, params.flow_size, params.first_pass)
    clips = find_clips(stage.data("clips"), quarantine) if stage.settings.data.clips else []
    package = Path(__file__).resolve().parents[1]
    code = hashlib.sha256(b"".join((package / name).read_bytes() for name in CODE)).hexdigest()[:8]
    work = stage.path(f".visdyn/scratch/{stage.name}") / f"clips-{code}"
    runtime = stage.settings.runtime
    execution = Execution(chosen_executor(), 0, params.clip_timeout, log=stage.log, log_seconds=runtime.log_seconds)
    chosen = sample_clips(clips, params.clips_per_dataset, stage.seed)
    images = work / f"images-{settings.digest}"
    settled = open_truth(stage.kitchen).settled_ranges()
    mined = mine_clips(chosen, settings, settled, quarantine, images, work / "shards", execution)
    if len(mined.lengths) and not any(pair.mode == params.mode for pair in mined.pairs):
        raise SetAsideError(
            f"none of {len(mined.lengths)} clips gives a pair of key-frames by mode {params.mode}; lower "
            f"mining.min_interval ({params.min_interval})"
        )
    write_pairs(mined, params.mode, images, stage.path("data/mined"))
    return mined


@dataclass(frozen=True)
class DoUndoSplit:
    """The Do-Undo data of one split.

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


def mine_reversible(stage: Stage, split: str, quarantine: Quarantine) -> DoUndoSplit:
    """Mine, curate and write one split; EPIC's training and validation annotations are Do-Undo's train and test.

    Segments of the two videos whose published frames are wrong are set aside. Training pairs have the verbs of the
    vocabulary only; those that test generalisation (Figure 13) occur in the test set alone. What undoes one of those
    is one of those, so that no training pair shows it either way.

    Args:
        split: `train` or `test`.
        quarantine: takes segments that cannot be read, lack frames, fail the filter, or whose answers cannot be used.
    """
    params, kitchen = stage.params, stage.kitchen is not None
    segments = load_segments(stage.data("epic") / SOURCE_FILES[split], quarantine)
    mined = mine_pairs(segments, params.vocabulary, split == "test", "" if kitchen else "the")
    usable = []
    for pair in mined:
        if pair.segment.video_id in ERRATUM_VIDEOS:
            reason = f"the published frames of video {pair.segment.video_id} are wrong (errata)"
            quarantine.add(pair.segment.narration_id, reason, unfit=True)
        else:
            usable.append(pair)
    curator, frames = open_curator(stage, split), stage.data("epic") / "frames"

    def log_progress(line: str) -> None:
        if params.curator != ANNOTATIONS:  # reading annotations takes no time
            with stage.log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    batch = params.vlm_batch * count_places(stage.device)  # a batch a model
    curated = curate(usable, frames, curator, quarantine, batch=batch, told=log_progress)
    if not curated:
        raise SetAsideError(
            f"none of {len(segments)} segments of {SOURCE_FILES[split]} gives a reversible pair: {len(mined)} have a "
            f"verb of vocabulary {params.vocabulary}; {quarantine.summary()}"
        )
    balance_rule = params.test_split if split == "test" else "all"
    chosen = select_test(curated, balance_rule, params.test_per_verb, stage.seed)
    dump(chosen, stage.path(f"data/mined/doundo_{split}.json"), segments)
    source = f"{'kitchen' if kitchen else 'epic-100'}-{split}"
    counts = statistics(segments, mined).assign(source=source)
    verbs = [pair.verb for pair in mined]
    balance = balance_table(verbs, curated, chosen, balance_rule, params.test_per_verb).assign(source=source)
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
    models, places = {}, count_places(stage.device)
    for name in dict.fromkeys(names):
        vlm = TransformersVLM(stage.reference(name), device=stage.device, batch_size=params.vlm_batch)
        if places > 1:
            vlm = SpreadVLM(vlm, places)
        models[name] = CachedVLM(vlm, stage.path(".visdyn/answers") / f"{name.replace('/', '--')}.sqlite")
    return VLMCurator(models[names[0]], models[names[1]])
