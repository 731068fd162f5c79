"""From mined segments to benchmark pairs: quality filter and prompt expansion by a VLM (Do-Undo, section 3.1).

The paper asks a Qwen-VL three questions about the start and end frame, each to be answered 0 or 1, and lets it write
a long prompt from five frames and the annotation; the reverse prompt comes from the same instructions with the frames
in reversed order. None of its prompt texts is public: those in `prompts` below are reconstructed, in our own words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from visdyn.datasets import doundo_bench
from visdyn.datasets.bad_items import collecting
from visdyn.datasets.epic_kitchens import FrameError, segment_frames
from visdyn.images import ImageError, ImageRef
from visdyn.mining import curation_prompts as prompts
from visdyn.mining.reversible import MinedPair
from visdyn.quarantine import Quarantine
from visdyn.trajectory import ReversiblePair

NUM_FRAMES = 5
MIN_WORDS, MAX_WORDS = 5, 300


class CurationError(ValueError):
    """A model's answer cannot be used; the message says why and quotes its beginning."""


class VisionLanguageModel(Protocol):
    """All that curation asks of a model. `name` goes into the cache's keys."""

    name: str

    def answer(self, images: Sequence[ImageRef], prompt: str) -> str:
        """Return the model's text for images, in order, followed by a prompt."""
        ...


class Curator(Protocol):
    """Decides on a mined pair and writes its long prompts."""

    def quality(self, pair: MinedPair, frames: Sequence[ImageRef]) -> Quality:
        """Judge the pair by its first and last frame."""
        ...

    def expand(self, pair: MinedPair, frames: Sequence[ImageRef]) -> tuple[str, str]:
        """Return the long forward and reverse prompt, written from the frames in time order."""
        ...


@dataclass(frozen=True)
class Quality:
    """The filter's three answers: frames clear, object in both, action carried out from start to end."""

    clear: bool
    object_present: bool
    action_applied: bool

    @property
    def passed(self) -> bool:
        """Whether all three are 1, as a pair needs."""
        return self.clear and self.object_present and self.action_applied

    def failures(self) -> str:
        """Name the questions answered 0."""
        return ", ".join(field.name for field in fields(self) if not getattr(self, field.name))


def parse_quality(text: str) -> Quality:
    """Read the three 0/1 answers: lines `name: 0` or `name: 1`, or JSON with these keys; fences are allowed.

    Raises:
        CurationError: an answer is missing, is neither 0 nor 1, or is given twice with different values.
    """
    answers = {}
    for field in fields(Quality):
        found = set(re.findall(rf"\b{field.name}\b[\"'*]*\s*[:=]\s*[\"'*]*\s*([^\s,}}\"'*]+)", text, re.IGNORECASE))
        values = {value.rstrip(".;") for value in found}
        if len(values) != 1 or not values <= {"0", "1"}:
            raise CurationError(f"the quality answer has no single 0 or 1 for {field.name}: {_quoted(text)}")
        answers[field.name] = values == {"1"}
    return Quality(**answers)


def parse_expansion(text: str) -> str:
    """Return the one paragraph of a prompt expansion, without fences, quotes, labels or line breaks.

    Raises:
        CurationError: fewer than 5 or more than 300 words are left, or the model declined.
    """
    body = re.sub(r"```\w*", " ", text)
    body = re.sub(r"^\s*(prompt|forward|reverse)(\s+prompt)?\s*:\s*", "", body, flags=re.IGNORECASE)
    body = " ".join(body.split()).strip("\"'“”[] ").strip()
    count = len(body.split())
    if not MIN_WORDS <= count <= MAX_WORDS:
        raise CurationError(f"the expanded prompt has {count} words, not {MIN_WORDS} to {MAX_WORDS}: {_quoted(text)}")
    if re.match(r"(i'?m sorry|sorry|i cannot|i can't|as an ai)\b", body.replace("’", "'"), re.IGNORECASE):
        raise CurationError(f"the model declined to write a prompt: {_quoted(text)}")
    return body


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "...")


