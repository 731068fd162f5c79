"""The key-frame half of stage `mining`: which clips, by which settings, resumed from where."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from visdyn.compute.rows import Execution
from visdyn.datasets.clips import find_clips, sample_clips
from visdyn.mining.clip_mining import ClipSettings, MinedClips, mine_clips
from visdyn.mining.keyframes import SettledRange
from visdyn.mining.mined_files import write_pairs
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine

# A row depends on these files too: state that other code left is not continued.
CODE = ("mining/clip_mining.py", "mining/keyframes.py", "mining/flow_profile.py", "datasets/clips.py")


def mine_stage(
    stage: Stage, settled: Mapping[tuple[str, str, str], Sequence[SettledRange]] | None, quarantine: Quarantine
) -> MinedClips:
    """Mine the profile's clips as `stage.params` says and write the chosen mode's pairs to `data/mined`.

    What is done is kept in the stage's scratch folder until the stage succeeds, whatever else of its parameters
    changes meanwhile. Where `data.clips` is empty nothing is mined, and empty lists are written.

    Args:
        settled: known settled ranges of clips, to count clean pairs; None for real data.
    """
    params = stage.params
    selection = (params.top_k, params.min_interval, params.modes, params.flow)
    settings = ClipSettings(*selection, params.frame_rate, params.mode, params.flow_size)
    clips = find_clips(stage.data("clips"), quarantine) if stage.settings.data.clips else []
    work = stage.path(f".visdyn/scratch/{stage.name}") / f"clips-{_digest_of_code()}"
    runtime = stage.settings.runtime
    execution = Execution(params.executor, 0, params.clip_timeout, log=stage.log, log_seconds=runtime.log_seconds)
    chosen = sample_clips(clips, params.clips_per_dataset, stage.seed)
    images = work / f"images-{settings.digest}"
    mined = mine_clips(chosen, settings, settled, quarantine, images, work / "shards", execution)
    write_pairs(mined, params.mode, images, stage.path("data/mined"))
    return mined


def _digest_of_code() -> str:
    package = Path(__file__).resolve().parents[1]
    return hashlib.sha256(b"".join((package / name).read_bytes() for name in CODE)).hexdigest()[:8]