@dataclass(frozen=True)
class VLMCurator:
    """Curates with a vision-language model; wrap it in `visdyn.mining.answer_cache.CachedVLM` to be resumable."""

    model: VisionLanguageModel

    def quality(self, pair: MinedPair, frames: Sequence[ImageRef]) -> Quality:
        """Ask the three questions about the first and last frame."""
        return parse_quality(self.model.answer([frames[0], frames[-1]], prompts.quality(pair.forward_short)))

    def expand(self, pair: MinedPair, frames: Sequence[ImageRef]) -> tuple[str, str]:
        """Ask for both prompts. The reverse one sees the frames backwards, and the inverse narration (our reading)."""
        forward = self.model.answer(list(frames), prompts.expansion(pair.forward_short))
        reverse = self.model.answer(list(frames)[::-1], prompts.expansion(pair.reverse_short))
        return parse_expansion(forward), parse_expansion(reverse)


@dataclass(frozen=True)
class AnnotationCurator:
    """Stand-in without a model: passes through the long prompts that come with the data (the kitchen's are templates).

    It judges nothing: every pair passes the filter. Say so wherever its results are shown.

    Attributes:
        prompts: narration id -> (forward prompt, reverse prompt).
    """

    prompts: dict[str, tuple[str, str]]

    @classmethod
    def from_files(cls, *json_paths: str | Path) -> AnnotationCurator:
        """Read the prompts of annotation files in the Do-Undo layout."""
        pairs = [pair for path in json_paths for pair in doundo_bench.load(path, ".", require_images=False)]
        return cls({pair.id: (pair.forward_prompt, pair.reverse_prompt) for pair in pairs})

    def quality(self, pair: MinedPair, frames: Sequence[ImageRef]) -> Quality:
        """Pass: the annotated data is taken to be clean."""
        return Quality(True, True, True)

    def expand(self, pair: MinedPair, frames: Sequence[ImageRef]) -> tuple[str, str]:
        """Return the prompts that came with the data.

        Raises:
            CurationError: they have none for this pair.
        """
        if pair.segment.narration_id not in self.prompts:
            raise CurationError("the annotation files have no long prompts for it")
        return self.prompts[pair.segment.narration_id]


def curate(
    pairs: Iterable[MinedPair],
    frames_root: str | Path,
    curator: Curator,
    quarantine: Quarantine | None = None,
    num_frames: int = NUM_FRAMES,
) -> list[ReversiblePair]:
    """Filter mined pairs and expand their prompts, in order.

    Pairs without frames, that fail the filter, or whose answers cannot be used go to the quarantine with the reason
    (a warning counts them where it is None).

    Args:
        frames_root: folder of `<participant>/rgb_frames/<video>/frame_%010d.jpg`.
        num_frames: frames that the expansion sees (the paper: five, temporally sampled).
    """
    kept = []
    with collecting(quarantine, "curation") as bad:
        for pair in pairs:
            try:
                kept.append(_curated(pair, frames_root, curator, num_frames))
            except (FrameError, ImageError, CurationError) as error:
                bad.add(pair.segment.narration_id, str(error))
    return kept


def _curated(pair: MinedPair, frames_root: str | Path, curator: Curator, num_frames: int) -> ReversiblePair:
    frames = segment_frames(frames_root, pair.segment, num_frames)
    quality = curator.quality(pair, frames)
    if not quality.passed:
        raise CurationError(f"fails the quality filter: {quality.failures()}")
    forward, reverse = curator.expand(pair, frames)
    return ReversiblePair(
        start=frames[0],
        end=frames[-1],
        forward_prompt=forward,
        reverse_prompt=reverse,
        forward_short=pair.forward_short,
        reverse_short=pair.reverse_short,
        narration=pair.segment.narration.strip(),
        verb=pair.verb,
        noun=pair.segment.noun,
        id=pair.segment.narration_id,
    )
